//! Who people are, and what they may do with a document.
//!
//! In: the claims of a verified token; document and user ids. Out: a [`document::User`], a [`document::Role`]. Answers
//! come from the application's keys in the store, from the token where the gateway runs alone or is told to trust it,
//! and from memory for demo users, who leave no key anywhere. Webhooks of the application answer for keys that are not there.

mod memory;
mod shared;
mod webhook;
mod word;

use std::{sync::Arc, time::Duration};

use document::{Role, User};
use futures_util::FutureExt;
use hyper::Uri;
use protocol::Change;
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

pub(crate) use self::word::{ANYTHING_MAX, Word};
use self::{
    memory::{Ask, Asked, Memory, Question, Wish},
    shared::Shared,
    webhook::{Hook, ToldUser, Webhook},
};
use crate::{
    auth::{Claims, DEMO_PREFIX},
    clock::unix_ms,
    http_client::HttpClient,
    metrics::Metrics,
    store::{Store, StoreError},
};

/// Users that are remembered; one costs some 300 bytes.
const USERS_MAX: usize = 50_000;
/// Roles that are remembered; one costs some 200 bytes.
const ROLES_MAX: usize = 100_000;
/// Whoever creates a user or grants an access may not say so: a no of a webhook is asked for again after this time.
const FRESH_NO: Duration = Duration::from_secs(5);
/// Answers that were given and turned out to be old; more are dropped, and the minute's re-read finds them.
const NEWS_MAX: usize = 1024;
/// With a webhook to ask, a store that is slower than this is passed over.
const STORE_PATIENCE: Duration = Duration::from_secs(1);
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

/// Where names and roles come from if not from webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The application's keys in the store.
    Keys,
    /// Names from the token's claims, roles from the application's keys.
    Claims,
    /// The token's claims, and every token may write everything: the gateway runs alone.
    Everything,
}

/// The application's webhooks.
#[derive(Debug, Clone, Default)]
pub struct Urls {
    /// `GET <url>/users/<id>`, for users who have no key.
    pub users: Option<Uri>,
    /// `GET <url>/documents/<id>/access/<userId>`, in place of keys.
    pub access: Option<Uri>,
}

/// Shared by all connections; cheap to clone.
#[derive(Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    trust: Trust,
    /// Nobody is asked who people are.
    by_claims: bool,
    demo: bool,
    users: Memory<User>,
    ask_user: AskUser,
    shared: Arc<Shared>,
    /// Whether anything is kept there.
    is_shared: bool,
    /// Where there is a webhook.
    roles: Option<(Memory<Role>, Arc<Webhook>)>,
    news: mpsc::Sender<Change>,
}

/// Makes the question to the directory about one user.
type AskUser = Box<dyn Fn(&Arc<str>) -> Ask<User> + Send + Sync>;

impl Directory {
    /// A directory over a store; `demo` admits demo users to demo documents. The receiver tells what was given from
    /// memory and turned out to be old.
    ///
    /// # Errors
    /// When this build cannot make requests, which would be a bug.
    pub fn new(
        store: Store,
        trust: Trust,
        demo: bool,
        urls: &Urls,
        metrics: &Metrics,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Change>)> {
        let client = match urls {
            Urls { users: None, access: None } => None,
            Urls { .. } => Some(HttpClient::new()?),
        };
        let webhook = |hook, url: &Option<Uri>| {
            let webhook = |(url, client)| Arc::new(Webhook::new(hook, url, client, metrics.clone()));
            url.as_ref().zip(client.clone()).map(webhook)
        };
        let shared = Arc::new(Shared::new(store.clone()));
        let ask_user: AskUser = match webhook(Hook::Users, &urls.users) {
            Some(webhook) => {
                let (store, shared) = (store.clone(), Arc::clone(&shared));
                Box::new(move |id| {
                    let (id, store) = (Arc::clone(id), store.clone());
                    let (webhook, shared) = (Arc::clone(&webhook), Arc::clone(&shared));
                    Arc::new(move |wish| {
                        let (webhook, shared) = (Arc::clone(&webhook), Arc::clone(&shared));
                        ask_webhook(Arc::clone(&id), wish, store.clone(), webhook, shared).boxed()
                    })
                })
            }
            None => {
                let store = store.clone();
                Box::new(move |id| {
                    let (id, store) = (Arc::clone(id), store.clone());
                    Arc::new(move |_| ask_store(Arc::clone(&id), store.clone()).boxed())
                })
            }
        };
        let roles = webhook(Hook::Access, &urls.access)
            .map(|webhook| (Memory::new(ROLES_MAX, FRESH_NO, ANYTHING_MAX), webhook));
        let by_claims = trust != Trust::Keys && urls.users.is_none();
        let (news, heard) = mpsc::channel(NEWS_MAX);
        // A key is read again at no cost.
        let fresh_no = if urls.users.is_some() { FRESH_NO } else { Duration::ZERO };
        let users = Memory::new(USERS_MAX, fresh_no, memory::STALE);
        let inner = Inner {
            store,
            trust,
            by_claims,
            demo,
            users,
            ask_user,
            shared,
            is_shared: urls.users.is_some(),
            roles,
            news,
        };
        Ok((Self { inner: Arc::new(inner) }, heard))
    }

    /// The person behind a token.
    ///
    /// # Errors
    /// When the directory does not know the user, or cannot be asked.
    pub async fn user(&self, claims: &Claims) -> Result<User, NoUser> {
        if self.inner.by_claims || (self.inner.demo && claims.is_demo) {
            return Ok(from_claims(claims));
        }
        self.inner.ask_user(&claims.user_id, Wish::Recent).await?.ok_or(NoUser::Unknown)
    }

    /// Whether roles can change at all.
    pub fn has_roles(&self) -> bool {
        self.inner.roles.is_some() || self.inner.trust != Trust::Everything
    }

    /// Whether users can change at all.
    pub fn has_users(&self) -> bool {
        !self.inner.by_claims
    }

    /// What the application said it changed is not relied on any more, nor what was asked before it said so.
    pub fn forget(&self, change: &Change) {
        let Inner { users, roles, shared, .. } = &*self.inner;
        match (&change.document_id, &change.user_id) {
            (Some(document), Some(user)) => {
                if let Some((roles, _)) = roles {
                    roles.forget(&pair(document, user));
                }
            }
            (Some(document), None) => {
                if let Some((roles, _)) = roles {
                    roles.forget(&named('d', document));
                }
            }
            (None, Some(user)) => {
                if let Some((roles, _)) = roles {
                    roles.forget(&named('u', user));
                }
                users.forget(user);
                shared.forget(Some(user));
            }
            (None, None) => {
                if let Some((roles, _)) = roles {
                    roles.forget_all();
                }
                users.forget_all();
                shared.forget(None);
            }
        }
    }

    /// Something may have been said and was not heard: everything is asked for again, and what is remembered counts as long
    /// as nobody answers.
    pub fn doubt(&self) {
        let Inner { users, roles, shared, .. } = &*self.inner;
        if let Some((roles, _)) = roles {
            roles.doubt_all();
        }
        users.doubt_all();
        shared.forget(None);
    }

    /// Takes away what other pods would read of a user who changed. Best effort: they were told too.
    pub async fn unshare(&self, user_id: &Arc<str>) {
        if self.inner.is_shared {
            self.inner.shared.remove(user_id).await;
        }
    }

    /// A user as this pod heard last, without asking anybody.
    pub fn remembered(&self, user_id: &Arc<str>) -> Option<User> {
        self.inner.users.last(user_id)
    }

    /// A user who signed in before, as the directory knows it now; the other pods can read that too.
    ///
    /// # Errors
    /// When the directory cannot be asked.
    pub async fn look_again(&self, user_id: &Arc<str>) -> Result<Known, StoreError> {
        if self.inner.by_claims || (self.inner.demo && user_id.starts_with(DEMO_PREFIX)) {
            return Ok(Known::ByClaims);
        }
        Ok(self.inner.ask_user(user_id, Wish::Now).await?.map_or(Known::Gone, Known::As))
    }

    /// What a user may do with a document; `None`: nothing, not even know that it is there.
    ///
    /// # Errors
    /// When nobody can be asked.
    pub async fn role(&self, document: &str, user: &str) -> Result<Option<Role>, StoreError> {
        self.inner.role(document, user, Wish::Recent).await
    }

    /// The same, as the application says now.
    ///
    /// # Errors
    /// When nobody can be asked.
    pub async fn role_now(&self, document: &str, user: &str) -> Result<Option<Role>, StoreError> {
        self.inner.role(document, user, Wish::Now).await
    }
}

/// What is known of a user who is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// The token says it all.
    ByClaims,
    /// The directory says this.
    As(User),
    /// The directory does not know the user any more.
    Gone,
}

impl Inner {
    async fn ask_user(&self, user_id: &Arc<str>, wish: Wish) -> Result<Option<User>, StoreError> {
        let question = Question { key: Arc::clone(user_id), parts: vec![Arc::clone(user_id)] };
        let ask = (self.ask_user)(user_id);
        let (news, user_id) = (self.news.clone(), Arc::clone(user_id));
        let differs = move |_| {
            let _ = news.try_send(Change { document_id: None, user_id: Some(user_id) });
        };
        self.users.get(&question, wish, &ask, differs).await
    }

    async fn role(&self, document: &str, user: &str, wish: Wish) -> Result<Option<Role>, StoreError> {
        let is_demo_user = self.demo && user.starts_with(DEMO_PREFIX);
        if is_demo_user && document.starts_with(DEMO_PREFIX) {
            return Ok(Some(Role::Write));
        }
        let Some((roles, webhook)) = &self.roles else {
            return if self.trust == Trust::Everything {
                // Anybody can fetch a token of a demo user: it opens no other document.
                Ok((!is_demo_user).then_some(Role::Write))
            } else {
                self.store.role(document, user).await
            };
        };
        let key = pair(document, user);
        let parts = vec![named('d', document), named('u', user), Arc::clone(&key)];
        let change = Change { document_id: Some(document.into()), user_id: Some(user.into()) };
        let (document, user): (Arc<str>, Arc<str>) = (document.into(), user.into());
        let webhook = Arc::clone(webhook);
        let ask: Ask<Role> = Arc::new(move |_| {
            let (webhook, document, user) = (Arc::clone(&webhook), Arc::clone(&document), Arc::clone(&user));
            let asking = async move {
                let answer = webhook.role(&document, &user).await?;
                Ok(Asked { answer, age: Duration::ZERO })
            };
            asking.boxed()
        });
        let news = self.news.clone();
        let differs = move |_| {
            let _ = news.try_send(change);
        };
        roles.get(&Question { key, parts }, wish, &ask, differs).await
    }
}

/// Ids of documents hold neither spaces nor colons.
fn pair(document: &str, user: &str) -> Arc<str> {
    format!("{document} {user}").into()
}

fn named(kind: char, id: &str) -> Arc<str> {
    format!("{kind}:{id}").into()
}

async fn ask_store(id: Arc<str>, store: Store) -> Result<Asked<User>, StoreError> {
    let stored = store.user(&id).await?;
    Ok(Asked { answer: stored.map(|stored| from_key(&id, &stored)), age: Duration::ZERO })
}

/// The application's key, what another pod was told within the hour, and then the webhook.
async fn ask_webhook(
    id: Arc<str>,
    wish: Wish,
    store: Store,
    webhook: Arc<Webhook>,
    shared: Arc<Shared>,
) -> Result<Asked<User>, StoreError> {
    let late = |_| StoreError::Unavailable("the store is slow".into());
    let asked_ms = unix_ms();
    let (key, told) = tokio::join!(timeout(STORE_PATIENCE, store.user(&id)), async {
        match wish {
            Wish::Recent => timeout(STORE_PATIENCE, shared.told(&id)).await.ok().flatten(),
            Wish::Now => None,
        }
    });
    let key = key.map_err(late).and_then(|key| key);
    if let Ok(Some(stored)) = &key {
        return Ok(Asked { answer: Some(from_key(&id, stored)), age: Duration::ZERO });
    }
    if let Some((user, age)) = told {
        return Ok(Asked { answer: Some(user), age });
    }
    match webhook.user(&id).await? {
        Some(ToldUser { name, avatar, .. }) => {
            let user = user(&id, name, avatar);
            // Nobody waits for the store here: it may be slow, and the answer is good without it.
            let told = user.clone();
            tokio::spawn(async move { shared.tell(&told, asked_ms).await });
            Ok(Asked { answer: Some(user), age: Duration::ZERO })
        }
        None => {
            // Whether there is a key nobody can say.
            key?;
            shared.remove(&id).await;
            Ok(Asked { answer: None, age: Duration::ZERO })
        }
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
