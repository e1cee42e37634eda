//! The task's part in presence: which leases are watched, and how rows are read and written.
//!
//! In: what the document asks for, changes of the living. Out: futures that read and write the presence hash; their
//! answers come back to the task. A document that cannot go on takes its rows along.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use document::{Document, Input, Member, Peer};
use tokio::time::{Instant, timeout_at};

use super::{Done, Flow, Task};
use crate::{document_io as io, documents::Parts, store::Notice};

/// A document that ends does not wait longer for its rows to be removed: everybody in it waits for an answer.
const REMOVE_MAX: Duration = Duration::from_secs(2);
/// Rows that are removed at once, as many as a document writes.
const REMOVE_ROWS: usize = 256;

impl Task {
    /// From now on these pods' leases are watched.
    pub(super) fn watch_pods(&mut self, pods: BTreeSet<Arc<str>>) {
        let lease = &self.inner.parts.lease;
        lease.unwatch(self.seen.difference(&pods));
        let new: Vec<_> = pods.difference(&self.seen).cloned().collect();
        if !new.is_empty() {
            lease.watch(new);
        }
        self.seen = pods;
    }

    pub(super) fn pods_changed(&mut self, document: &mut Document) -> Flow {
        let living = self.living.borrow_and_update().clone();
        let lapsed = std::mem::replace(&mut self.lapses, living.lapses) != living.lapses;
        self.feed(document, Input::PodsLive { live: living.pods, lapsed })
    }

    pub(super) fn read_people(&self) {
        let (parts, id, known) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id), self.seen.clone());
        self.start(async move { Done::People(io::people(&parts, &id, &known).await) });
    }

    pub(super) fn write_rows(&self, members: Vec<Member>) {
        let (parts, id) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id));
        self.start(async move {
            let is_stored = store_rows(&parts, &id, &members).await;
            Done::RowsWritten(is_stored.then_some(members))
        });
    }

    /// Nobody is in the document here any more, though the pod lives: takes its rows away. Where the store does not answer
    /// they stay until the document is opened here again, or the lease ends.
    pub(super) async fn remove_rows(&mut self, document: &mut Document) {
        let (parts, id) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id));
        let until = Instant::now() + REMOVE_MAX;
        for rows in document.give_up_presence().chunks(REMOVE_ROWS) {
            if !matches!(timeout_at(until, store_rows(&parts, &id, rows)).await, Ok(true)) {
                tracing::warn!(document = %self.id, "the presence rows of a document that ends could not be removed");
                return;
            }
            self.publish(&Peer::Members(rows.to_vec()));
        }
    }

    /// The hash lives on; what is in it does not change.
    pub(super) fn renew_presence(&self) {
        let (parts, id) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id));
        self.start(async move {
            // The next renewal comes long before the hash ends.
            let _ = parts.store.write_presence(&id, &[]).await;
            Done::Nothing
        });
    }

    pub(super) fn publish(&self, peer: &Peer) {
        let pod = Arc::clone(self.inner.parts.lease.pod());
        let notice = Notice::Peer { pod, message: protocol::encode_peer(peer).into() };
        self.inner.parts.bus.publish(&self.channel, notice.encode());
    }
}

/// Whether these rows are stored, or removed, as they are to be.
async fn store_rows(parts: &Parts, document_id: &str, members: &[Member]) -> bool {
    let row = |member: &Member| {
        let (field, row) = protocol::encode_member(member);
        (field, (member.connections > 0).then(|| Bytes::from(row)))
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    parts.store.write_presence(document_id, &rows).await.is_ok()
}
