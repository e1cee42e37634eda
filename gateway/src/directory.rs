//! Who people are, and what they may do with a document.
//!
//! In: the claims of a verified token; document and user ids. Out: a [`document::User`], a [`document::Role`]. Answers
//! come from the application's keys in the store, from the token where the gateway runs alone or is told to trust it,
//! and from memory for demo users, who leave no key anywhere.

use std::{sync::Arc, time::Duration};

use document::{Role, User};
use serde::Deserialize;

use crate::{
    auth::{Claims, DEMO_PREFIX},
    store::{Store, StoreError},
};

/// A pod relies on what it read of a user for this long.
const USER_LIFE: Duration = Duration::from_secs(60);
/// Users in the cache; a user costs some 200 bytes.
const USERS_MAX: u64 = 50_000;
/// Names are shown beside cursors: the rest of a longer one is cut.
const NAME_CHARACTERS_MAX: usize = 200;
/// A longer link is dropped.
const AVATAR_BYTES_MAX: usize = 2048;

/// Why there is no user.
#[derive(Debug, thiserror::Error)]
pub enum NoUser {
    /// The directory does not know the id: a statement about the user.
    #[error("the directory does not know the user")]
    Unknown,
    /// Nobody could be asked: a statement about the cluster, never told to the client as a refusal.
    #[error(transparent)]
    Away(#[from] StoreError),
}

/// Shared by all connections; cheap to clone.
#[derive(Clone)]
pub struct Directory {
    store: Store,
    trust: Trust,
    demo: bool,
    users: moka::future::Cache<Arc<str>, User>,
}

/// Where names come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The application's keys in the store.
    Keys,
    /// The token's claims.
    Claims,
    /// The token's claims, and every token may write everything: the gateway runs alone.
    Everything,
}

impl Directory {
    /// A directory over a store; `demo` admits demo users to demo documents.
    pub fn new(store: Store, trust: Trust, demo: bool) -> Self {
        let users = moka::future::Cache::builder().max_capacity(USERS_MAX).time_to_live(USER_LIFE).build();
        Self { store, trust, demo, users }
    }

    /// The person behind a token.
    ///
    /// # Errors
    /// When the directory does not know the user, or cannot be asked.
    pub async fn user(&self, claims: &Claims) -> Result<User, NoUser> {
        if self.trust != Trust::Keys || (self.demo && claims.is_demo) {
            return Ok(from_claims(claims));
        }
        if let Some(user) = self.users.get(&claims.user_id).await {
            return Ok(user);
        }
        let stored = self.store.user(&claims.user_id).await?.ok_or(NoUser::Unknown)?;
        let user = from_key(&claims.user_id, &stored);
        self.users.insert(claims.user_id.clone(), user.clone()).await;
        Ok(user)
    }

    /// Whether roles can change at all.
    pub fn has_roles(&self) -> bool {
        self.trust != Trust::Everything
    }

    /// The application changed this user, or some user: what the pod remembers of it is not relied on any more.
    pub async fn forget(&self, user_id: Option<&str>) {
        match user_id {
            Some(id) => self.users.invalidate(id).await,
            None => self.users.invalidate_all(),
        }
    }

    /// Whether the directory still knows a user who signed in before.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn still_knows(&self, user_id: &str) -> Result<bool, StoreError> {
        if self.trust != Trust::Keys || (self.demo && user_id.starts_with(DEMO_PREFIX)) {
            return Ok(true);
        }
        Ok(self.store.user(user_id).await?.is_some())
    }

    /// What a user may do with a document; `None`: nothing, not even know that it is there.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn role(&self, document: &str, user: &str) -> Result<Option<Role>, StoreError> {
        if self.trust == Trust::Everything
            || (self.demo && document.starts_with(DEMO_PREFIX) && user.starts_with(DEMO_PREFIX))
        {
            return Ok(Some(Role::Write));
        }
        self.store.role(document, user).await
    }
}

#[derive(Deserialize)]
struct StoredUser {
    name: Option<String>,
    avatar: Option<String>,
}

/// A key that is not the JSON of the contract still proves that the user exists: the id serves as the name.
fn from_key(id: &Arc<str>, stored: &[u8]) -> User {
    let stored = serde_json::from_slice(stored).unwrap_or(StoredUser { name: None, avatar: None });
    user(id, stored.name, stored.avatar)
}

fn from_claims(claims: &Claims) -> User {
    user(&claims.user_id, claims.name.clone(), claims.avatar.clone())
}

fn user(id: &Arc<str>, name: Option<String>, avatar: Option<String>) -> User {
    let name: Arc<str> = match name.filter(|name| !name.trim().is_empty()) {
        Some(name) => name.chars().take(NAME_CHARACTERS_MAX).collect::<String>().into(),
        None => id.clone(),
    };
    let avatar = avatar.filter(|avatar| avatar.len() <= AVATAR_BYTES_MAX).map(Into::into);
    User { id: id.clone(), name, avatar }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::from_key;

    #[test]
    fn a_user_without_a_usable_name_is_called_by_the_id() {
        let id: Arc<str> = "u1".into();
        for stored in [&b"not json"[..], b"{}", br#"{"name":"  "}"#, br#"{"name":null}"#] {
            assert_eq!(&*from_key(&id, stored).name, "u1");
        }
        assert_eq!(&*from_key(&id, br#"{"id":"u1","name":"Ann","avatar":"a.png"}"#).name, "Ann");
    }
}
