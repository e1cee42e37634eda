//! Joins.
//!
//! In: `join-document`, and what the store says of the user and the client. Out: `document-joined`, by entries where the
//! client can go on from what it has, else by content. Before that, in order: the store is asked; the pod catches up with
//! what the store knows of the client; what an older session of this client left here is committed; edits that came before
//! the join are committed; for Quill a newline at the end is.

use std::sync::Arc;

use ot::Delta;

use crate::{
    Answer, Canonical, ClientRow, Code, Command, ConnectionId, Document, Entry, Event, Form, Identity, Join, Joined,
    JoinedContent, Lookup, Mutation, Refusal, Role, Verdict,
    chain::Chain,
    connection::{Connection, Joining, Stage},
    document::Origin,
    edits::{overloaded, refusal},
    queue::{EditQueue, Queued},
    window::weight_bytes,
};

/// The client that the gateway's own newlines are counted for. No connection may have this name.
pub(crate) const NEWLINE_CLIENT: &str = "newline";
/// Joins of one connection that wait for the same answer.
const MAX_REPLIES: usize = 64;

impl Document {
    pub(crate) fn on_join(&mut self, join: Join, now_ms: u64) {
        let id = join.connection;
        if *join.client_id == *NEWLINE_CLIENT {
            return self.refuse_join(&join, refusal(Code::BadRequest, "the clientId `newline` is the gateway's own"));
        }
        let mut same_client = Vec::new();
        // Another user's with this name is none of this join's business: whose the name is, the log says.
        for other in self.connections.of(&join.user.id).iter().filter(|other| **other != id) {
            if self.connections.get(other).is_some_and(|connection| connection.client_id == join.client_id) {
                if *other > id {
                    return self
                        .refuse_join(&join, refusal(Code::ClientReplaced, "a newer connection has this clientId"));
                }
                same_client.push(*other);
            }
        }
        for other in same_client {
            self.depart(other, true, now_ms);
        }
        let mut early = EditQueue::default();
        for edit in join.early {
            early.push(edit, now_ms);
        }
        let joining = Joining {
            form: join.form,
            version: join.version,
            hash: join.hash,
            last_session: join.last_session,
            seq: join.seq,
            early,
            replies: join.reply.into_iter().collect(),
            since_ms: now_ms,
            row: None,
            reach: 0,
            is_foreign: false,
            prepared: false,
        };
        self.joining.insert(id);
        self.waiting.remove(&id);
        self.busy.remove(&id);
        self.early.remove(&id);
        match self.connections.remove(&id) {
            None => {
                let connection = Box::new(Connection {
                    id,
                    user: join.user,
                    client_id: join.client_id,
                    counted: Identity::uncounted(join.session.clone()),
                    session: join.session,
                    role: Role::Read,
                    revoked: false,
                    stage: Stage::Joining(Box::new(joining)),
                    chain: Chain::default(),
                    inbox: EditQueue::default(),
                    joined_version: 0,
                    next_seq: 1,
                    taken_seq: 0,
                    last_seq: 0,
                    last_version: 0,
                    ended: false,
                    paused: false,
                    present: false,
                    cursor: None,
                });
                self.connections.insert(connection);
            }
            Some(connection) => self.join_again(connection, join.session, joining),
        }
        self.count_awaited(id, now_ms);
        self.look_up(id);
        self.check_pause(id);
    }

    /// Asks the store for what a join needs, if this connection joins.
    pub(crate) fn look_up(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let Stage::Joining(joining) = &connection.stage else { return };
        let mut clients = vec![connection.client_id.clone()];
        if joining.form == Form::Quill {
            clients.push(Arc::from(NEWLINE_CLIENT));
        }
        let user_id = connection.user.id.clone();
        *self.lookups.entry(id).or_default() += 1;
        self.out.push(Command::Lookup { connection: id, user_id, clients, after: self.head().clone() });
    }

    pub(crate) fn on_looked_up(&mut self, id: ConnectionId, result: Result<Lookup, Refusal>, now_ms: u64) {
        let is_last = self.lookup_came_back(id);
        let lookup = match result {
            Ok(lookup) => lookup,
            Err(why) => {
                if is_last && self.connections.get_mut(&id).and_then(|connection| connection.joining()).is_some() {
                    self.end_join(id, why, now_ms);
                }
                return;
            }
        };
        self.learn(lookup.tail);
        if self.reopening {
            return;
        }
        let head = self.head().version;
        if lookup.more {
            self.heard = self.heard.max(head + 1);
        }
        for row in lookup.rows.iter().filter(|row| *row.client_id == *NEWLINE_CLIENT) {
            self.newline_seq = self.newline_seq.max(row.last_seq);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let row = lookup.rows.into_iter().find(|row| row.client_id == connection.client_id);
        let is_foreign = row.as_ref().is_some_and(|row| row.owner != connection.user.id);
        let Some(joining) = connection.joining() else { return };
        if is_last && (is_foreign || joining.is_foreign) {
            return self.end_join(id, not_owner(), now_ms);
        }
        let wanted = joining.version.filter(|_| lookup.more).unwrap_or(0);
        joining.reach = joining.reach.max(wanted).max(row.as_ref().map_or(0, |row| row.version));
        // An older lookup may come back later.
        joining.row = joining.row.take().into_iter().chain(row).max_by_key(|row| row.last_seq);
        connection.role = lookup.role;
    }

    /// Whether it was the last one of its connection.
    fn lookup_came_back(&mut self, id: ConnectionId) -> bool {
        if let Some(under_way) = self.lookups.get_mut(&id).filter(|under_way| **under_way > 1) {
            *under_way -= 1;
            return false;
        }
        self.lookups.remove(&id);
        true
    }

    /// Takes every join as far as it goes.
    pub(crate) fn progress_joins(&mut self, now_ms: u64) {
        self.newline_wanted = false;
        for id in self.joining.clone() {
            self.progress_join(id, now_ms);
        }
    }

    /// The gateway's own newline, if a join waits for one.
    pub(crate) fn newline_entry(&self) -> Option<(Entry, Origin)> {
        let rope = self.history.rope();
        if !self.newline_wanted || rope.ends_with_newline() {
            return None;
        }
        let name: Arc<str> = Arc::from(NEWLINE_CLIENT);
        let identity = Identity { id: name.clone(), seq: self.newline_seq + 1, by_gateway: false };
        let entry = Entry {
            identity: identity.clone(),
            client_id: name.clone(),
            user_id: name.clone(),
            session: name.clone(),
            base: self.head().version,
            ops: Delta::new().retain(rope.length_utf16(), None).insert("\n", None),
        };
        let (session, user_id) = (name.clone(), name.clone());
        let origin = Origin { connection: None, session, client_id: name, user_id, identity, reply: None };
        Some((entry, origin))
    }

    pub(crate) fn on_newline_verdict(&mut self, origin: &Origin, verdict: Verdict) {
        match verdict {
            Verdict::Ok(version) => self.heard = self.heard.max(version),
            Verdict::Dup(version) => {
                // Another pod's, which is as good; should it have been deleted since, the next number is used.
                self.heard = self.heard.max(version);
                self.newline_seq = self.newline_seq.max(origin.identity.seq);
            }
            Verdict::Gap(last_seq) => self.newline_seq = last_seq,
            Verdict::Behind => {}
            Verdict::Overloaded => {
                for id in self.joining.clone() {
                    let joining = self.connections.get_mut(&id).and_then(|connection| connection.joining());
                    if joining.is_some_and(|joining| joining.prepared && joining.form == Form::Quill) {
                        let why = overloaded("this document has too many clients; join again later");
                        self.end_join(id, why, self.now_ms);
                    }
                }
            }
        }
    }

    /// Answers the callbacks of a join; without one an error comes as an event.
    pub(crate) fn answer_join(&mut self, id: ConnectionId, answer: Result<Answer, Refusal>) {
        if !self.answer_join_callbacks(id, &answer) && answer.is_err() {
            self.answer(id, None, answer);
        }
    }

    /// Answers the callbacks of a join; says whether there were any.
    pub(crate) fn answer_join_callbacks(&mut self, id: ConnectionId, answer: &Result<Answer, Refusal>) -> bool {
        let joining = self.connections.get_mut(&id).and_then(|connection| connection.joining());
        let replies = joining.map(|joining| std::mem::take(&mut joining.replies)).unwrap_or_default();
        let any = !replies.is_empty();
        for reply in replies {
            self.answer(id, Some(reply), answer.clone());
        }
        any
    }

    /// The connection is in the document, or on its way in, and joins again.
    fn join_again(&mut self, connection: Box<Connection>, session: Arc<str>, joining: Joining) {
        let mut connection = connection;
        let mut joining = joining;
        match std::mem::replace(&mut connection.stage, Stage::Joined) {
            Stage::Joining(mut before) => {
                joining.replies.splice(0..0, before.replies);
                joining.replies.truncate(MAX_REPLIES);
                before.early.append(&mut joining.early);
                joining.early = before.early;
            }
            Stage::Rejoining(mut early) => {
                early.append(&mut joining.early);
                joining.early = early;
            }
            Stage::Joined => {}
        }
        // A client that names its session sends again what is not confirmed; one that does not would lose it.
        if joining.last_session.is_none() && !connection.chain.pending().is_empty() {
            let left = connection.leave_behind();
            self.draining.push(left);
        }
        connection.reset();
        connection.counted = Identity::uncounted(session.clone());
        connection.session = session;
        connection.stage = Stage::Joining(Box::new(joining));
        self.connections.insert(connection);
    }

    fn progress_join(&mut self, id: ConnectionId, now_ms: u64) {
        let head = self.head().version;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Stage::Joining(joining) = &mut connection.stage else { return };
        if self.lookups.contains_key(&id) || joining.reach > head {
            return;
        }
        if joining.is_foreign {
            return self.end_join(id, not_owner(), now_ms);
        }
        if !joining.prepared {
            let (client_id, session) = (&connection.client_id, &connection.session);
            let in_flight = self.flight.iter().flat_map(|flight| &flight.origins);
            if in_flight.into_iter().any(|origin| origin.client_id == *client_id && origin.session != *session)
                || self.draining.iter().any(|left| left.client_id == *client_id && !left.chain.pending().is_empty())
            {
                return;
            }
            joining.prepared = true;
            if let Some(ClientRow { last_seq, version, .. }) = joining.row
                && last_seq > connection.last_seq
            {
                connection.last_seq = last_seq;
                connection.last_version = version;
            }
            connection.taken_seq = connection.last_seq;
            connection.next_seq = joining.seq.unwrap_or(1).max(1);
        }
        let mut early = std::mem::take(&mut joining.early);
        if joining.last_session.is_none() {
            connection.inbox.append(&mut early);
        }
        let wants_newline = joining.form == Form::Quill;
        self.waiting.insert(id);
        self.open_inbox(id);
        let Some(connection) = self.connections.get(&id) else { return };
        if !connection.inbox.is_empty() || !connection.chain.pending().is_empty() {
            return;
        }
        if self.needs_large_content(connection) {
            return self.end_join(id, self.too_large(), now_ms);
        }
        if wants_newline && !self.history.rope().ends_with_newline() {
            self.newline_wanted = true;
            return;
        }
        self.finish_join(id, now_ms);
    }

    fn finish_join(&mut self, id: ConnectionId, now_ms: u64) {
        let at = self.head().clone();
        let rope = self.history.rope();
        let Some(connection) = self.connections.get(&id) else { return };
        let Stage::Joining(joining) = &connection.stage else { return };
        let content = match (self.entries_for(connection, joining), joining.form) {
            (Some(entries), _) => JoinedContent::Edits(entries),
            (None, Form::Text) => JoinedContent::Text(rope.text()),
            (None, Form::Delta | Form::Quill) => JoinedContent::Ops(rope.to_delta()),
        };
        self.joining.remove(&id);
        self.save_when_left = true;
        let user = connection.user.clone();
        if !connection.present {
            self.presence.join(&user, now_ms);
        }
        let (active_users, active_count) = (self.active_users(&user.id), self.presence.crowd().count());
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.present = true;
        connection.joined_version = at.version;
        connection.taken_seq = connection.taken_seq.max(connection.last_seq);
        let joined = Joined {
            at: at.clone(),
            session: connection.session.clone(),
            role: connection.role,
            client_id: connection.client_id.clone(),
            last_seq: connection.last_seq,
            active_users,
            active_count,
            content,
        };
        self.out.push(Command::Send { to: vec![id], event: Event::DocumentJoined(Box::new(joined)) });
        self.answer_join(id, Ok(Answer::Version(at.version)));
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = Stage::Joined;
        }
    }

    /// Whether a join can only be answered with content that is too large, which text never is.
    fn needs_large_content(&self, connection: &Connection) -> bool {
        let Stage::Joining(joining) = &connection.stage else { return false };
        self.history.rope().bytes() > self.settings.sent_document_bytes()
            && joining.form != Form::Text
            && self.entries_for(connection, joining).is_none()
    }

    fn too_large(&self) -> Refusal {
        let most = self.settings.sent_document_bytes();
        let message = format!("the document has more than {most} bytes with its formatting; join it as text");
        refusal(Code::DocumentTooLarge, message)
    }

    /// Every entry after what the client has, if it can go on from there.
    fn entries_for(&self, connection: &Connection, joining: &Joining) -> Option<Vec<Arc<Canonical>>> {
        let version = joining.version?;
        if self.history.hash(version)? != joining.hash.as_ref()? {
            return None;
        }
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.history.after(version)? {
            let own = entry.client_id == connection.client_id;
            let same_session = joining.last_session.as_ref() == Some(&entry.session);
            if own && !same_session && self.settings.mutation != Mutation::NoSessions {
                return None;
            }
            if !self.is_sendable(entry) {
                return None;
            }
            bytes += weight_bytes(entry);
            if entries.len() >= self.settings.join_entries || (bytes > self.settings.join_bytes && !entries.is_empty())
            {
                return None;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }

    /// Whoever is waited for is back with the join: its answer may take longer than the wait.
    fn count_awaited(&mut self, id: ConnectionId, now_ms: u64) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.present) else { return };
        if self.presence.is_awaited(&connection.user.id, now_ms) {
            connection.present = true;
            let user = connection.user.clone();
            self.presence.join(&user, now_ms);
        }
    }

    /// The join fails. If that may pass, whoever counts as present stays so: the client joins again. Else the connection
    /// is not, or no longer, in the document.
    pub(crate) fn end_join(&mut self, id: ConnectionId, why: Refusal, now_ms: u64) {
        let is_passing = why.retry_after_ms.is_some();
        self.answer_join(id, Err(why));
        if is_passing && self.connections.get(&id).is_some_and(|connection| connection.present) {
            self.expect_join(id);
        } else {
            self.depart(id, false, now_ms);
        }
    }

    /// What came with a join that failed is over, as when the connection leaves; another join is expected of it.
    fn expect_join(&mut self, id: ConnectionId) {
        self.refuse_unjoined(id);
        self.joining.remove(&id);
        self.waiting.remove(&id);
        self.busy.remove(&id);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.stage = Stage::Rejoining(EditQueue::default());
        if !connection.chain.pending().is_empty() {
            let left = connection.leave_behind();
            self.draining.push(left);
        }
        connection.reset();
        self.check_pause(id);
    }

    /// Answers the edits of a connection that wait for it to be joined.
    pub(crate) fn refuse_unjoined(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let early = match &mut connection.stage {
            Stage::Joining(joining) => joining.early.take(),
            Stage::Rejoining(early) => early.take(),
            Stage::Joined => return,
        };
        for Queued { edit, .. } in connection.inbox.take().into_iter().chain(early) {
            let why = Refusal { seq: edit.seq, ..refusal(Code::NotJoined, "there was no join; join again") };
            self.answer(id, edit.reply, Err(why));
        }
    }

    fn refuse_join(&mut self, join: &Join, why: Refusal) {
        self.answer(join.connection, join.reply, Err(why));
    }
}

pub(crate) fn not_owner() -> Refusal {
    refusal(Code::BadRequest, "this clientId belongs to another user on this document; use a new one")
}
