//! What the user directory told any of the pods, for all of them: `cache:user:<id>` in the store.
//!
//! In: users as the webhook told them, and words that they changed. Out: the same users for an hour, unless they were
//! asked for before a change that this pod heard of. Best effort: it only spares requests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use document::User;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{STORE_PATIENCE, user};
use crate::{clock::unix_ms, store::Store};

/// How long other pods rely on what the webhook told this one (CONTRACT section 2).
const SHARED_LIFE_S: u64 = 3600;
/// Pods' clocks differ by less; what was asked that close to a change is asked again.
const CLOCKS_DIFFER_MS: u64 = 2_000;
/// Changes of users that are remembered one by one for the pods' common cache.
const MARKS_MAX: usize = 10_000;

/// What the webhook told any pod, in the store.
pub(super) struct Shared {
    store: Store,
    marks: Mutex<Marks>,
}

/// Unix milliseconds of changes: what was asked before is not taken from the common cache.
#[derive(Default)]
struct Marks {
    everything: u64,
    users: HashMap<Arc<str>, u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SharedUser {
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    avatar: Option<String>,
    /// Unix milliseconds at which a pod asked the webhook.
    asked_at: u64,
}

impl Shared {
    pub(super) fn new(store: Store) -> Shared {
        Shared { store, marks: Mutex::default() }
    }

    /// A user, and how old the answer is. Trouble is no answer.
    pub(super) async fn told(&self, id: &Arc<str>) -> Option<(User, Duration)> {
        let bytes = self.store.told_user(id).await.ok().flatten()?;
        let told: SharedUser = serde_json::from_slice(&bytes).ok()?;
        let since = self.changed_ms(id);
        if told.id != **id || since > 0 && told.asked_at <= since + CLOCKS_DIFFER_MS {
            return None;
        }
        let age = Duration::from_millis(unix_ms().saturating_sub(told.asked_at));
        Some((user(id, Some(told.name), told.avatar), age))
    }

    /// When a change of this user was heard last.
    fn changed_ms(&self, id: &Arc<str>) -> u64 {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.users.get(id).copied().unwrap_or(0).max(marks.everything)
    }

    pub(super) async fn tell(&self, user: &User, asked_ms: u64) {
        // Asked before a change: that is no news for anybody.
        if asked_ms <= self.changed_ms(&user.id) {
            return;
        }
        let told = SharedUser {
            id: user.id.to_string(),
            name: user.name.to_string(),
            avatar: user.avatar.as_deref().map(str::to_owned),
            asked_at: asked_ms,
        };
        let Ok(text) = serde_json::to_vec(&told) else { return };
        self.write(&user.id, Some(text.into())).await;
    }

    pub(super) async fn remove(&self, id: &Arc<str>) {
        self.write(id, None).await;
    }

    /// Nothing that was asked before now is taken any more.
    pub(super) fn forget(&self, id: Option<&Arc<str>>) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        match id {
            Some(id) if marks.users.len() < MARKS_MAX || marks.users.contains_key(id) => {
                marks.users.insert(Arc::clone(id), unix_ms());
            }
            Some(_) | None => *marks = Marks { everything: unix_ms(), users: HashMap::new() },
        }
    }

    /// Best effort: it only spares a request.
    async fn write(&self, id: &Arc<str>, told: Option<bytes::Bytes>) {
        let written = timeout(STORE_PATIENCE, self.store.tell_user(id, told.as_ref(), SHARED_LIFE_S)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::debug!("what the user directory told is not shared with other pods");
        }
    }
}
