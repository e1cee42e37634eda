//! The task's part in access: who is here, and reading again what they may do.
//!
//! In: joins and ends, words that an access changed, time. Out: futures that read roles; their answers become inputs of
//! the document. A change that was heard voids every lookup of its user that began before it, so that nobody gets in by an
//! answer that was on its way, and is read at once; while nobody can say what an access is now, its user stays for as long
//! as [`Word`] says and then no longer.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use document::{ConnectionId, Document, Input, Role};
use tokio::{sync::oneshot, time::Instant};

use super::{Done, Flow, Task, Wanted};
use crate::{
    directory::{ANYTHING_MAX, Word},
    document_io as io,
    outbox::Ending,
    store::StoreError,
    telemetry::within,
};

/// Without a word of a change an access is read again after this time: with what a read may take, within the minute that
/// CONTRACT section 2 gives.
pub(super) const READ_AGAIN: Duration = Duration::from_secs(45);
/// Between attempts while the store or the webhook does not answer, twice as long each time: a pod with thousands of
/// people must not ask an application in trouble more than it would ask a healthy one.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(8);

/// A read that takes longer than this is made again; the second where somebody waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const SAID_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Here {
    connection: ConnectionId,
    /// When the first join came, whether it is answered or not.
    since: Instant,
}

/// A user who is here.
#[derive(Debug)]
struct Person {
    connections: Vec<Here>,
    /// The number of the last change that may be about this access.
    changed: u64,
    reading: Option<Reading>,
    /// The access may have changed and could not be read since: when the user is let go. Transports are closed, clients
    /// come back by themselves, and their joins wait for the answer.
    unsure: Option<Instant>,
}

/// A read that is under way, or waits for its next attempt.
#[derive(Debug)]
struct Reading {
    begins: Instant,
    /// Somebody waits for it.
    is_urgent: bool,
    /// How long to wait if it fails.
    pause: Duration,
    /// A change was heard since it began: when the user is let go unless another read has answered.
    again: Option<Instant>,
    /// The read ends when this is dropped.
    _wanted: oneshot::Sender<()>,
}

/// Who has a connection here, and which answers count.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    users: HashMap<ConnectionId, Arc<str>>,
    /// Everybody with a connection, and whoever left while a read is under way: who comes back is in the same doubt.
    people: HashMap<Arc<str>, Person>,
    /// Changes that were heard so far.
    heard: u64,
    /// Whoever is unsure, the first to be let go first.
    doubts: BTreeSet<(Instant, Arc<str>)>,
}

impl Accesses {
    /// Changes that were heard so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// Whether more was heard than this that may be about the user.
    pub(super) fn changed_since(&self, user_id: &Arc<str>, heard: u64) -> bool {
        self.people.get(user_id).is_some_and(|person| person.changed > heard)
    }

    pub(super) fn arrived(&mut self, connection: ConnectionId, user_id: &Arc<str>) {
        // Whoever joins again without having left is in by what was known when he came.
        let Entry::Vacant(place) = self.users.entry(connection) else { return };
        place.insert(Arc::clone(user_id));
        // Lookups of an earlier stay may still be under way.
        let changed = self.heard;
        let person = self.people.entry(Arc::clone(user_id)).or_insert_with(|| Person {
            connections: Vec::with_capacity(1),
            changed,
            reading: None,
            unsure: None,
        });
        person.connections.push(Here { connection, since: Instant::now() });
    }

    pub(super) fn user(&self, connection: ConnectionId) -> Option<&Arc<str>> {
        self.users.get(&connection)
    }

    pub(super) fn left(&mut self, connection: ConnectionId) {
        let Some(user_id) = self.users.remove(&connection) else { return };
        if let Some(person) = self.people.get_mut(&user_id) {
            person.connections.retain(|here| here.connection != connection);
        }
        self.forget_if_gone(&user_id);
    }

    /// The first moment at which somebody is let go.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.doubts.first().map(|(until, _)| *until)
    }

    /// Reads under way were given up.
    pub(super) fn forget_reads(&mut self) {
        for user_id in self.who(None) {
            self.end(&user_id);
        }
    }

    fn forget_if_gone(&mut self, user_id: &Arc<str>) {
        let is_gone = |person: &&Person| person.connections.is_empty() && person.reading.is_none();
        if self.people.get(user_id).filter(is_gone).is_some() {
            self.set_unsure(user_id, None);
            self.people.remove(user_id);
        }
    }

    /// This user if here, or everybody who is.
    fn who(&self, user_id: Option<&Arc<str>>) -> Vec<Arc<str>> {
        match user_id {
            Some(user_id) => self.people.get_key_value(user_id).map(|(id, _)| Arc::clone(id)).into_iter().collect(),
            None => self.people.keys().cloned().collect(),
        }
    }

    /// A change may be about this user; whether a read must begin for it. One that is under way and ends soon is not given
    /// up: changes that come faster than answers would have none.
    fn hear(&mut self, user_id: &Arc<str>, word: Word) -> bool {
        let until = Instant::now() + word.counts_for();
        self.doubt(user_id, until);
        let Some(person) = self.people.get_mut(user_id) else { return false };
        person.changed = self.heard;
        match &mut person.reading {
            Some(reading) if reading.is_urgent && reading.begins <= Instant::now() => {
                reading.again = Some(reading.again.map_or(until, |earlier| earlier.min(until)));
                false
            }
            Some(_) | None => true,
        }
    }

    /// Whoever cannot be told to be in is let go at this time, unless it is to be sooner; when.
    fn doubt(&mut self, user_id: &Arc<str>, until: Instant) -> Instant {
        let earlier = self.people.get(user_id).and_then(|person| person.unsure);
        let until = earlier.map_or(until, |earlier| earlier.min(until));
        self.set_unsure(user_id, Some(until));
        until
    }

    fn set_unsure(&mut self, user_id: &Arc<str>, unsure: Option<Instant>) {
        let Some(person) = self.people.get_mut(user_id) else { return };
        if let Some(before) = std::mem::replace(&mut person.unsure, unsure) {
            self.doubts.remove(&(before, Arc::clone(user_id)));
        }
        if let Some(until) = unsure {
            self.doubts.insert((until, Arc::clone(user_id)));
        }
    }

    /// A read begins, in place of the one before: how long it may take, and what ends it.
    fn begin(
        &mut self,
        user_id: &Arc<str>,
        after: Duration,
        pause: Duration,
    ) -> Option<(Duration, oneshot::Receiver<()>)> {
        let person = self.people.get_mut(user_id)?;
        let is_soon = |until: Instant| until.saturating_duration_since(Instant::now()) <= ANYTHING_MAX;
        let is_urgent = person.unsure.is_some_and(is_soon);
        let (wanted, given_up) = oneshot::channel();
        person.reading =
            Some(Reading { begins: Instant::now() + after, is_urgent, pause, again: None, _wanted: wanted });
        Some((if is_urgent { SAID_TIMEOUT } else { READ_TIMEOUT }, given_up))
    }

    /// The read of a user has ended, who may have left meanwhile.
    fn end(&mut self, user_id: &Arc<str>) -> Option<Reading> {
        let reading = self.people.get_mut(user_id)?.reading.take();
        self.forget_if_gone(user_id);
        reading
    }

    /// Connections of those of whom nobody could tell in time, who are in no doubt from now on.
    fn take_late(&mut self) -> Vec<ConnectionId> {
        let mut late = Vec::new();
        while let Some((until, user_id)) = self.doubts.first().filter(|(until, _)| *until <= Instant::now()).cloned() {
            let person = self.people.get(&user_id);
            // Whoever came later waits for an answer, or is in by one.
            let old = person.into_iter().flat_map(|person| &person.connections).filter(|here| here.since < until);
            late.extend(old.map(|here| here.connection));
            self.doubts.pop_first();
            self.set_unsure(&user_id, None);
        }
        late
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

    pub(super) fn access_changed(&mut self, user_id: Option<&Arc<str>>, word: Word) {
        if !self.inner.parts.directory.has_roles() {
            return;
        }
        self.access.heard += 1;
        for user_id in self.access.who(user_id) {
            if self.access.hear(&user_id, word) {
                self.read_access(user_id, Duration::ZERO, RETRY_MIN);
            }
        }
    }

    /// Reads what everybody here may do now.
    pub(super) fn read_accesses(&mut self) {
        if !self.inner.parts.directory.has_roles() {
            return;
        }
        for user_id in self.access.who(None) {
            let is_reading = self.access.people.get(&user_id).is_some_and(|person| person.reading.is_some());
            if !is_reading {
                self.read_access(user_id, Duration::ZERO, RETRY_MIN);
            }
        }
    }

    /// Reads again whose reads were given up with the copy that has ended.
    pub(super) fn read_doubted(&mut self) {
        for (_, user_id) in self.access.doubts.clone() {
            self.read_access(user_id, Duration::ZERO, RETRY_MIN);
        }
    }

    pub(super) fn access_read(
        &mut self,
        document: &mut Document,
        user_id: Arc<str>,
        role: Result<Option<Role>, StoreError>,
    ) -> Flow {
        let Some(reading) = self.access.end(&user_id) else { return Ok(()) };
        match role {
            Ok(role) => {
                // True since the changes that it was read for; later ones need another answer.
                self.access.set_unsure(&user_id, reading.again);
                if reading.again.is_some() {
                    self.read_access(Arc::clone(&user_id), Duration::ZERO, RETRY_MIN);
                }
                self.feed(document, Input::Access { user_id, role })
            }
            Err(error) => {
                tracing::debug!(document = %self.id, %error, "an access cannot be read");
                let until = self.access.doubt(&user_id, Instant::now() + Word::Unheard.counts_for());
                let left = until.saturating_duration_since(Instant::now());
                let next = if reading.again.is_some() { RETRY_MIN } else { reading.pause };
                let pause = next.mul_f64(rand::random_range(0.5..1.0));
                // Not much later than when it is time to let the user go.
                self.read_access(user_id, pause.min(left.max(RETRY_MIN)), (next * 2).min(RETRY_MAX));
                Ok(())
            }
        }
    }

    fn read_access(&mut self, user_id: Arc<str>, after: Duration, pause: Duration) {
        let Some((patience, given_up)) = self.access.begin(&user_id, after, pause) else { return };
        let (parts, id) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id));
        self.start(async move {
            let reading = async {
                tokio::time::sleep(after).await;
                let reading = parts.directory.role_now(&id, &user_id);
                let late = |_| Err(StoreError::Unavailable("an access takes too long to read".into()));
                tokio::time::timeout(patience, reading).await.unwrap_or_else(late)
            };
            let role = tokio::select! {
                biased;
                _ = given_up => return Done::Nothing,
                role = reading => role,
            };
            Done::Access { user_id, role }
        });
    }

    /// Closes the transports of users of whom nobody can tell whether this document is for them any more.
    pub(super) fn let_go_late(&mut self) {
        let late = self.access.take_late();
        if !late.is_empty() {
            let connections = late.len();
            tracing::warn!(document = %self.id, connections, "accesses may have changed and cannot be read: closing");
        }
        for outbox in late.iter().filter_map(|connection| self.outboxes.get(connection)) {
            outbox.close(Ending::Transport { code: 1013, reason: "access cannot be checked" });
        }
    }
}
