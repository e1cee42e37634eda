//! The task's part in access: who is here, and reading again what they may do.
//!
//! In: joins and ends, words that an access changed, time. Out: futures that read roles; their answers become inputs of
//! the document. A change that was heard voids every read that began before it, so that nobody gets in, or stays, by an
//! answer that was on its way.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use document::{ConnectionId, Document, Input, Role};

use super::{Done, Flow, Task, Wanted};
use crate::{document_io as io, store::StoreError};

/// Without a word of a change an access is read again after this time (CONTRACT section 2).
pub(super) const READ_AGAIN: Duration = Duration::from_secs(60);
/// Between attempts while the store or the webhook does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// Who has a connection here, and which reads count.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    users: HashMap<ConnectionId, Arc<str>>,
    epoch: u64,
    reading: BTreeSet<Arc<str>>,
}

impl Accesses {
    /// Changes that were heard so far.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn arrived(&mut self, connection: ConnectionId, user_id: &Arc<str>) {
        self.users.insert(connection, Arc::clone(user_id));
    }

    pub(super) fn user(&self, connection: ConnectionId) -> Option<&Arc<str>> {
        self.users.get(&connection)
    }

    pub(super) fn left(&mut self, connection: ConnectionId) {
        self.users.remove(&connection);
    }

    /// Reads under way were given up.
    pub(super) fn forget_reads(&mut self) {
        self.reading.clear();
    }
}

impl Task {
    pub(super) fn look_up(&self, wanted: Box<Wanted>) {
        let (parts, id) = (self.inner.parts.clone(), Arc::clone(&self.id));
        self.start(async move {
            let result = io::lookup(&parts, &id, &wanted.user_id, &wanted.clients, &wanted.after).await;
            Done::LookedUp { wanted, result }
        });
    }

    pub(super) fn access_changed(&mut self, user_id: Option<Arc<str>>) {
        self.access.epoch += 1;
        self.read_accesses(user_id.as_ref());
    }

    /// Reads what one user, or everybody here, may do now.
    pub(super) fn read_accesses(&mut self, user_id: Option<&Arc<str>>) {
        if !self.inner.parts.directory.has_roles() {
            return;
        }
        let here: BTreeSet<Arc<str>> =
            self.access.users.values().filter(|here| user_id.is_none_or(|user_id| *here == user_id)).cloned().collect();
        for user_id in here {
            // One that is being read is read again when its answer turns out to be old.
            if self.access.reading.insert(user_id.clone()) {
                self.read_access(user_id, Duration::ZERO);
            }
        }
    }

    pub(super) fn access_read(
        &mut self,
        document: &mut Document,
        user_id: Arc<str>,
        epoch: u64,
        role: Result<Option<Role>, StoreError>,
    ) -> Flow {
        match role {
            Ok(role) if epoch == self.access.epoch => {
                self.access.reading.remove(&user_id);
                self.feed(document, Input::Access { user_id, role })
            }
            Ok(_) => {
                self.read_access(user_id, Duration::ZERO);
                Ok(())
            }
            Err(error) => {
                tracing::debug!(document = %self.id, %error, "an access cannot be read");
                self.read_access(user_id, RETRY);
                Ok(())
            }
        }
    }

    fn read_access(&mut self, user_id: Arc<str>, after: Duration) {
        let (parts, id, epoch) = (self.inner.parts.clone(), Arc::clone(&self.id), self.access.epoch);
        if !self.access.users.values().any(|here| *here == user_id) {
            self.access.reading.remove(&user_id);
            return;
        }
        self.start(async move {
            tokio::time::sleep(after).await;
            let role = parts.directory.role_now(&id, &user_id).await;
            Done::Access { user_id, epoch, role }
        });
    }
}
