//! What applications say they changed, carried to whoever must know on this pod; and what nobody said, found by looking.
//!
//! In: `collab:changed`, as the bus heard it; answers that turned out to be old; time. Out: forgotten answers, accesses
//! that open documents read again, new names in them, and closed connections of users whom the directory does not know
//! any more.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use protocol::Change;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    task::JoinSet,
    time::{Instant, interval_at},
};

use crate::{
    bus::ServerWide,
    directory::{Directory, Known, Word},
    documents::Documents,
    outbox::Ending,
    registry::Registry,
};

/// Without a word of a change a user is read again after this time (CONTRACT section 2).
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Users that are read at once: few, because nobody waits for it.
const LOOKS_MAX: usize = 16;
/// Users who were said to have changed and are read at once; the minute's look finds the others.
const CHANGED_MAX: usize = 256;

/// Carries changes for good. It never waits for anybody who answers slowly: the next change may be about an access.
pub(crate) async fn hear(
    mut said: broadcast::Receiver<ServerWide>,
    mut news: mpsc::Receiver<Change>,
    directory: Directory,
    documents: Documents,
    registry: Registry,
) {
    let mut looks = JoinSet::new();
    loop {
        let (change, word) = tokio::select! {
            Some(_) = looks.join_next() => continue,
            // What the directory found out by itself is not to be forgotten.
            Some(change) = news.recv() => (change, Word::Named),
            heard = said.recv() => match heard {
                Ok(ServerWide::Claim(_)) => continue,
                Ok(ServerWide::Changed(change)) => {
                    directory.forget(&change);
                    let word = if change == Change::default() { Word::Anything } else { Word::Named };
                    (change, word)
                }
                Ok(ServerWide::Missed) | Err(RecvError::Lagged(_)) => {
                    directory.doubt();
                    (Change::default(), Word::Unheard)
                }
                Err(RecvError::Closed) => return,
            }
        };
        documents.access_changed(change.document_id.as_deref(), change.user_id.as_ref(), word);
        let Some(user_id) = change.user_id.filter(|_| change.document_id.is_none()) else { continue };
        if looks.len() < CHANGED_MAX {
            let (directory, documents, registry) = (directory.clone(), documents.clone(), registry.clone());
            looks.spawn(async move {
                directory.unshare(&user_id).await;
                if !registry.outboxes_of(&user_id).is_empty() {
                    look_again(&directory, &documents, &registry, user_id, true).await;
                }
            });
        }
    }
}

/// Reads everybody who is signed in again, once a minute, for good.
pub(crate) async fn look_again_at_users(directory: Directory, documents: Documents, registry: Registry) {
    if !directory.has_users() {
        return std::future::pending().await;
    }
    let mut minutes = interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
    loop {
        minutes.tick().await;
        let users = futures_util::stream::iter(registry.users());
        users
            .for_each_concurrent(LOOKS_MAX, |user_id| look_again(&directory, &documents, &registry, user_id, false))
            .await;
    }
}

async fn look_again(
    directory: &Directory,
    documents: &Documents,
    registry: &Registry,
    user_id: Arc<str>,
    is_said: bool,
) {
    let before = directory.remembered(&user_id);
    match directory.look_again(&user_id).await {
        Ok(Known::ByClaims) => {}
        Ok(Known::As(user)) => {
            if is_said || before.as_ref() != Some(&user) {
                documents.user_changed(&user);
            }
        }
        Ok(Known::Gone) => {
            for outbox in registry.outboxes_of(&user_id) {
                // The client comes back by itself and is told why it may not.
                outbox.close(Ending::Transport { code: 1008, reason: "user not found" });
            }
        }
        Err(error) => tracing::debug!(%error, "a user cannot be read again; the next look or sign-in will"),
    }
}
