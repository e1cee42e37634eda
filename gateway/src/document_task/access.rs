//! The task's part in access: who is here, and reading again what they may do.
//!
//! In: joins and ends, words that an access changed, time. Out: futures that read roles; their answers become inputs of
//! the document. A change that was heard voids every read that began before it, so that nobody gets in, or stays, by an
//! answer that was on its way; and while nobody can say what an access is now, its user stays for as long as [`Word`]
//! says and then no longer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use document::{ConnectionId, Document, Input, Role};
use tokio::time::Instant;

use super::{Done, Flow, Task, Wanted};
use crate::{
    directory::{ANYTHING_MAX, Word},
    document_io as io,
    outbox::Ending,
    store::StoreError,
    telemetry::within,
};

/// Without a word of a change an access is read again after this time (CONTRACT section 2).
pub(super) const READ_AGAIN: Duration = Duration::from_secs(60);
/// Between attempts while the store or the webhook does not answer, twice as long each time: a pod with thousands of
/// people must not ask an application in trouble more than it would ask a healthy one.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(8);

/// A read that takes longer than this is made again; the second where somebody waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const SAID_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Here {
    user_id: Arc<str>,
    /// When the first join came, whether it is answered or not.
    since: Instant,
}

/// Who has a connection here, and which reads count.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    users: HashMap<ConnectionId, Here>,
    epoch: u64,
    /// Users whose access is being read, and how long to wait if that fails.
    reading: BTreeMap<Arc<str>, Duration>,
    /// Users whose access may have changed and could not be read since, and when they are let go: transports are closed,
    /// clients come back by themselves, and their joins wait for the answer.
    unsure: HashMap<Arc<str>, Instant>,
}

impl Accesses {
    /// Changes that were heard so far.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn arrived(&mut self, connection: ConnectionId, user_id: &Arc<str>) {
        // Whoever joins again without having left is in by what was known when he came.
        let here = || Here { user_id: Arc::clone(user_id), since: Instant::now() };
        self.users.entry(connection).or_insert_with(here);
    }

    fn is_here(&self, user_id: &Arc<str>) -> bool {
        self.users.values().any(|here| here.user_id == *user_id)
    }

    pub(super) fn user(&self, connection: ConnectionId) -> Option<&Arc<str>> {
        self.users.get(&connection).map(|here| &here.user_id)
    }

    pub(super) fn left(&mut self, connection: ConnectionId) {
        self.users.remove(&connection);
    }

    /// This user if here, or everybody who is.
    fn who(&self, user_id: Option<&Arc<str>>) -> BTreeSet<Arc<str>> {
        let here = self.users.values().map(|here| &here.user_id);
        here.filter(|here| user_id.is_none_or(|user_id| *here == user_id)).cloned().collect()
    }

    /// Whoever cannot be told to be in is let go some time after this word, unless an earlier one says sooner; when.
    fn doubt(&mut self, user_id: Arc<str>, word: Word) -> Instant {
        let until = Instant::now() + word.counts_for();
        let earliest = self.unsure.entry(user_id).or_insert(until);
        *earliest = until.min(*earliest);
        *earliest
    }

    /// Reads under way were given up.
    pub(super) fn forget_reads(&mut self) {
        self.reading.clear();
    }
}

impl Task {
    pub(super) fn look_up(&self, wanted: Box<Wanted>) {
        let (parts, id) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id));
        let span = self.joins.lookup(wanted.connection);
        self.start(async move {
            let found = io::lookup(&parts, &id, &wanted.user_id, &wanted.clients, &wanted.after);
            let result = within(span, found).await;
            Done::LookedUp { wanted, result }
        });
    }

    pub(super) fn access_changed(&mut self, user_id: Option<Arc<str>>, word: Word) {
        self.access.epoch += 1;
        if word != Word::Unheard && self.inner.parts.directory.has_roles() {
            for here in self.access.who(user_id.as_ref()) {
                self.access.doubt(here, word);
            }
        }
        self.read_accesses(user_id.as_ref());
    }

    /// Reads what one user, or everybody here, may do now.
    pub(super) fn read_accesses(&mut self, user_id: Option<&Arc<str>>) {
        if !self.inner.parts.directory.has_roles() {
            return;
        }
        for user_id in self.access.who(user_id) {
            // One that is being read is read again when its answer turns out to be old.
            if !self.access.reading.contains_key(&user_id) {
                self.access.reading.insert(Arc::clone(&user_id), RETRY_MIN);
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
                let until = self.access.doubt(Arc::clone(&user_id), Word::Unheard);
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    self.let_go(&user_id, until);
                    self.access.unsure.remove(&user_id);
                }
                let next = self.access.reading.entry(Arc::clone(&user_id)).or_insert(RETRY_MIN);
                let pause = next.mul_f64(rand::random_range(0.5..1.0));
                *next = (*next * 2).min(RETRY_MAX);
                // Not much later than when it is time to let the user go.
                self.read_access(user_id, pause.min(left.max(RETRY_MIN)));
                Ok(())
            }
        }
    }

    fn read_access(&mut self, user_id: Arc<str>, after: Duration) {
        let (parts, id, epoch) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id), self.access.epoch);
        if !self.access.is_here(&user_id) {
            self.access.reading.remove(&user_id);
            self.access.unsure.remove(&user_id);
            return;
        }
        let is_urgent = |until: &Instant| until.saturating_duration_since(Instant::now()) <= ANYTHING_MAX;
        let is_urgent = self.access.unsure.get(&user_id).is_some_and(is_urgent);
        let patience = if is_urgent { SAID_TIMEOUT } else { READ_TIMEOUT };
        self.start(async move {
            tokio::time::sleep(after).await;
            let reading = parts.directory.role_now(&id, &user_id);
            let late = |_| Err(StoreError::Unavailable("an access takes too long to read".into()));
            let role = tokio::time::timeout(patience, reading).await.unwrap_or_else(late);
            Done::Access { user_id, epoch, role }
        });
    }

    /// Closes the transports of a user of whom nobody can tell whether this document is for him any more. Whoever came
    /// later waits for an answer, or is in by one.
    fn let_go(&self, user_id: &Arc<str>, until: Instant) {
        tracing::warn!(document = %self.id, "an access may have changed and cannot be read: closing its connections");
        let is_old = |here: &Here| here.user_id == *user_id && here.since < until;
        for (connection, _) in self.access.users.iter().filter(|(_, here)| is_old(here)) {
            if let Some(outbox) = self.outboxes.get(connection) {
                outbox.close(Ending::Transport { code: 1013, reason: "access cannot be checked" });
            }
        }
    }
}
