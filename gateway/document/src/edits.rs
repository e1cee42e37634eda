//! Edits as clients send them.
//!
//! In: edits of one connection, in order. Out: pending edits in the connection's chain, or a refusal, which ends the
//! session for edits. Numbers are taken in order; a number that the log has already is answered with its version.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ot::{Delta, Op};

use crate::{
    Answer, Canonical, Code, Command, ConnectionId, Document, Edit, Identity, Owed, Refusal, ReplyId, Role, Version,
    chain::Own,
    connection::{Connection, Stage},
    queue::Queued,
    window::History,
};

/// Where a connection whose edits wait is cut off although its socket should have been read no further.
const MAX_WAITING_EDITS: usize = 4_096;
/// Edits before the join are kept this long, in milliseconds.
const EARLY_MS: u64 = 10_000;
/// When a client may try again after the store was away, in milliseconds.
const RETRY_MS: u64 = 1_000;

impl Document {
    pub(crate) fn on_edit(&mut self, edit: Edit, now_ms: u64) {
        let id = edit.connection;
        let (early_edits, held_bytes) = (self.settings.early_edits, self.settings.held_bytes);
        let sessions = self.settings.mutation != crate::Mutation::NoSessions;
        let Some(connection) = self.connections.get_mut(&id) else {
            // One that names a session names one that is over: the client knows, or is told by another answer.
            if !sessions || edit.session.is_none() {
                self.answer_edit(&edit, refusal(Code::NotJoined, "join the document first"));
            }
            return;
        };
        let full = match &mut connection.stage {
            Stage::Joined => {
                // The client sends it again under its new session, unless it is in the log already.
                if sessions && !belongs(&edit, connection, &self.history) {
                    let committed = edit.seq.filter(|seq| edit.session.is_none() && *seq <= connection.last_seq);
                    if let Some(seq) = committed {
                        let last = connection.last_version;
                        let version = self.kept_version(id, seq).unwrap_or(last);
                        self.acknowledge_seen(id, edit.reply, seq, version);
                    }
                    return;
                }
                if connection.inbox.len() < MAX_WAITING_EDITS {
                    connection.inbox.push(edit, now_ms);
                    self.waiting.insert(id);
                    return self.open_inbox(id);
                }
                true
            }
            _ if edit.session.is_some() => return,
            Stage::Joining(joining) if joining.early.len() < early_edits => {
                joining.early.push(edit, now_ms);
                return self.check_pause(id);
            }
            // The socket must be read on, for the join is still to come: here bytes are bounded by refusing.
            Stage::Rejoining(early)
                if !connection.ended
                    && early.len() < early_edits
                    && (early.is_empty() || early.bytes() + edit.ops.weight_bytes() <= held_bytes) =>
            {
                early.push(edit, now_ms);
                self.early.insert(id);
                return;
            }
            Stage::Joining(_) | Stage::Rejoining(_) => false,
        };
        let why = if full {
            overloaded("too many edits are waiting; join again")
        } else {
            refusal(Code::NotJoined, "too many edits before the join")
        };
        self.refuse_edit(id, edit.reply, edit.seq, why);
    }

    /// Takes from all inboxes what this pod has reached.
    pub(crate) fn open_inboxes(&mut self) {
        for id in self.waiting.clone() {
            self.open_inbox(id);
        }
    }

    pub(crate) fn open_inbox(&mut self, id: ConnectionId) {
        loop {
            let head = self.head().version;
            let Some(connection) = self.connections.get_mut(&id) else { break };
            let ended = connection.ended;
            let is_due = |edit: &Edit| ended || edit.unreadable.is_some() || edit.version <= head;
            let Some(Queued { edit, received_ms }) = connection.inbox.pop_if(is_due) else { break };
            self.accept(id, edit, received_ms);
        }
        if self.connections.get(&id).is_none_or(|connection| connection.inbox.is_empty()) {
            self.waiting.remove(&id);
        }
        self.check_pause(id);
    }

    /// Takes one edit whose version this pod has reached.
    fn accept(&mut self, id: ConnectionId, edit: Edit, received_ms: u64) {
        let mutation = self.settings.mutation;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.ended {
            // What is in the log is never answered with an error.
            let (version, committed) = (connection.last_version, edit.seq.filter(|seq| *seq <= connection.last_seq));
            let Some(seq) = committed else {
                return self.refuse_edit(id, edit.reply, edit.seq, after_refusal());
            };
            let version = self.kept_version(id, seq).unwrap_or(version);
            return self.acknowledge_seen(id, edit.reply, seq, version);
        }
        if let Some(seq) = edit.seq {
            if seq < connection.next_seq {
                return;
            }
            let next = connection.taken_seq.saturating_add(1);
            if seq > next {
                let message = format!("number {seq} came where {next} was due; join again");
                return self.refuse_edit(id, edit.reply, edit.seq, refusal(Code::SeqGap, message));
            }
            connection.next_seq = seq.saturating_add(1);
            if seq <= connection.taken_seq {
                return self.accept_committed(id, edit, seq);
            }
        }
        if let Some(why) = edit.unreadable {
            return self.refuse_edit(id, edit.reply, edit.seq, *why);
        }
        let role = connection.role;
        if !allowed(role, &edit.ops) {
            return self.refuse_edit(id, edit.reply, edit.seq, read_only(role));
        }
        let identity = match edit.seq {
            Some(seq) => Identity { id: connection.client_id.clone(), seq, by_gateway: false },
            None => connection.counted.next(),
        };
        self.arrivals += 1;
        let own = Own {
            identity: identity.clone(),
            ops: edit.ops,
            reply: edit.reply,
            arrival: self.arrivals,
            received_ms,
            sent: false,
            refused_after: None,
        };
        let client_id = connection.client_id.clone();
        if connection.chain.add(&self.history, &client_id, edit.version, own, mutation).is_err() {
            return self.refuse_edit(id, edit.reply, edit.seq, too_old(edit.version));
        }
        match edit.seq {
            Some(seq) => connection.taken_seq = seq,
            None => connection.counted = identity,
        }
        self.busy.insert(id);
    }

    /// An edit that was in the log before this session began.
    fn accept_committed(&mut self, id: ConnectionId, edit: Edit, seq: u64) {
        let kept = self.kept_version(id, seq);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if edit.unreadable.is_some() {
            // What those behind it are relative to is not known.
            connection.ended = true;
        } else if let Some(version) = kept {
            // Those behind it may be relative to it. Where it cannot be placed they cannot either, and are refused.
            let _ = connection.chain.add_committed(&self.history, edit.version, edit.ops, version);
        }
        let version = kept.unwrap_or(connection.last_version);
        self.acknowledge_seen(id, edit.reply, seq, version);
    }

    /// Answers an edit that this pod knows to be in the log.
    fn acknowledge_seen(&mut self, id: ConnectionId, reply: Option<ReplyId>, seq: u64, version: Version) {
        if let (Some(connection), Some(reply)) = (self.connections.get(&id), reply) {
            let identity = Identity { id: connection.client_id.clone(), seq, by_gateway: false };
            let user_id = connection.user.id.clone();
            self.acknowledge(Owed { connection: id, reply, identity, user_id }, version);
        }
    }

    /// The version of an edit of this connection's client, while its canonical form is kept.
    fn kept_version(&self, id: ConnectionId, seq: u64) -> Option<Version> {
        let connection = self.connections.get(&id)?;
        let identity = Identity { id: connection.client_id.clone(), seq, by_gateway: false };
        self.history.version_of(&identity, &connection.user.id)
    }

    /// Refuses an edit, which ends the session for edits.
    pub(crate) fn refuse_edit(&mut self, id: ConnectionId, reply: Option<ReplyId>, seq: Option<u64>, why: Refusal) {
        let mut why = why;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ended = true;
            if why.code == Code::SeqGap {
                why.last_seq.get_or_insert(connection.last_seq);
            }
        }
        why.seq = seq;
        self.out.push(Command::Answer { to: id, reply, answer: Err(why) });
    }

    /// Refuses the pending edits from the `index`th on: the first for this reason, the others because it was.
    pub(crate) fn refuse_pending(&mut self, id: ConnectionId, index: usize, why: Refusal) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let gone = connection.chain.cut(index);
        if connection.chain.pending().is_empty() {
            self.busy.remove(&id);
        }
        connection.ended |= !gone.is_empty();
        let last_seq = connection.last_seq;
        self.answer_refused(id, last_seq, gone, why);
        self.check_pause(id);
    }

    /// Answers edits of a session that are not in the log: the first for this reason, the others because it was.
    pub(crate) fn answer_refused(&mut self, id: ConnectionId, last_seq: u64, gone: VecDeque<Own>, why: Refusal) {
        let mut why = Some(why);
        for own in gone {
            let seq = (!own.identity.by_gateway).then_some(own.identity.seq);
            let mut why = Refusal { seq, ..why.take().unwrap_or_else(after_refusal) };
            if why.code == Code::SeqGap {
                why.last_seq.get_or_insert(last_seq);
            }
            self.answer(id, own.reply, Err(why));
        }
    }

    /// Refuses joins that have waited too long for the same; they come again.
    pub(crate) fn refuse_late_joins(&mut self, now_ms: u64) {
        let Some(too_old_ms) = self.too_old_ms(now_ms) else { return };
        let is_late = |connection: &Connection| match &connection.stage {
            Stage::Joining(joining) => joining.since_ms <= too_old_ms,
            Stage::Joined | Stage::Rejoining(_) => false,
        };
        let joining = self.joining.iter().filter_map(|id| self.connections.get(id));
        let late: Vec<_> = joining.filter(|connection| is_late(connection)).map(|connection| connection.id).collect();
        for id in late {
            self.end_join(id, unavailable(&format!("{}; join again", self.what_stopped())), now_ms);
        }
    }

    /// What has come until then has waited too long for what has stopped; none while that is not long enough ago.
    fn too_old_ms(&self, now_ms: u64) -> Option<u64> {
        let too_old_ms = now_ms.checked_sub(self.settings.held_ms)?;
        self.stopped_since_ms().filter(|since_ms| *since_ms <= too_old_ms).map(|_| too_old_ms)
    }

    fn what_stopped(&self) -> &'static str {
        if self.away_since_ms.is_some() { "the store is away" } else { "too many edits wait for the store's replicas" }
    }

    /// Reads a connection no further while too much of it waits, and goes on when half of that is done.
    pub(crate) fn check_pause(&mut self, id: ConnectionId) {
        let (most_edits, most_bytes) = (self.settings.held_edits, self.settings.held_bytes);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (edits, bytes) = connection.waiting();
        let pause = if connection.paused {
            edits > most_edits / 2 || bytes > most_bytes / 2
        } else {
            edits > most_edits || bytes > most_bytes
        };
        if pause != connection.paused {
            connection.paused = pause;
            self.out.push(Command::PauseReading { connection: id, pause });
        }
    }

    /// Refuses edits that have waited too long: for a store that is away or whose replicas are, unless their fate is
    /// unknown, and for a join that does not come.
    pub(crate) fn refuse_late(&mut self, now_ms: u64) {
        self.refuse_early(now_ms);
        self.refuse_late_joins(now_ms);
        let Some(too_old_ms) = self.too_old_ms(now_ms) else { return };
        let first_late =
            |connection: &Connection| first_held(connection).filter(|(_, since_ms)| *since_ms <= too_old_ms);
        let mut late_edits = BTreeMap::new();
        for connection in self.busy.iter().chain(&self.waiting).filter_map(|id| self.connections.get(id)) {
            if let Some((index, _)) = first_late(connection) {
                late_edits.insert(connection.id, index);
            }
        }
        for connection in &mut self.draining {
            if let Some((index, _)) = first_late(connection) {
                connection.chain.cut(index.unwrap_or(0));
            }
        }
        for (id, index) in late_edits {
            let why = unavailable(&format!("{}; nothing of this edit was stored; join again", self.what_stopped()));
            match index {
                Some(index) => self.refuse_pending(id, index, why),
                None => self.refuse_first_waiting(id, why),
            }
        }
    }

    /// When [`Self::refuse_late`] has something to do.
    pub(crate) fn late_deadline_ms(&self) -> Option<u64> {
        let early = self.early.iter().filter_map(|id| first_early_ms(self.connections.get(id)?)).min();
        let early = early.map(|since_ms| since_ms.saturating_add(EARLY_MS));
        let held = self.stopped_since_ms().and_then(|stopped_since_ms| {
            let here = self.ids_held().filter_map(|id| self.connections.get(id)).map(Box::as_ref);
            let first_ms = here.chain(&self.draining).filter_map(|connection| match &connection.stage {
                Stage::Joining(joining) => Some(joining.since_ms),
                Stage::Joined | Stage::Rejoining(_) => first_held(connection).map(|(_, since_ms)| since_ms),
            });
            let first_ms = first_ms.min()?;
            Some(stopped_since_ms.max(first_ms).saturating_add(self.settings.held_ms))
        });
        early.into_iter().chain(held).min()
    }

    /// Refuses what came after `rejoin` without a session, when no join has followed; later ones make no sense either,
    /// until a join.
    fn refuse_early(&mut self, now_ms: u64) {
        let is_late = |since_ms: u64| since_ms.saturating_add(EARLY_MS) <= now_ms;
        let first_ms = |id: &ConnectionId| first_early_ms(self.connections.get(id)?);
        let late: Vec<_> = self.early.iter().filter(|id| first_ms(id).is_some_and(is_late)).copied().collect();
        for id in late {
            self.early.remove(&id);
            let Some(Stage::Rejoining(early)) = self.connections.get_mut(&id).map(|connection| &mut connection.stage)
            else {
                continue;
            };
            for Queued { edit, .. } in early.take() {
                self.refuse_edit(id, edit.reply, edit.seq, refusal(Code::NotJoined, "no join came; join again"));
            }
        }
    }

    /// Since when nothing is committed, for whichever reason came first.
    fn stopped_since_ms(&self) -> Option<u64> {
        self.away_since_ms.into_iter().chain(self.full_since_ms).min()
    }

    /// What waits of all connections, in bytes: a bound for the pod, not exact.
    pub(crate) fn waiting_bytes(&self) -> usize {
        let later = self.waiting.iter().filter(|id| !self.busy.contains(*id));
        let joining = self.joining.iter().filter(|id| !self.busy.contains(*id) && !self.waiting.contains(*id));
        let held = self.busy.iter().chain(later).chain(joining).filter_map(|id| self.connections.get(id));
        held.map(|connection| connection.waiting().1).sum()
    }

    /// Connections of which something may wait for the store.
    fn ids_held(&self) -> impl Iterator<Item = &ConnectionId> {
        self.busy.iter().chain(&self.waiting).chain(&self.joining)
    }

    /// Refuses the edit that waits longest for its version, and so those behind it.
    fn refuse_first_waiting(&mut self, id: ConnectionId, why: Refusal) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(Queued { edit, .. }) = connection.inbox.pop_if(|_| true) {
            self.refuse_edit(id, edit.reply, edit.seq, why);
            self.check_pause(id);
        }
    }

    pub(crate) fn answer(&mut self, to: ConnectionId, reply: Option<ReplyId>, answer: Result<Answer, Refusal>) {
        // Without a callback there is nobody to hear of a success.
        if reply.is_some() || answer.is_err() {
            self.out.push(Command::Answer { to, reply, answer });
        }
    }

    fn answer_edit(&mut self, edit: &Edit, why: Refusal) {
        let mut why = why;
        why.seq = edit.seq;
        self.answer(edit.connection, edit.reply, Err(why));
    }
}

pub(crate) fn refusal(code: Code, message: impl Into<String>) -> Refusal {
    Refusal::new(code, message)
}

pub(crate) fn unavailable(message: &str) -> Refusal {
    Refusal { retry_after_ms: Some(RETRY_MS), ..refusal(Code::StoreUnavailable, message) }
}

pub(crate) fn overloaded(message: &str) -> Refusal {
    Refusal { retry_after_ms: Some(RETRY_MS), ..refusal(Code::Overloaded, message) }
}

fn after_refusal() -> Refusal {
    refusal(Code::SeqGap, "an earlier edit of this session was refused; join again")
}

fn too_old(version: Version) -> Refusal {
    refusal(Code::VersionTooOld, format!("version {version} is too far back; join again"))
}

pub(crate) fn read_only(role: Role) -> Refusal {
    let message = match role {
        Role::Write => "this edit is not allowed",
        Role::Comment => "only attributes whose name begins with `comment` may be set",
        Role::Read => "you may read this document, not change it",
    };
    refusal(Code::ReadOnly, message)
}

/// Whether this role may make this edit. The empty edit, which a refused one becomes, is everybody's.
pub(crate) fn allowed(role: Role, ops: &Delta) -> bool {
    match role {
        Role::Write => true,
        Role::Read => ops.is_empty(),
        Role::Comment => ops.ops().iter().all(|op| match op {
            Op::Retain { attributes, .. } => {
                attributes.as_ref().is_none_or(|map| map.iter().all(|(name, _)| name.starts_with("comment")))
            }
            Op::Insert { .. } | Op::Embed { .. } | Op::Delete { .. } => false,
        }),
    }
}

/// Whether an edit is placed in this session the same way by pod and client. One that names no session but a version
/// below that of the join was sent before the client took `document-joined`: whoever counts its edits carries it over the
/// difference that the join made and sends it again, and that may be another form than the pod's, which carries it over
/// the entries; unless these are all the client's own, over which nothing is carried. Whoever does not count its edits
/// never sends them again.
fn belongs(edit: &Edit, connection: &Connection, history: &History) -> bool {
    match &edit.session {
        Some(session) => *session == connection.session,
        None => {
            edit.seq.is_none()
                || edit.unreadable.is_some()
                || edit.version >= connection.joined_version
                || are_own(edit.version, connection, history)
        }
    }
}

/// Whether all entries after this version up to that of the join are the client's own.
fn are_own(after: Version, connection: &Connection, history: &History) -> bool {
    let own = |entry: &Arc<Canonical>| !entry.identity.by_gateway && entry.identity.id == connection.client_id;
    history.after(after).is_some_and(|mut entries| {
        entries.by_ref().take_while(|entry| entry.at.version <= connection.joined_version).all(own)
    })
}

/// The first edit that was not sent to the store, and when it came; without an index where it waits for its version.
fn first_held(connection: &Connection) -> Option<(Option<usize>, u64)> {
    let pending = connection.chain.pending().iter().enumerate().find(|(_, own)| !own.sent);
    let waiting = || connection.inbox.front().map(|queued| (None, queued.received_ms));
    pending.map(|(index, own)| (Some(index), own.received_ms)).or_else(waiting)
}

/// When the first edit came that waits for a join which the client has not sent.
fn first_early_ms(connection: &Connection) -> Option<u64> {
    match &connection.stage {
        Stage::Rejoining(early) => early.front().map(|queued| queued.received_ms),
        Stage::Joining(_) | Stage::Joined => None,
    }
}
