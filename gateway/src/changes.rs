//! What applications say they changed, carried to whoever must know on this pod.
//!
//! In: `collab:changed`, as the bus heard it. Out: forgotten cache entries, accesses that open documents read again, and
//! closed connections of users whom the directory does not know any more.

use protocol::Change;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{bus::ServerWide, directory::Directory, documents::Documents, outbox::Ending, registry::Registry};

/// Carries changes for good.
pub(crate) async fn hear(
    mut said: broadcast::Receiver<ServerWide>,
    directory: Directory,
    documents: Documents,
    registry: Registry,
) {
    loop {
        let Change { document_id, user_id } = match said.recv().await {
            Ok(ServerWide::Claim(_)) => continue,
            Ok(ServerWide::Changed(change)) => change,
            // Anything may have been said.
            Ok(ServerWide::Missed) | Err(RecvError::Lagged(_)) => Change::default(),
            Err(RecvError::Closed) => return,
        };
        if document_id.is_none() {
            directory.forget(user_id.as_deref()).await;
        }
        documents.access_changed(document_id.as_deref(), user_id.as_ref()).await;
        let Some(user_id) = user_id.filter(|_| document_id.is_none()) else { continue };
        match directory.still_knows(&user_id).await {
            Ok(true) => {}
            Ok(false) => {
                for outbox in registry.outboxes_of(&user_id) {
                    // The client comes back by itself and is told why it may not.
                    outbox.close(Ending::Transport { code: 1008, reason: "user not found" });
                }
            }
            Err(error) => tracing::debug!(%error, "a changed user cannot be read; the next sign-in will"),
        }
    }
}
