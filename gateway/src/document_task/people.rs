//! The task's part in presence: whose leases are watched, when rows are read again, and how own rows are written.
//!
//! In: rows and members that name pods, changes of the living, changed own rows. Out: futures that read and write the
//! presence hash; their answers come back to the task.

use std::{collections::BTreeSet, sync::Arc};

use super::{Done, Task};
use crate::document_io as io;

impl Task {
    /// Watches the leases of pods that are in this document.
    pub(super) fn see<'a>(&mut self, pods: impl IntoIterator<Item = &'a Arc<str>>) {
        let lease = &self.inner.parts.lease;
        let new: Vec<_> =
            pods.into_iter().filter(|pod| *pod != lease.pod() && !self.seen.contains(*pod)).cloned().collect();
        if !new.is_empty() {
            self.seen.extend(new.iter().cloned());
            lease.watch(new);
        }
    }

    pub(super) fn pods_changed(&mut self, has_lease: bool) {
        let living = self.living.borrow_and_update().clone();
        if !has_lease {
            return;
        }
        if self.own_rows.lapsed(living.lapses) {
            self.write_rows(true);
        }
        let (alive, dead): (BTreeSet<_>, BTreeSet<_>) =
            self.seen.iter().cloned().partition(|pod| living.pods.contains(pod));
        if !dead.is_empty() {
            self.read_people();
            // Incarnations do not come back; one that was only not asked about yet is in the rows that are read now.
            self.inner.parts.lease.unwatch(&dead);
            self.seen = alive;
        }
    }

    pub(super) fn read_people(&mut self) {
        if std::mem::replace(&mut self.reading_people, true) {
            return;
        }
        let (parts, id) = (self.inner.parts.clone(), Arc::clone(&self.id));
        self.start(async move { Done::People(io::people(&parts, &id).await) });
    }

    pub(super) fn write_rows(&mut self, all: bool) {
        let Some(rows) = self.own_rows.take(all) else { return };
        let (parts, id) = (self.inner.parts.clone(), Arc::clone(&self.id));
        let pause = self.own_rows.pause();
        self.start(async move {
            tokio::time::sleep(pause).await;
            Done::RowsWritten(parts.store.write_presence(&id, &rows).await.is_ok())
        });
    }
}
