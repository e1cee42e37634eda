//! The task's part in access: who is here, and reading again what they may do.
//!
//! In: joins and ends, words that an access changed, time. Out: futures that read roles; their answers become inputs of
//! the document. A change that was heard voids every read that began before it, so that nobody gets in, or stays, by an
//! answer that was on its way; and while nobody can say what a changed access is now, nothing more is told.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use document::{ConnectionId, Document, Input, Role};

use super::{Done, Flow, Task, Wanted};
use crate::{document_io as io, outbox::Ending, store::StoreError, telemetry::within};

/// Without a word of a change an access is read again after this time (CONTRACT section 2).
pub(super) const READ_AGAIN: Duration = Duration::from_secs(60);
/// Between attempts while the store or the webhook does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// A read that takes longer than this is made again; the second where somebody waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const SAID_TIMEOUT: Duration = Duration::from_secs(2);
/// Whoever's access was said to have changed is let go after this time if nobody can tell what it is now: transports are
/// closed, clients come back by themselves, and their joins wait for the answer.
const UNSURE_MAX: Duration = Duration::from_secs(2);

/// Who has a connection here, and which reads count.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    users: HashMap<ConnectionId, Arc<str>>,
    epoch: u64,
    reading: BTreeSet<Arc<str>>,
    /// Users whose access was said to have changed and was not read since.
    unsure: HashMap<Arc<str>, Instant>,
}

impl Accesses {
    /// Changes that were heard so far.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn arrived(&mut self, connection: ConnectionId, user_id: &Arc<str>) {
        self.users.insert(connection, Arc::clone(user_id));
    }

    fn is_here(&self, user_id: &Arc<str>) -> bool {
        self.users.values().any(|here| here == user_id)
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
        let span = self.joins.lookup(wanted.connection);
        self.start(async move {
            let found = io::lookup(&parts, &id, &wanted.user_id, &wanted.clients, &wanted.after);
            let result = within(span, found).await;
            Done::LookedUp { wanted, result }
        });
    }

    pub(super) fn access_changed(&mut self, user_id: Option<Arc<str>>, is_said: bool) {
        self.access.epoch += 1;
        if is_said && self.inner.parts.directory.has_roles() {
            let now = Instant::now();
            let changed = self.access.users.values().filter(|here| user_id.as_ref().is_none_or(|id| *here == id));
            for here in changed.cloned().collect::<BTreeSet<_>>() {
                self.access.unsure.entry(here).or_insert(now);
            }
        }
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
                self.access.unsure.remove(&user_id);
                self.feed(document, Input::Access { user_id, role })
            }
            Ok(_) => {
                self.read_access(user_id, Duration::ZERO);
                Ok(())
            }
            Err(error) => {
                tracing::debug!(document = %self.id, %error, "an access cannot be read");
                if self.access.unsure.get(&user_id).is_some_and(|since| since.elapsed() >= UNSURE_MAX) {
                    self.let_go(&user_id);
                }
                self.read_access(user_id, RETRY);
                Ok(())
            }
        }
    }

    fn read_access(&mut self, user_id: Arc<str>, after: Duration) {
        let (parts, id, epoch) = (self.inner.parts.clone(), Arc::clone(&self.id), self.access.epoch);
        if !self.access.is_here(&user_id) {
            self.access.reading.remove(&user_id);
            self.access.unsure.remove(&user_id);
            return;
        }
        let patience = if self.access.unsure.contains_key(&user_id) { SAID_TIMEOUT } else { READ_TIMEOUT };
        self.start(async move {
            tokio::time::sleep(after).await;
            let reading = parts.directory.role_now(&id, &user_id);
            let late = |_| Err(StoreError::Unavailable("an access takes too long to read".into()));
            let role = tokio::time::timeout(patience, reading).await.unwrap_or_else(late);
            Done::Access { user_id, epoch, role }
        });
    }

    /// Closes the transports of a user of whom nobody can tell whether this document is for him any more.
    fn let_go(&self, user_id: &Arc<str>) {
        tracing::warn!(document = %self.id, "an access changed and cannot be read: closing its connections");
        for (connection, _) in self.access.users.iter().filter(|(_, here)| *here == user_id) {
            if let Some(outbox) = self.outboxes.get(connection) {
                outbox.close(Ending::Transport { code: 1013, reason: "access cannot be checked" });
            }
        }
    }
}
