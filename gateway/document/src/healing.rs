//! What a pod still holds of a history that ended: put back into the one that goes on.
//!
//! In: a copy of the document that cannot go on (a failover lost entries that it has, or it fell behind), and the
//! document as it is stored now. Out: the same document anew, with its people, and calls with what the store does not
//! have, each entry under its own identity, until nothing is left; joins and new edits wait until then.
//!
//! The list is kept like a client's pending edits: the first applies at the head, each other one after those before it.
//! An entry of the log is carried over the list and the list over it, one at a time. One that is in the list itself,
//! because another pod or its own client was quicker, leaves it; if its form is another than the list's, those behind it
//! first lose what they knew of the one and then meet the other. A call takes many, each made on those before it: the
//! store appends them as long as nothing else comes in between, and the rest goes with the next call. So two pods may heal
//! at once, an old primary may answer late, and a pod may die in the middle: whoever goes on finds in the log what was put
//! back, and puts back the rest.
//!
//! What is put back names a session that nobody has. A client whose own edits are among it gets them along another way
//! than the one that it went itself, which only content can mend: its join is answered with that, and a session that
//! meets such an entry is ended by `rejoin`.

use std::{collections::VecDeque, sync::Arc};

use ot::{Delta, Op, Side};

use crate::{
    Batch, Canonical, Command, ConnectionId, Document, Entry, Identity, Logged, OpenError, Owed, Point, ReplyId,
    Snapshot, Verdict, Version,
    batch::ENTRY_FRAME_BYTES,
    connection::{Connection, Stage},
    cursors::Cursors,
    document::{Flight, Origin},
    edits::unavailable,
    queue::EditQueue,
    saving::Turn,
    window::History,
};

/// The session of entries that are put back.
pub(crate) const HEALED_SESSION: &str = "healed";

/// What [`Document::open_again`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reopened {
    /// The newest point that both histories have, if it is still known.
    pub common: Option<Point>,
    /// Entries of the old history after it that the new one has too: somebody put them back before.
    pub found: usize,
    /// What is to be put back.
    pub missing: usize,
    /// What cannot be put back, which [`Command::GivenUp`] counts: the histories part further back than the canonical
    /// forms reach.
    pub given_up: usize,
}

/// What is still to be put back.
#[derive(Debug, Default)]
pub(crate) struct Healing {
    list: VecDeque<Lost>,
}

/// One edit that the log does not have.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    identity: Identity,
    client_id: Arc<str>,
    user_id: Arc<str>,
    /// As it applies at the head, after those before it in the list.
    ops: Delta,
    replies: Vec<(ConnectionId, ReplyId)>,
    state: State,
}

/// How far one edit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is to be sent.
    Waiting,
    /// It is part of the commit call in flight.
    Sent,
    /// The store said that it is in the log as this version, which is not in view yet: it may have lost it since, so nothing
    /// follows from that alone.
    Expected(Version),
    /// The same of a version that lies below what is in view.
    Logged(Version),
}

impl Healing {
    /// An entry that becomes the head. Gives back the edit of the list that it is, if it is one.
    fn learn(&mut self, entry: &Canonical) -> Option<Lost> {
        // Where another user has a client's name now, its edits are still to be put back; the store will refuse them.
        let is_it = |lost: &Lost| entry.is(&lost.identity, &lost.user_id);
        let place = self.list.iter().position(is_it);
        let met = carry(self.list.iter_mut().take(place.unwrap_or(usize::MAX)), Delta::clone(&entry.ops));
        let lost = self.list.remove(place?)?;
        let place = place?;
        if lost.ops != met {
            carry(self.list.iter_mut().skip(place), shape_of_inverse(&lost.ops));
            carry(self.list.iter_mut().skip(place), met);
        }
        Some(lost)
    }

    /// The log is known up to this version: what was said to be in it by then, and was not met there, is not.
    pub(crate) fn expect_after(&mut self, version: Version) {
        for lost in &mut self.list {
            if matches!(lost.state, State::Expected(at) if at <= version) {
                lost.state = State::Waiting;
            }
        }
    }

    /// Whether a connection waits until one of them is in the log.
    pub(crate) fn is_awaited_by(&self, connection: ConnectionId) -> bool {
        self.list.iter().flat_map(|lost| &lost.replies).any(|(waiting, _)| *waiting == connection)
    }

    /// Takes out one edit; those behind it lose what they knew of it.
    fn remove(&mut self, place: usize) -> Option<Lost> {
        let lost = self.list.remove(place)?;
        carry(self.list.iter_mut().skip(place), shape_of_inverse(&lost.ops));
        Some(lost)
    }

    /// The store has forgotten the count that this edit belongs to: it and those behind it are counted anew, on every pod
    /// that puts them back alike.
    fn count_anew(&mut self, place: usize) {
        let Some(first) = self.list.get(place).map(|lost| lost.identity.clone()) else { return };
        for lost in self.list.iter_mut().skip(place).filter(|lost| lost.identity.is_counted_with(&first)) {
            lost.identity = lost.identity.counted_from(&first);
            if lost.state == State::Sent {
                lost.state = State::Waiting;
            }
        }
    }

    /// Takes out this edit and all of its client behind it: a number that is missing leaves no room for later ones.
    fn give_up(&mut self, place: usize) -> Vec<Lost> {
        let Some(first) = self.remove(place) else { return Vec::new() };
        let counted = first.identity.clone();
        let mut gone = vec![first];
        let is_later = |lost: &Lost| lost.identity.is_counted_with(&counted);
        while let Some(ahead) = self.list.iter().skip(place).position(is_later) {
            gone.extend(self.remove(place + ahead));
        }
        gone
    }
}

impl Document {
    /// Goes on with what the store holds now, after [`Command::Reopen`]. People, joins under way and acknowledgements
    /// that wait stay; what is missing in the log is put back before anything else. Calls that were under way must not be
    /// answered any more.
    ///
    /// # Errors
    /// What the store holds cannot be read; then nothing has changed, and this may be tried again.
    pub fn open_again(&mut self, snapshot: Snapshot, tail: Vec<Logged>, now_ms: u64) -> Result<Reopened, OpenError> {
        // What the log has after this copy's head, or ever had, is all in view.
        let shows_all = snapshot.at.version == 0
            || std::iter::once(&snapshot.at).chain(tail.iter().map(|logged| &logged.at)).any(|at| at == self.head());
        let history = History::open(&self.settings, snapshot, &tail)?;
        let common = common(&self.history, &history);
        let (mut healing, gone) = match &common {
            Some(common) if history.after(common.version).is_some() => {
                (self.lost_after(common.version), Healing::default())
            }
            // Further ahead than this copy remembers: its own entries are in there, or gone unnoticed.
            _ if self.head().version < history.floor() => (Healing::default(), self.lost_after(self.head().version)),
            _ => (Healing::default(), self.lost_after(self.history.floor())),
        };
        let (mut acknowledged, mut gone) = sift(gone, &history, &tail);
        if !shows_all {
            self.answer_nobody_in_flight(&mut gone);
        }
        let (mut found, given_up) = (acknowledged.len(), gone.len());
        self.restore(history);
        self.gave_up(gone);
        let floor = self.history.floor();
        for entry in self.history.after(common.as_ref().map_or(floor, |common| common.version)).into_iter().flatten() {
            if let Some(lost) = healing.learn(entry) {
                found += 1;
                acknowledged.push((lost, entry.at.version));
            }
        }
        self.carry_over_acknowledgements(
            common.as_ref().map_or(0, |common| common.version),
            &mut healing,
            &mut acknowledged,
        );
        for (lost, version) in acknowledged {
            self.acknowledge_lost(lost, version);
        }
        let missing = healing.list.len();
        self.healing = (missing > 0).then_some(healing);
        self.save_when_left |= missing > 0;
        self.start_anew(now_ms);
        Ok(Reopened { common, found, missing, given_up })
    }

    /// How much is still to be put back.
    pub fn missing(&self) -> usize {
        self.healing.as_ref().map_or(0, |healing| healing.list.len())
    }

    /// Takes from the list what needs not, or cannot, be put back; ends it when it is empty.
    pub(crate) fn settle_healing(&mut self) {
        let head = self.head().version;
        let rope = self.history.rope();
        let most = self.settings.sent_entry_bytes();
        let Some(healing) = &mut self.healing else { return };
        healing.expect_after(head);
        let is_fit = |ops: &Delta| ops.weight_bytes() <= most && rope.growth(ops).is_ok();
        let mut logged = Vec::new();
        // What the store calls logged without showing it lies before the point that both histories have.
        while let Some(&Lost { state: State::Logged(version), .. }) = healing.list.front() {
            logged.extend(healing.remove(0).map(|lost| (lost, version)));
        }
        let mut gone = Vec::new();
        while healing.list.front().is_some_and(|lost| lost.state != State::Sent && !is_fit(&lost.ops)) {
            gone.extend(healing.give_up(0));
        }
        if healing.list.is_empty() {
            self.healing = None;
        }
        self.gave_up(gone);
        for (lost, version) in logged {
            self.acknowledge_lost(lost, version);
        }
    }

    /// The canonical forms that are kept, oldest first: what can be put back after a failover.
    pub fn recent(&self) -> impl Iterator<Item = &Canonical> {
        self.history.after(self.history.floor()).into_iter().flatten().map(AsRef::as_ref)
    }

    /// Sends what is to be put back, as much as one call takes.
    pub(crate) fn flush_healing(&mut self) {
        let head = self.head().clone();
        let floor = self.history.wanted_floor();
        let Some(healing) = &mut self.healing else { return };
        // As the document will be where nothing comes in between.
        let mut rope = self.history.rope().clone();
        let session: Arc<str> = Arc::from(HEALED_SESSION);
        let (mut entries, mut origins, mut bytes) = (Vec::new(), Vec::new(), 0_usize);
        for (base, lost) in (head.version..).zip(healing.list.iter_mut().take(self.settings.batch_entries)) {
            bytes += lost.ops.weight_bytes() + ENTRY_FRAME_BYTES;
            let is_full = !entries.is_empty() && bytes > self.settings.batch_bytes;
            if is_full || lost.state != State::Waiting || rope.apply(&lost.ops).is_err() {
                break;
            }
            lost.state = State::Sent;
            origins.push(Origin {
                connection: None,
                session: session.clone(),
                client_id: lost.client_id.clone(),
                user_id: lost.user_id.clone(),
                identity: lost.identity.clone(),
                reply: None,
            });
            entries.push(Entry {
                identity: lost.identity.clone(),
                client_id: lost.client_id.clone(),
                user_id: lost.user_id.clone(),
                session: session.clone(),
                base,
                ops: lost.ops.clone(),
            });
        }
        if entries.is_empty() {
            return;
        }
        self.flight = Some(Flight { head: head.version, floor, origins });
        self.out.push(Command::Commit(Batch { head, floor, entries }));
    }

    /// What became of an edit that was sent.
    pub(crate) fn on_healed(&mut self, origin: &Origin, verdict: Verdict, is_whole: bool) {
        if let Verdict::Ok(version) | Verdict::Dup(version) = verdict {
            self.heard = self.heard.max(version);
        }
        let head = self.head().version;
        let Some(healing) = &mut self.healing else { return };
        // The log has brought it already, as it mostly does.
        let Some(place) = healing.list.iter().position(|lost| lost.identity == origin.identity) else { return };
        let Some(lost) = healing.list.get_mut(place) else { return };
        lost.state = State::Waiting;
        match verdict {
            Verdict::Ok(version) | Verdict::Dup(version) if version <= head => lost.state = State::Logged(version),
            Verdict::Ok(version) | Verdict::Dup(version) => lost.state = State::Expected(version),
            Verdict::Behind => {}
            // Only the whole log shows that it is not there.
            Verdict::Gap(0) if lost.identity.is_forgotten() && !is_whole => {}
            Verdict::Gap(0) if lost.identity.is_forgotten() => healing.count_anew(place),
            Verdict::Gap(_) | Verdict::Overloaded => {
                let gone = healing.give_up(place);
                self.gave_up(gone);
            }
        }
    }

    /// The log has a new entry.
    pub(crate) fn heal_learned(&mut self, entry: &Canonical) {
        if let Some(lost) = self.healing.as_mut().and_then(|healing| healing.learn(entry)) {
            self.acknowledge_lost(lost, entry.at.version);
        }
    }

    /// What was sent may be in the log where it is not in view, and what is in the log is never answered with an error.
    fn answer_nobody_in_flight(&self, gone: &mut [Lost]) {
        let sent: Vec<_> =
            self.flight.iter().flat_map(|flight| &flight.origins).map(|origin| &origin.identity).collect();
        for lost in gone.iter_mut().filter(|lost| sent.contains(&&lost.identity)) {
            lost.replies.clear();
        }
    }

    /// These are in no log and never will be.
    fn gave_up(&mut self, gone: Vec<Lost>) {
        if gone.is_empty() {
            return;
        }
        self.out.push(Command::GivenUp { edits: gone.len() });
        for (connection, reply) in gone.into_iter().flat_map(|lost| lost.replies) {
            let why = unavailable("a failover lost this edit, and it cannot be put back; send it anew");
            self.answer(connection, Some(reply), Err(why));
        }
    }

    fn acknowledge_lost(&mut self, lost: Lost, version: Version) {
        for (connection, reply) in lost.replies {
            let (identity, user_id) = (lost.identity.clone(), lost.user_id.clone());
            let owed = Owed { connection, reply, identity, user_id };
            self.acknowledge(owed, version);
        }
    }

    /// Everything after this version of the history that ends: its entries, what was being put back, what departed
    /// connections had sent, and what present ones had sent that they will not send again.
    fn lost_after(&mut self, version: Version) -> Healing {
        let mut list: VecDeque<Lost> = VecDeque::new();
        for entry in self.history.after(version).into_iter().flatten() {
            list.push_back(Lost {
                identity: entry.identity.clone(),
                client_id: entry.client_id.clone(),
                user_id: entry.user_id.clone(),
                ops: Delta::clone(&entry.ops),
                replies: Vec::new(),
                state: State::Waiting,
            });
        }
        for lost in self.healing.iter().flat_map(|healing| &healing.list) {
            list.push_back(Lost { state: State::Waiting, ..lost.clone() });
        }
        // All of these apply at the head; each is carried over those that stand before it now.
        let mut before: Vec<Delta> = Vec::new();
        let mut sessions: Vec<Vec<(u64, Lost)>> = self
            .draining
            .iter()
            .chain(self.connections.values().map(Box::as_ref))
            .map(|connection| self.unfinished(connection))
            .collect();
        sessions.retain(|session| !session.is_empty());
        sessions.sort_by_key(|session| session.first().map(|(arrival, _)| *arrival));
        for mut session in sessions {
            for entry in &before {
                let _ = carry(session.iter_mut().map(|(_, lost)| lost), entry.clone());
            }
            before.extend(session.iter().map(|(_, lost)| lost.ops.clone()));
            list.extend(session.into_iter().map(|(_, lost)| lost));
        }
        Healing { list }
    }

    /// What a connection has sent that nobody will send again, with the place it came in.
    fn unfinished(&self, connection: &Connection) -> Vec<(u64, Lost)> {
        let is_gone = self.connections.get(&connection.id).is_none_or(|here| here.session != connection.session);
        let in_flight = |identity: &Identity| {
            let origins = self.flight.iter().flat_map(|flight| &flight.origins);
            origins.into_iter().find(|origin| origin.identity == *identity).and_then(|origin| origin.reply)
        };
        let pending = connection.chain.pending().iter();
        // A client that counts its edits sends them again itself.
        pending
            .take_while(|own| is_gone || own.identity.by_gateway || matches!(connection.stage, Stage::Joining(_)))
            .map(|own| {
                let reply = own.reply.or_else(|| in_flight(&own.identity));
                let lost = Lost {
                    identity: own.identity.clone(),
                    client_id: connection.client_id.clone(),
                    user_id: connection.user.id.clone(),
                    ops: own.ops.clone(),
                    replies: reply.map(|reply| (connection.id, reply)).into_iter().collect(),
                    state: State::Waiting,
                };
                (own.arrival, lost)
            })
            .collect()
    }

    /// Acknowledgements that waited to be durable wait anew: for what the log has, for what is to be put back.
    fn carry_over_acknowledgements(
        &mut self,
        common: Version,
        healing: &mut Healing,
        acknowledged: &mut [(Lost, Version)],
    ) {
        for waiting in self.durability.start_over() {
            let Owed { identity, user_id, .. } = &waiting.owed;
            let is_it = |lost: &Lost| lost.identity == *identity && lost.user_id == *user_id;
            // What only a reply said may be of the history that ended.
            let kept = if waiting.is_seen {
                Some(waiting.version).filter(|version| *version <= common)
            } else {
                self.history.version_of(identity, user_id)
            };
            if let Some(version) = kept {
                self.acknowledge(waiting.owed, version);
            } else if let Some(lost) =
                acknowledged.iter_mut().map(|(lost, _)| lost).chain(&mut healing.list).find(|lost| is_it(lost))
            {
                lost.replies.push((waiting.owed.connection, waiting.owed.reply));
            }
            // Else it is lost, and its client sends it again when it has joined.
        }
    }

    /// Takes the new history, and forgets what belonged to the old one.
    fn restore(&mut self, history: History) {
        self.heard = history.head().version;
        self.history = history;
        self.draining.clear();
        self.waiting.clear();
        self.busy.clear();
        self.lookups.clear();
        self.flight = None;
        self.stalled_at = None;
        self.fetching = None;
        self.fetched = self.fetches;
        self.vain_fetches = 0;
        self.fetch_wanted = false;
        self.away_since_ms = None;
        self.forget_saving();
        self.turn = Turn::default();
        // A lookup or a verdict tells.
        self.newline_seq = 0;
        self.newline_wanted = false;
        self.reopening = false;
    }

    /// Starts again what was under way. Positions of cursors meant the other history.
    fn start_anew(&mut self, now_ms: u64) {
        self.cursors = Cursors::default();
        self.answer_cursors_at_ms = None;
        self.ask_for_cursors = true;
        self.presence.unread(now_ms);
        self.presence.written(false, now_ms);
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.paused = false;
                match std::mem::replace(&mut connection.stage, Stage::Joined) {
                    Stage::Joining(mut joining) => {
                        if connection.present {
                            // Since it sent this join it may have got entries that are lost.
                            joining.version = None;
                        }
                        // What was taken of its early edits is in the list.
                        let mut early = std::mem::take(&mut connection.inbox);
                        early.append(&mut joining.early);
                        joining.early = early;
                        (joining.row, joining.reach) = (None, 0);
                        (joining.is_foreign, joining.prepared) = (false, false);
                        joining.since_ms = now_ms;
                        connection.stage = Stage::Joining(joining);
                    }
                    Stage::Joined => connection.stage = Stage::Rejoining(EditQueue::default()),
                    rejoining @ Stage::Rejoining(_) => connection.stage = rejoining,
                }
                connection.reset();
            }
            self.look_up(id);
            self.check_pause(id);
        }
    }
}

/// Of what cannot be carried over a history, what is in its log all the same, with its version there; and the rest.
fn sift(gone: Healing, history: &History, tail: &[Logged]) -> (Vec<(Lost, Version)>, Vec<Lost>) {
    let version_of = |lost: &Lost| {
        let is_it = |entry: &Entry| entry.identity == lost.identity && entry.user_id == lost.user_id;
        let in_tail = || tail.iter().find(|logged| is_it(&logged.entry)).map(|logged| logged.at.version);
        history.version_of(&lost.identity, &lost.user_id).or_else(in_tail)
    };
    let (mut logged, mut rest) = (Vec::new(), Vec::new());
    for lost in gone.list {
        match version_of(&lost) {
            Some(version) => logged.push((lost, version)),
            None => rest.push(lost),
        }
    }
    (logged, rest)
}

/// The newest point that both have.
fn common(old: &History, new: &History) -> Option<Point> {
    let (newest, oldest) = (old.head().version.min(new.head().version), old.floor().max(new.floor()));
    let is_common = |version: &Version| old.hash(*version).is_some_and(|hash| new.hash(*version) == Some(hash));
    let version = (oldest..=newest).rev().find(is_common)?;
    Some(Point { version, hash: old.hash(version)?.clone() })
}

/// Carries an entry over edits that apply after it, each after those before it, and them over it, all from the old
/// values. Gives back the entry as it applies after them.
fn carry<'a>(edits: impl Iterator<Item = &'a mut Lost>, entry: Delta) -> Delta {
    edits.fold(entry, |entry, lost| {
        let carried = entry.transform(&lost.ops, Side::Other);
        let entry = lost.ops.transform(&entry, Side::This);
        lost.ops = carried;
        entry
    })
}

/// Takes back an edit as far as positions behind it care: what it deleted comes back in length alone, and formats stay.
/// Only ever carried over, never applied.
fn shape_of_inverse(ops: &Delta) -> Delta {
    let inverse = ops.ops().iter().fold(Delta::new(), |inverse, op| match op {
        Op::Insert { .. } | Op::Embed { .. } => inverse.delete(op.length()),
        Op::Retain { length, .. } => inverse.retain(*length, None),
        Op::Delete { length } => inverse.insert(&"\u{FFFC}".repeat(*length), None),
    });
    inverse.chop()
}
