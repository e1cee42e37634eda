//! The task's part in presence: which leases are watched, and how rows are read and written.
//!
//! In: what the document asks for, changes of the living. Out: futures that read and write the presence hash; their
//! answers come back to the task.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use document::{Document, Input, Member, Peer};

use super::{Done, Flow, Task};
use crate::{document_io as io, store::Notice};

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
            let row = |member: &Member| {
                let (field, row) = protocol::encode_member(member);
                (field, (member.connections > 0).then(|| Bytes::from(row)))
            };
            let rows: Vec<_> = members.iter().map(row).collect();
            let is_stored = parts.store.write_presence(&id, &rows).await.is_ok();
            Done::RowsWritten(is_stored.then_some(members))
        });
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
