//! The task's part in letting connections go: saying when nothing of theirs is under way.
//!
//! In: questions in the mailbox, which come after everything the connection handed in. Out: answers, after the frames
//! that settle it were put in line. A task that ends answers by ending.

use document::{ConnectionId, Document};
use tokio::sync::oneshot;

use super::Task;

/// A question that is not answered yet; bounded by the pod's connections, which ask once.
pub(super) struct Settling {
    /// Nobody: everybody.
    pub(super) connection: Option<ConnectionId>,
    pub(super) settled: oneshot::Sender<()>,
}

impl Task {
    pub(super) fn tell_settled(&mut self, document: &Document) {
        if self.settling.is_empty() {
            return;
        }
        let is_settled = |asked: &Settling| match asked.connection {
            Some(connection) => document.is_settled(connection),
            None => document.is_all_settled(),
        };
        let (settled, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.settling).into_iter().partition(is_settled);
        self.settling = waiting;
        self.settling.retain(|asked| !asked.settled.is_closed());
        for asked in settled {
            // Whoever asked may have stopped waiting.
            let _ = asked.settled.send(());
        }
    }
}
