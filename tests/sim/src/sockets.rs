//! Connections, and how pods read them and answer.
//!
//! In: what users type, breaks, messages. Out: inputs of the pods' documents, and what the clients hear of them.

use std::{collections::VecDeque, sync::Arc};

use document::{Answer, Code, ConnectionId, Edit, Event, Input, Join, Leaving, Refusal, ReplyId, User, Version};
use ot::Delta;

use crate::{client::Broken, counts::Met, edits::Kind, people::user_id, pod::Copy, schedule::Fault, world::World};

/// A message of a client.
#[derive(Debug, Clone)]
pub(crate) enum Sent {
    Join { id: Arc<str>, version: Option<Version>, hash: Option<Arc<str>>, session: Option<Arc<str>>, seq: Option<u64> },
    Edit { version: Version, session: Option<Arc<str>>, seq: Option<u64>, token: u32, ops: Delta, unreadable: bool },
    Cursor { version: Version, index: usize },
    Leave,
}

/// A message to a client.
#[derive(Debug)]
pub(crate) enum Got {
    Event(Event),
    Edited { seq: Option<u64>, session: Option<Arc<str>>, answer: Result<Answer, Refusal> },
    JoinFailed(Code),
    JoinAnswered,
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
    Edit { connection: ConnectionId, client: usize, seq: Option<u64>, token: u32, session: Option<Arc<str>> },
    Join { connection: ConnectionId },
}

impl World {
    pub(crate) fn connect(&mut self, client: usize) {
        let pod = self.random.below(self.pods.len());
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
        self.offline[client] = false;
        self.clients[client].live = false;
        self.clients[client].joins = 0;
        // Clients that flush what they kept, before or after their join. Those that know sessions name an older one:
        // such edits are dropped. The others' are committed before the join.
        let plain = self.clients[client].plain;
        let (flush_first, flush_after) = (self.random.one_in(3), self.random.one_in(3));
        let fault = if plain || self.clients[client].session.is_none() { Fault::Early } else { Fault::Flush };
        if flush_first && self.has(fault) || plain {
            self.flush(client, id);
        }
        self.send_join(client, id, true);
        if flush_after && self.has(fault) && !plain {
            self.flush(client, id);
        }
    }

    /// Sends what is not confirmed, or the end of it, under the old session.
    fn flush(&mut self, client: usize, id: ConnectionId) {
        let editor = &self.clients[client];
        if editor.session.is_none() && !self.may_send_early(client) {
            return;
        }
        let pending: Vec<_> = editor.pending.iter().cloned().collect();
        // Edits without a session are taken as they come: only all of them make sense.
        let from = if editor.session.is_none() || editor.plain { 0 } else { self.random.below(pending.len() + 1) };
        for edit in pending.into_iter().skip(from) {
            self.counts.meet(Met::EarlyEdit);
            self.send_edit(client, id, &edit);
        }
    }

    /// Before its first join a client knows the document only if that began empty. The product's client, which the
    /// recorded ones are compared with, waits for its join.
    pub(crate) fn may_send_early(&self, client: usize) -> bool {
        self.clients[client].at.is_some() || self.profile.root.is_empty() && self.recorder.is_none()
    }

    pub(crate) fn send_join(&mut self, client: usize, id: ConnectionId, with_version: bool) {
        let editor = &mut self.clients[client];
        editor.live = false;
        editor.joins += 1;
        editor.afresh |= !with_version;
        let plain = editor.plain;
        let at = editor.at.clone().filter(|_| !editor.afresh && !plain);
        let join = Sent::Join {
            id: editor.id.clone(),
            version: at.as_ref().map(|at| at.version),
            hash: at.map(|at| at.hash),
            session: editor.session.clone().filter(|_| !plain),
            seq: (!plain).then(|| editor.first_seq()),
        };
        self.send(id, join);
    }

    pub(crate) fn send_edit(&mut self, client: usize, id: ConnectionId, edit: &crate::client::Pending) {
        let editor = &self.clients[client];
        let version = editor.at.as_ref().map_or(0, |at| at.version);
        let session = editor.session.clone().filter(|_| !editor.plain);
        let seq = (!editor.plain).then_some(edit.seq);
        let ops = edit.garbage.clone().unwrap_or_else(|| edit.ops.clone());
        let unreadable = edit.garbage.as_ref().is_some_and(Delta::is_empty);
        self.send(id, Sent::Edit { version, session, seq, token: edit.token, ops, unreadable });
    }

    pub(crate) fn send(&mut self, id: ConnectionId, message: Sent) {
        self.trace(|| format!("connection {} sends {message:?}", id.0));
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sent.push_back(message);
        }
    }

    /// The client's side of a connection breaks; what it sent may still arrive, or part of it.
    pub(crate) fn disconnect(&mut self, client: usize) {
        let Some(id) = self.present[client].take() else { return };
        self.lose_transport(client);
        let cut = self.random.one_in(2);
        let late = self.has(Fault::Late) || self.calm;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.left = true;
            connection.got.clear();
            if cut {
                let keep = self.random.below(connection.sent.len() + 1);
                connection.sent.truncate(keep);
            }
            if !late {
                connection.sent.clear();
            }
            connection.sent.push_back(Sent::Leave);
        }
    }

    pub(crate) fn has_mail(&self, pod: usize) -> bool {
        let waits = matches!(self.pods[pod].copy, Copy::Opening(_));
        !waits
            && self
                .connections
                .values()
                .any(|connection| connection.pod == pod && !connection.paused && !connection.sent.is_empty())
    }

    pub(crate) fn mail(&self, client: usize) -> bool {
        let connection = self.present[client].and_then(|id| self.connections.get(&id));
        connection.is_some_and(|connection| !connection.got.is_empty())
    }

    /// The pod reads one message of one of its connections.
    pub(crate) fn read_socket(&mut self, pod: usize) -> Result<(), Broken> {
        if matches!(self.pods[pod].copy, Copy::Opening(_)) {
            return Ok(());
        }
        let ready: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.pod == pod && !connection.sent.is_empty())
            .filter(|(_, connection)| !connection.paused || connection.left)
            .map(|(id, _)| *id)
            .collect();
        let Some(id) = ready.get(self.random.below(ready.len())).copied() else { return Ok(()) };
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if matches!(self.pods[pod].copy, Copy::None) && matches!(connection.sent.front(), Some(Sent::Join { .. })) {
            self.begin_to_open(pod);
            return Ok(());
        }
        let Some(message) = connection.sent.pop_front() else { return Ok(()) };
        let client = connection.client;
        self.next += 1;
        let reply = ReplyId(self.next);
        match message {
            Sent::Join { id: client_id, version, hash, session, seq } => {
                connection.known = true;
                let early = std::mem::take(&mut connection.early);
                self.asked.insert(reply, Asked::Join { connection: id });
                let name = user_id(client);
                let join = Join {
                    connection: id,
                    user: User { id: name.clone(), name, avatar: None },
                    client_id,
                    form: self.profile.clients[client].form,
                    version,
                    hash,
                    last_session: session,
                    seq,
                    session: format!("s{}", self.next).into(),
                    early,
                    reply: Some(reply),
                };
                self.input(pod, Input::Join(join))
            }
            Sent::Edit { version, session, seq, token, ops, unreadable } => {
                self.asked.insert(reply, Asked::Edit { connection: id, client, seq, token, session: session.clone() });
                let reply = Some(reply);
                self.counts.meet_times(Met::Unreadable, usize::from(unreadable));
                let unreadable = unreadable.then(|| Box::new(Refusal::new(Code::OpInvalid, "cannot be read")));
                let edit = Edit { connection: id, version, ops, unreadable, seq, session, reply };
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

    /// A pod answers a message. An acknowledgement has to be true when it is given.
    pub(crate) fn answer(
        &mut self,
        to: ConnectionId,
        reply: Option<ReplyId>,
        answer: Result<Answer, Refusal>,
    ) -> Result<(), Broken> {
        match reply.and_then(|reply| self.asked.remove(&reply)) {
            Some(Asked::Edit { connection, client, seq, token, session }) => {
                if let Ok(Answer::Version(version)) = &answer {
                    self.acknowledged(client, token, *version)?;
                }
                self.give(connection, Got::Edited { seq, session, answer });
            }
            Some(Asked::Join { connection }) => {
                let got = answer.map_or_else(|refusal| Got::JoinFailed(refusal.code), |_| Got::JoinAnswered);
                self.give(connection, got);
            }
            None => {
                if let Err(refusal) = answer {
                    self.give(to, Got::Event(Event::Error(refusal)));
                }
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, client: usize, token: u32, version: Version) -> Result<(), Broken> {
        let Some(typed) = self.edits.typed.get_mut(&token) else { return Ok(()) };
        // A refused edit goes on as an empty one under its number.
        if typed.refused {
            return Ok(());
        }
        typed.saved = true;
        let typed = *typed;
        let id = &self.clients[client].id;
        let lost = self.edits.is_lost(token) || typed.plain && self.edits.has_lost_of(id);
        if lost && !self.schedule.replicated {
            return Ok(());
        }
        let up_to = self.store.all.iter().take(usize::try_from(version).unwrap_or(usize::MAX));
        let found = self.edits.count(token, &self.store, up_to);
        if found == 0 && typed.plain && typed.kind != Kind::Inserts {
            // Its entry may do nothing any more, and has no number: but it is this client's.
            let index = usize::try_from(version).ok().and_then(|version| version.checked_sub(1));
            let entry = index.and_then(|index| self.store.all.get(index)).map(|kept| &kept.payload);
            if entry.is_some_and(|entry| entry.identity.by_gateway && entry.client_id == *id) {
                return Ok(());
            }
        }
        if found < 1 || found > typed.most(self.era) {
            return Err(Broken(format!("token {token} was said to be saved at {version}; there it is {found} times")));
        }
        Ok(())
    }

    pub(crate) fn give(&mut self, id: ConnectionId, got: Got) {
        if let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.left) {
            connection.got.push_back(got);
        }
    }
}
