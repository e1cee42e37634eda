//! What applications say they changed, carried to whoever must know on this pod.
//!
//! In: `collab:changed`, as the bus heard it; answers that turned out to be old. Out: forgotten answers, accesses that open
//! documents read again, and users who are looked at again.

use protocol::Change;
use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc,
};

use crate::{
    bus::ServerWide,
    directory::{Directory, Word},
    documents::Documents,
    looks::Looks,
    registry::Registry,
};

/// Carries changes for good. It never waits for anybody who answers slowly: the next change may be about an access.
pub(crate) async fn hear(
    mut said: broadcast::Receiver<ServerWide>,
    mut news: mpsc::Receiver<Change>,
    directory: Directory,
    documents: Documents,
    registry: Registry,
) {
    let mut looks = Looks::new(directory.clone(), documents.clone(), registry);
    loop {
        let (change, word) = tokio::select! {
            () = looks.go_on() => continue,
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
        match change {
            Change { document_id: None, user_id: Some(user_id) } => looks.user_changed(user_id),
            Change { document_id: None, user_id: None } => looks.anybody_changed(),
            // Of an access, not of a user.
            Change { document_id: Some(_), .. } => {}
        }
    }
}
