//! Clients and their connections.
//!
//! In: what users type, breaks, messages. Out: inputs of the pods' documents, and what the clients hear of them.

use std::{collections::VecDeque, sync::Arc};

use document::{Answer, Code, ConnectionId, Edit, Event, Form, Input, Join, Leaving, Refusal, ReplyId, User, Version};
use ot::Delta;

use crate::{
    client::Broken,
    typing,
    world::{PODS, Typed, World},
};

/// A message of a client.
#[derive(Debug, Clone)]
pub(crate) enum Sent {
    Join { version: Option<Version>, hash: Option<Arc<str>>, session: Option<Arc<str>>, seq: u64 },
    Edit { version: Version, session: Option<Arc<str>>, seq: u64, ops: Delta },
    Cursor { version: Version, index: usize },
    Leave,
}

/// A message to a client.
#[derive(Debug)]
pub(crate) enum Got {
    Event(Event),
    Edited { seq: u64, session: Option<Arc<str>>, answer: Result<Answer, Refusal> },
    JoinFailed,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: usize,
    pub(crate) pod: usize,
    pub(crate) sent: VecDeque<Sent>,
    pub(crate) got: VecDeque<Got>,
    /// The client has given it up; the pod has not noticed yet.
    pub(crate) left: bool,
    pub(crate) paused: bool,
    /// The pod has seen its first join.
    pub(crate) known: bool,
    pub(crate) early: Vec<Edit>,
}

#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Edit { connection: ConnectionId, seq: u64, session: Option<Arc<str>> },
    Join { connection: ConnectionId },
}

impl World {
    pub(crate) fn type_something(&mut self, client: usize) -> Result<(), Broken> {
        if self.edits.len() >= 60 || self.clients[client].at.is_none() {
            return Ok(());
        }
        self.tokens += 1;
        let ops = typing::edit(&mut self.random, &self.clients[client].shown, self.tokens);
        let inserts = typing::count_token(&ops, self.tokens) > 0;
        let pending = self.clients[client].edit(ops)?;
        let typed = Typed { client, seq: pending.seq, inserts, refused: false };
        self.edits.insert(self.tokens, typed);
        self.counts.pipelined += usize::from(self.clients[client].pending.len() > 1);
        // A careless client sends under its old session while it is joining; that is dropped.
        if let Some(id) = self.present[client]
            && (self.clients[client].live || self.random.one_in(2))
        {
            let version = self.clients[client].at.as_ref().map_or(0, |at| at.version);
            let session = self.clients[client].session.clone();
            self.send(id, Sent::Edit { version, session, seq: pending.seq, ops: pending.ops });
        }
        Ok(())
    }

    pub(crate) fn move_cursor(&mut self, client: usize) {
        let index = self.random.below(self.clients[client].shown.length() + 1);
        if let (Some(id), Some(at), true) = (self.present[client], &self.clients[client].at, self.clients[client].live)
        {
            let version = at.version;
            self.send(id, Sent::Cursor { version, index });
        }
    }

    pub(crate) fn connect(&mut self, client: usize) {
        let pod = self.random.below(PODS);
        self.next += 1;
        let id = ConnectionId(self.next);
        let connection = Connection {
            client,
            pod,
            sent: VecDeque::new(),
            got: VecDeque::new(),
            left: false,
            paused: false,
            known: false,
            early: Vec::new(),
        };
        self.connections.insert(id, connection);
        self.present[client] = Some(id);
        self.clients[client].live = false;
        // Clients that flush what they kept, before or after their join: dropped, as they name an older session.
        let flush_first = self.random.one_in(3);
        let flush_after = self.random.one_in(3);
        if flush_first {
            self.flush(client, id);
        }
        self.send_join(client, id, true);
        if flush_after {
            self.flush(client, id);
        }
    }

    /// Sends part of what is not confirmed under the old session.
    pub(crate) fn flush(&mut self, client: usize, id: ConnectionId) {
        let editor = &self.clients[client];
        let Some(session) = editor.session.clone() else { return };
        let version = editor.at.as_ref().map_or(0, |at| at.version);
        let pending: Vec<_> = editor.pending.iter().cloned().collect();
        let from = self.random.below(pending.len() + 1);
        for edit in pending.into_iter().skip(from) {
            self.send(id, Sent::Edit { version, session: Some(session.clone()), seq: edit.seq, ops: edit.ops });
        }
    }

    pub(crate) fn send_join(&mut self, client: usize, id: ConnectionId, with_version: bool) {
        let editor = &mut self.clients[client];
        editor.live = false;
        let at = editor.at.clone().filter(|_| with_version);
        let join = Sent::Join {
            version: at.as_ref().map(|at| at.version),
            hash: at.map(|at| at.hash),
            session: editor.session.clone(),
            seq: editor.first_seq(),
        };
        self.send(id, join);
    }

    pub(crate) fn send(&mut self, id: ConnectionId, message: Sent) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sent.push_back(message);
        }
    }

    /// The client's side of a connection breaks; what it sent may still arrive, or part of it.
    pub(crate) fn disconnect(&mut self, client: usize) {
        let Some(id) = self.present[client].take() else { return };
        self.clients[client].live = false;
        let cut = self.random.one_in(2);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.left = true;
            connection.got.clear();
            if cut {
                let keep = self.random.below(connection.sent.len() + 1);
                connection.sent.truncate(keep);
            }
            connection.sent.push_back(Sent::Leave);
        }
    }

    pub(crate) fn has_mail(&self, pod: usize) -> bool {
        self.connections
            .values()
            .any(|connection| connection.pod == pod && !connection.paused && !connection.sent.is_empty())
    }

    pub(crate) fn mail(&self, client: usize) -> bool {
        let connection = self.present[client].and_then(|id| self.connections.get(&id));
        connection.is_some_and(|connection| !connection.got.is_empty())
    }

    /// The pod reads one message of one of its connections.
    pub(crate) fn read_socket(&mut self, pod: usize) -> Result<(), Broken> {
        let ready: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.pod == pod && !connection.sent.is_empty())
            .filter(|(_, connection)| !connection.paused || connection.left)
            .map(|(id, _)| *id)
            .collect();
        let Some(id) = ready.get(self.random.below(ready.len())).copied() else { return Ok(()) };
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some(message) = connection.sent.pop_front() else { return Ok(()) };
        let client = connection.client;
        self.next += 1;
        let reply = ReplyId(self.next);
        match message {
            Sent::Join { version, hash, session, seq } => {
                connection.known = true;
                let early = std::mem::take(&mut connection.early);
                self.asked.insert(reply, Asked::Join { connection: id });
                let name: Arc<str> = format!("u{client}").into();
                let join = Join {
                    connection: id,
                    user: User { id: name.clone(), name, avatar: None },
                    client_id: self.clients[client].id.clone(),
                    form: if client == 0 { Form::Quill } else { Form::Delta },
                    version,
                    hash,
                    last_session: session,
                    seq: Some(seq),
                    session: format!("s{}", self.next).into(),
                    early,
                    reply: Some(reply),
                };
                self.input(pod, Input::Join(join))
            }
            Sent::Edit { version, session, seq, ops } => {
                self.asked.insert(reply, Asked::Edit { connection: id, seq, session: session.clone() });
                let edit = Edit { connection: id, version, ops, seq: Some(seq), session, reply: Some(reply) };
                if connection.known {
                    self.input(pod, Input::Edit(edit))
                } else {
                    // The gateway keeps those without a session for the join and drops the others.
                    if edit.session.is_none() {
                        connection.early.push(edit);
                    }
                    Ok(())
                }
            }
            Sent::Cursor { version, index } => {
                let position = Some(document::Position::Range { index, length: 0 });
                self.input(pod, Input::Cursor { connection: id, version: Some(version), position, reply: None })
            }
            Sent::Leave => {
                self.connections.remove(&id);
                let how = if self.random.one_in(2) { Leaving::Said } else { Leaving::Lost };
                self.input(pod, Input::Leave { connection: id, how, reply: None })
            }
        }
    }

    pub(crate) fn answer(&mut self, to: ConnectionId, reply: Option<ReplyId>, answer: Result<Answer, Refusal>) {
        match reply.and_then(|reply| self.asked.remove(&reply)) {
            Some(Asked::Edit { connection, seq, session }) => {
                if let (Ok(Answer::Version(version)), Some(connection)) = (&answer, self.connections.get(&connection)) {
                    self.saved.push((connection.client, seq, *version));
                }
                self.give(connection, Got::Edited { seq, session, answer });
            }
            Some(Asked::Join { connection }) if answer.is_err() => self.give(connection, Got::JoinFailed),
            Some(Asked::Join { .. }) => {}
            None => {
                if let Err(refusal) = answer {
                    self.give(to, Got::Event(Event::Error(refusal)));
                }
            }
        }
    }

    pub(crate) fn give(&mut self, id: ConnectionId, got: Got) {
        if let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.left) {
            connection.got.push_back(got);
        }
    }

    /// A client reads one message.
    pub(crate) fn hear(&mut self, client: usize) -> Result<(), Broken> {
        let Some(id) = self.present[client] else { return Ok(()) };
        let got = self.connections.get_mut(&id).and_then(|connection| connection.got.pop_front());
        match got {
            None => Ok(()),
            Some(Got::JoinFailed) => {
                self.send_join(client, id, true);
                Ok(())
            }
            Some(Got::Edited { answer: Ok(_), .. }) => Ok(()),
            Some(Got::Edited { seq, session, answer: Err(refusal) }) => {
                if session != self.clients[client].session || !self.clients[client].live {
                    return Ok(());
                }
                self.counts.refused += 1;
                let drop = matches!(
                    refusal.code,
                    Code::BadRequest | Code::OpInvalid | Code::ReadOnly | Code::DocumentTooLarge
                );
                if drop {
                    for typed in self.edits.values_mut().filter(|typed| typed.client == client && typed.seq == seq) {
                        typed.refused = true;
                    }
                    self.clients[client].on_refused(seq)?;
                }
                self.send_join(client, id, true);
                Ok(())
            }
            Some(Got::Event(Event::Edit(entry))) => self.clients[client].on_edit(&entry),
            Some(Got::Event(Event::EditCommitted { at, seq, .. })) => self.clients[client].on_committed(&at, seq),
            Some(Got::Event(Event::Rejoin)) => {
                self.send_join(client, id, false);
                Ok(())
            }
            Some(Got::Event(Event::DocumentJoined(joined))) => {
                match joined.content {
                    document::JoinedContent::Edits(_) => self.counts.by_entries += 1,
                    document::JoinedContent::Text(_) | document::JoinedContent::Ops(_) => self.counts.by_content += 1,
                }
                self.clients[client].on_joined(&joined)?;
                self.resend(client, id);
                Ok(())
            }
            Some(Got::Event(_)) => Ok(()),
        }
    }

    pub(crate) fn resend(&mut self, client: usize, id: ConnectionId) {
        let editor = &self.clients[client];
        let version = editor.at.as_ref().map_or(0, |at| at.version);
        let session = editor.session.clone();
        for edit in editor.pending.clone() {
            self.send(id, Sent::Edit { version, session: session.clone(), seq: edit.seq, ops: edit.ops });
        }
    }
}
