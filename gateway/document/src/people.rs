//! Departures, cursors, typing, and what others hear of them.
//!
//! In: what connections and other pods say. Out: the events of presence, and messages to other pods and the store.

use std::sync::Arc;

use crate::{
    ActiveCursor, ActiveUser, Answer, Code, Command, ConnectionId, Document, Event, Leaving, Peer, Position, ReplyId,
    Role, Version,
    connection::WaitingCursor,
    cursors::move_position,
    edits::refusal,
    presence::{CROWD_USERS, Change},
};

impl Document {
    pub(crate) fn on_leave(&mut self, id: ConnectionId, how: Leaving, reply: Option<ReplyId>, now_ms: u64) {
        self.depart(id, how == Leaving::Lost, now_ms);
        self.answer(id, reply, Ok(Answer::Empty));
    }

    /// Takes a connection out of the document. What it sent is still committed.
    pub(crate) fn depart(&mut self, id: ConnectionId, lost: bool, now_ms: u64) {
        if self.joining.contains(&id) {
            self.answer_join_callbacks(id, &Err(refusal(Code::NotJoined, "the connection left before it had joined")));
        }
        let Some(connection) = self.connections.remove(&id) else { return };
        self.joining.remove(&id);
        self.waiting.remove(&id);
        self.busy.remove(&id);
        let (user_id, client_id) = (connection.user.id.clone(), connection.client_id.clone());
        if connection.present {
            self.presence.leave(&user_id, lost, now_ms);
            if self.cursors.clear(&user_id, &client_id) {
                self.tell_cursor(None, user_id, client_id, self.head().version, None, true);
            }
        }
        if !connection.chain.pending().is_empty() {
            self.draining.push(connection);
        }
    }

    pub(crate) fn on_cursor(
        &mut self,
        id: ConnectionId,
        version: Option<Version>,
        position: Option<Position>,
        reply: Option<ReplyId>,
    ) {
        let head = self.head().version;
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.is_joined()) else {
            return self.answer(id, reply, Err(refusal(Code::NotJoined, "join the document first")));
        };
        let behind = connection.chain.pending().len();
        match position {
            None => {
                connection.cursor = None;
                self.show_cursor(id, head, None);
            }
            Some(mut position) => {
                if let (Position::Range { index, length }, Some(version)) = (&mut position, version) {
                    let end = index.saturating_add(*length);
                    let chain = &connection.chain;
                    // Too far back to be carried: the next position will be right.
                    let carry = |index| chain.carry_position(&self.history, version, index).unwrap_or(index);
                    (*index, *length) = (carry(*index), carry(end).saturating_sub(carry(*index)));
                }
                if behind > 0 {
                    connection.cursor = Some(WaitingCursor { position, behind });
                } else {
                    connection.cursor = None;
                    self.show_cursor(id, version.unwrap_or(head).max(head), Some(position));
                }
            }
        }
        self.answer(id, reply, Ok(Answer::Empty));
    }

    /// The own edits before this cursor are committed now.
    pub(crate) fn show_waiting_cursor(&mut self, id: ConnectionId) {
        let cursor = self.connections.get_mut(&id).and_then(|connection| connection.cursor.take());
        if let Some(cursor) = cursor {
            self.show_cursor(id, self.head().version, Some(cursor.position));
        }
    }

    pub(crate) fn on_typing(&mut self, id: ConnectionId, is_typing: bool, reply: Option<ReplyId>, now_ms: u64) {
        let Some(connection) = self.connections.get(&id).filter(|connection| connection.is_joined()) else {
            return self.answer(id, reply, Err(refusal(Code::NotJoined, "join the document first")));
        };
        if connection.role == Role::Read {
            return self.answer(id, reply, Err(refusal(Code::ReadOnly, "you may read this document, not type in it")));
        }
        let user_id = connection.user.id.clone();
        let tell = self.cursors.typing(&user_id, is_typing, now_ms);
        if tell.here {
            self.tell_others(&user_id.clone(), Event::TypingUpdate { user_id: user_id.clone(), is_typing });
        }
        if tell.pods {
            self.out.push(Command::Publish(Peer::Typing { user_id, is_typing }));
        }
        self.answer(id, reply, Ok(Answer::Empty));
    }

    pub(crate) fn on_peer(&mut self, peer: Peer, now_ms: u64) {
        match peer {
            Peer::Member(member) => self.presence.row(member, now_ms),
            Peer::Cursor { user_id, client_id, version, position: None } => {
                self.cursors.clear(&user_id, &client_id);
                self.tell_cursor(None, user_id, client_id, version, None, false);
            }
            Peer::Cursor { user_id, client_id, version, position: Some(mut position) } => {
                for entry in self.history.after(version).into_iter().flatten() {
                    move_position(&mut position, &entry.ops);
                }
                let version = version.max(self.head().version);
                let cursor = ActiveCursor { client_id: client_id.clone(), version, position: position.clone() };
                self.cursors.set(&user_id, cursor);
                self.tell_cursor(None, user_id, client_id, version, Some(position), false);
            }
            Peer::Typing { user_id, is_typing } => {
                if self.cursors.typing(&user_id, is_typing, now_ms).here {
                    self.tell_others(&user_id.clone(), Event::TypingUpdate { user_id, is_typing });
                }
            }
        }
    }

    pub(crate) fn end_typing(&mut self, now_ms: u64) {
        for user_id in self.cursors.expire(now_ms) {
            self.tell_others(&user_id.clone(), Event::TypingUpdate { user_id, is_typing: false });
        }
    }

    /// The others that a joining client is told of, the most recently active first.
    pub(crate) fn active_users(&self, user_id: &str) -> Vec<ActiveUser> {
        let (mut recent, mut quiet) = (Vec::new(), Vec::new());
        for user in self.presence.others(user_id) {
            let (is_typing, cursors) = self.cursors.of(&user.id);
            let list = if is_typing || !cursors.is_empty() { &mut recent } else { &mut quiet };
            if list.len() < CROWD_USERS {
                list.push(ActiveUser { user: user.clone(), is_typing, cursors });
            }
        }
        recent.append(&mut quiet);
        recent.truncate(CROWD_USERS);
        recent
    }

    /// Turns what changed in the presence into commands.
    pub(crate) fn tell_people(&mut self) {
        for change in self.presence.take_changes() {
            match change {
                Change::Joined(user) => self.tell_others(&user.id.clone(), Event::UserJoined(user)),
                Change::Left(user_id) => {
                    self.cursors.forget(&user_id);
                    self.tell_others(&user_id.clone(), Event::UserLeft { user_id });
                }
                Change::Count(active_count) => {
                    let to = self.joined(|_, _| true);
                    self.send(to, Event::Presence { active_count });
                }
                Change::Row(member) => {
                    self.out.push(Command::WritePresence(member.clone()));
                    self.out.push(Command::Publish(Peer::Member(member)));
                }
            }
        }
    }

    fn show_cursor(&mut self, id: ConnectionId, version: Version, position: Option<Position>) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (user_id, client_id) = (connection.user.id.clone(), connection.client_id.clone());
        match &position {
            Some(position) => {
                let cursor = ActiveCursor { client_id: client_id.clone(), version, position: position.clone() };
                self.cursors.set(&user_id, cursor);
            }
            None => {
                self.cursors.clear(&user_id, &client_id);
            }
        }
        self.tell_cursor(Some(id), user_id, client_id, version, position, true);
    }

    fn tell_cursor(
        &mut self,
        except: Option<ConnectionId>,
        user_id: Arc<str>,
        client_id: Arc<str>,
        version: Version,
        position: Option<Position>,
        publish: bool,
    ) {
        let to = self.joined(|id, _| Some(id) != except);
        let (user, client, place) = (user_id.clone(), client_id.clone(), position.clone());
        self.send(to, Event::CursorUpdate { user_id: user, client_id: client, version, position: place });
        if publish {
            self.out.push(Command::Publish(Peer::Cursor { user_id, client_id, version, position }));
        }
    }

    fn tell_others(&mut self, user_id: &str, event: Event) {
        let to = self.joined(|_, user| *user != *user_id);
        self.send(to, event);
    }

    /// Joined connections by connection and user.
    fn joined(&self, which: impl Fn(ConnectionId, &str) -> bool) -> Vec<ConnectionId> {
        let all = self.connections.iter().filter(|(_, connection)| connection.is_joined());
        all.filter(|(id, connection)| which(**id, &connection.user.id)).map(|(id, _)| *id).collect()
    }

    fn send(&mut self, to: Vec<ConnectionId>, event: Event) {
        if !to.is_empty() {
            self.out.push(Command::Send { to, event });
        }
    }
}
