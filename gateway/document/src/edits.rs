//! Edits as clients send them.
//!
//! In: edits of one connection, in order. Out: pending edits in the connection's chain, or a refusal, which ends the
//! session for edits. Numbers are taken in order; a number that the log has already is answered with its version.

use std::sync::Arc;

use ot::{Delta, Op};

use crate::{
    Answer, Canonical, Code, Command, ConnectionId, Document, Edit, Identity, Refusal, ReplyId, Role, Version,
    chain::Own,
    connection::{Connection, Stage},
};

/// Where a connection whose edits wait is cut off although its socket should have been read no further.
const MAX_WAITING_EDITS: usize = 4_096;
/// When a client may try again after the store was away, in milliseconds.
const RETRY_MS: u64 = 1_000;

impl Document {
    pub(crate) fn on_edit(&mut self, edit: Edit, now_ms: u64) {
        let id = edit.connection;
        let early_edits = self.settings.early_edits;
        let sessions = self.settings.mutation != crate::Mutation::NoSessions;
        let Some(connection) = self.connections.get_mut(&id) else {
            return self.answer_edit(&edit, refusal(Code::NotJoined, "join the document first"));
        };
        let full = match &mut connection.stage {
            Stage::Joined => {
                // The client sends it again under its new session, unless it is in the log already.
                if sessions && !belongs(&edit, connection) {
                    let committed = edit.seq.filter(|seq| edit.session.is_none() && *seq <= connection.last_seq);
                    if let Some(seq) = committed {
                        let last = connection.last_version;
                        let version = self.kept_version(id, seq).unwrap_or(last);
                        self.acknowledge(id, edit.reply, Some(seq), version);
                    }
                    return;
                }
                if connection.inbox.len() < MAX_WAITING_EDITS {
                    connection.inbox.push_back(edit);
                    self.waiting.insert(id);
                    return self.open_inbox(id, now_ms);
                }
                true
            }
            _ if edit.session.is_some() => return,
            Stage::Joining(joining) if joining.early.len() < early_edits => {
                joining.early.push_back(edit);
                return;
            }
            Stage::Rejoining(early) if early.len() < early_edits => {
                early.push((edit, now_ms));
                return;
            }
            Stage::Joining(_) | Stage::Rejoining(_) => false,
        };
        let why = if full {
            refusal(Code::Overloaded, "too many edits are waiting; join again")
        } else {
            refusal(Code::NotJoined, "too many edits before the join")
        };
        self.refuse_edit(id, edit.reply, edit.seq, why);
    }

    /// Takes from all inboxes what this pod has reached.
    pub(crate) fn open_inboxes(&mut self, now_ms: u64) {
        for id in self.waiting.clone() {
            self.open_inbox(id, now_ms);
        }
    }

    pub(crate) fn open_inbox(&mut self, id: ConnectionId, now_ms: u64) {
        loop {
            let head = self.head().version;
            let Some(connection) = self.connections.get_mut(&id) else { break };
            let ended = connection.ended;
            let Some(edit) = connection.inbox.pop_front_if(|edit| ended || edit.version <= head) else { break };
            self.accept(id, edit, now_ms);
        }
        if self.connections.get(&id).is_none_or(|connection| connection.inbox.is_empty()) {
            self.waiting.remove(&id);
        }
        self.check_pause(id);
    }

    /// Takes one edit whose version this pod has reached.
    fn accept(&mut self, id: ConnectionId, edit: Edit, now_ms: u64) {
        let mutation = self.settings.mutation;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.ended {
            return self.refuse_edit(id, edit.reply, edit.seq, after_refusal());
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
        let role = connection.role;
        if !allowed(role, &edit.ops) {
            return self.refuse_edit(id, edit.reply, edit.seq, read_only(role));
        }
        let identity = match edit.seq {
            Some(seq) => Identity { id: connection.client_id.clone(), seq, by_gateway: false },
            None => Identity { id: connection.session.clone(), seq: connection.gateway_seq + 1, by_gateway: true },
        };
        self.arrivals += 1;
        let own = Own {
            identity,
            ops: edit.ops,
            reply: edit.reply,
            arrival: self.arrivals,
            received_ms: now_ms,
            sent: false,
            refused_after: None,
        };
        let client_id = connection.client_id.clone();
        if connection.chain.add(&self.history, &client_id, edit.version, own, mutation).is_err() {
            return self.refuse_edit(id, edit.reply, edit.seq, too_old(edit.version));
        }
        match edit.seq {
            Some(seq) => connection.taken_seq = seq,
            None => connection.gateway_seq += 1,
        }
        self.busy.insert(id);
    }

    /// An edit that was in the log before this session began.
    fn accept_committed(&mut self, id: ConnectionId, edit: Edit, seq: u64) {
        let kept = self.kept_version(id, seq);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(version) = kept {
            // Those behind it may be relative to it. Where it cannot be placed they cannot either, and are refused.
            let _ = connection.chain.add_committed(&self.history, edit.version, edit.ops, version);
        }
        let version = kept.unwrap_or(connection.last_version);
        self.acknowledge(id, edit.reply, Some(seq), version);
    }

    /// The version of an edit of this connection's client, while its canonical form is kept.
    fn kept_version(&self, id: ConnectionId, seq: u64) -> Option<Version> {
        let client_id = &self.connections.get(&id)?.client_id;
        let mut kept = self.history.after(self.history.floor())?;
        let is_it = |entry: &&Arc<Canonical>| {
            !entry.identity.by_gateway && entry.identity.seq == seq && entry.identity.id == *client_id
        };
        kept.find(is_it).map(|entry| entry.at.version)
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
        let mut why = Some(why);
        for own in gone {
            let seq = (!own.identity.by_gateway).then_some(own.identity.seq);
            self.refuse_edit(id, own.reply, seq, why.take().unwrap_or_else(after_refusal));
        }
        self.check_pause(id);
    }

    /// Reads a connection no further while too much of it waits, and goes on when half of that is done.
    pub(crate) fn check_pause(&mut self, id: ConnectionId) {
        let (most_edits, most_bytes) = (self.settings.held_edits, self.settings.held_bytes);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let edits = connection.chain.pending().len() + connection.inbox.len();
        let bytes = connection.chain.pending_bytes();
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

    /// Refuses edits that have waited too long for a store that is away; not those whose fate is unknown.
    pub(crate) fn refuse_held(&mut self, now_ms: u64) {
        let Some(away_since_ms) = self.away_since_ms else { return };
        for id in self.busy.clone() {
            let due = self.connections.get(&id).and_then(|connection| {
                let (index, own) = first_held(connection)?;
                (held_until(away_since_ms, own.received_ms, self.settings.held_ms) <= now_ms).then_some(index)
            });
            if let Some(index) = due {
                let why = unavailable("the store is away; nothing of this edit was stored; join again");
                self.refuse_pending(id, index, why);
            }
        }
        let held_ms = self.settings.held_ms;
        for connection in &mut self.draining {
            if let Some((index, own)) = first_held(connection)
                && held_until(away_since_ms, own.received_ms, held_ms) <= now_ms
            {
                connection.chain.cut(index);
            }
        }
    }

    /// When [`Self::refuse_held`] has something to do.
    pub(crate) fn held_deadline_ms(&self) -> Option<u64> {
        let away_since_ms = self.away_since_ms?;
        let busy = self.busy.iter().filter_map(|id| self.connections.get(id));
        busy.chain(&self.draining)
            .filter_map(first_held)
            .map(|(_, own)| held_until(away_since_ms, own.received_ms, self.settings.held_ms))
            .min()
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
                attributes.as_ref().is_none_or(|map| map.keys().all(|name| name.starts_with("comment")))
            }
            Op::Insert { .. } | Op::Embed { .. } | Op::Delete { .. } => false,
        }),
    }
}

/// Whether the client had taken `document-joined` when it sent this edit. One that names no session but a version below
/// that of the join was under way meanwhile: whoever counts its edits carries it over what the join told and sends it
/// again, and the two forms need not be the same. Whoever does not count them never would.
fn belongs(edit: &Edit, connection: &Connection) -> bool {
    match &edit.session {
        Some(session) => *session == connection.session,
        None => edit.seq.is_none() || edit.version >= connection.joined_version,
    }
}

/// The first pending edit that was not sent to the store.
fn first_held(connection: &Connection) -> Option<(usize, &Own)> {
    connection.chain.pending().iter().enumerate().find(|(_, own)| !own.sent)
}

fn held_until(away_since_ms: u64, received_ms: u64, held_ms: u64) -> u64 {
    away_since_ms.max(received_ms).saturating_add(held_ms)
}
