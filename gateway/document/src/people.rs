//! Departures, cursors, typing, and what others hear of them.
//!
//! In: what connections and other pods say. Out: the events of presence, and messages to other pods and the store.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    ActiveCursor, ActiveUser, Answer, Code, Command, ConnectionId, Document, Event, Leaving, Member, Peer, PeerCursor,
    Position, ReplyId, Role, User, Version,
    connection::WaitingCursor,
    crowd::Told,
    cursors::{Gone, Origin, move_position},
    edits::refusal,
    presence::Change,
};

/// How long this pod waits, in milliseconds, before it tells its cursors to a pod that asked: others ask too when a
/// server comes back, and one answer serves all.
const ANSWER_AFTER_MS: u64 = 300;

impl Document {
    pub(crate) fn on_leave(&mut self, id: ConnectionId, how: Leaving, reply: Option<ReplyId>, now_ms: u64) {
        match how {
            Leaving::Lost => self.durability.forget(id),
            Leaving::Said => {}
        }
        self.depart(id, how == Leaving::Lost, now_ms);
        self.answer(id, reply, Ok(Answer::Empty));
    }

    /// Takes a connection out of the document. What it sent is still committed.
    pub(crate) fn depart(&mut self, id: ConnectionId, lost: bool, now_ms: u64) {
        if self.joining.contains(&id) {
            self.answer_join_callbacks(id, &Err(refusal(Code::NotJoined, "the connection left before it had joined")));
        }
        self.refuse_unjoined(id);
        let Some(connection) = self.connections.remove(&id) else { return };
        if connection.paused {
            // It may join again, and is in other documents.
            self.out.push(Command::PauseReading { connection: id, pause: false });
        }
        self.joining.remove(&id);
        self.waiting.remove(&id);
        self.busy.remove(&id);
        self.early.remove(&id);
        let (user_id, client_id) = (connection.user.id.clone(), connection.client_id.clone());
        if connection.present {
            self.presence.leave(&user_id, lost, now_ms);
            if self.cursors.clear(&user_id, &None, &client_id) {
                let head = self.head().version;
                self.publish_cursor(&user_id, &client_id, head, None);
                self.tell_cursor(None, user_id, client_id, head, None);
            }
        }
        if !connection.chain.pending().is_empty() {
            self.draining.push(*connection);
        }
    }

    /// A new name or picture is shown to whoever joins from now on, here and on other pods.
    pub(crate) fn on_user(&mut self, user: &User, now_ms: u64) {
        for id in self.connections.of(&user.id).to_vec() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.user = user.clone();
            }
        }
        self.presence.rename(user, now_ms);
    }

    pub(crate) fn on_cursor(
        &mut self,
        id: ConnectionId,
        version: Option<Version>,
        position: Option<Position>,
        reply: Option<ReplyId>,
        now_ms: u64,
    ) {
        let head = self.head().version;
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.is_joined()) else {
            return self.answer(id, reply, Err(refusal(Code::NotJoined, "join the document first")));
        };
        let behind = connection.chain.pending().len();
        match position {
            None => {
                connection.cursor = None;
                self.show_cursor(id, head, None, now_ms);
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
                    self.show_cursor(id, version.unwrap_or(head).max(head), Some(position), now_ms);
                }
            }
        }
        self.answer(id, reply, Ok(Answer::Empty));
    }

    /// The own edits before this cursor are committed now.
    pub(crate) fn show_waiting_cursor(&mut self, id: ConnectionId) {
        let cursor = self.connections.get_mut(&id).and_then(|connection| connection.cursor.take());
        if let Some(cursor) = cursor {
            self.show_cursor(id, self.head().version, Some(cursor.position), self.now_ms);
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

    pub(crate) fn on_peer(&mut self, pod: &Arc<str>, peer: Peer, now_ms: u64) {
        match peer {
            Peer::Members(members) => self.presence.hear_rows(members, now_ms),
            Peer::Cursor { user_id, client_id, version, position: None } => {
                if self.cursors.clear(&user_id, &Some(pod.clone()), &client_id) {
                    self.tell_cursor(None, user_id, client_id, version, None);
                }
            }
            Peer::Cursor { user_id, client_id, version, position: Some(position) } => {
                self.hear_cursor(pod, PeerCursor { user_id, client_id, version, position }, now_ms);
            }
            Peer::Digest { at, digest } => self.on_digest(at, digest),
            Peer::Saved { at } => self.on_saved_elsewhere(&at),
            Peer::Cursors(cursors) => {
                self.cursors.keep_told(pod, &cursors);
                for cursor in cursors {
                    self.hear_cursor(pod, cursor, now_ms);
                }
            }
            Peer::Typing { user_id, is_typing } => {
                if self.cursors.typing(&user_id, is_typing, now_ms).here {
                    self.tell_others(&user_id.clone(), Event::TypingUpdate { user_id, is_typing });
                }
            }
            Peer::Ask => {
                self.answer_cursors_at_ms.get_or_insert(now_ms.saturating_add(ANSWER_AFTER_MS));
            }
        }
    }

    /// All rows of the presence hash.
    pub(crate) fn on_presence(&mut self, members: Vec<Member>, live: &BTreeSet<Arc<str>>, now_ms: u64) {
        self.presence.replace(members, live, now_ms);
        if std::mem::take(&mut self.ask_for_cursors) && self.presence.has_remote() {
            self.out.push(Command::Publish(Peer::Ask));
        }
    }

    /// Messages of other pods may have been lost.
    pub(crate) fn on_missed(&mut self, now_ms: u64) {
        self.presence.missed(now_ms);
        self.ask_for_cursors = true;
    }

    /// What time alone brings about.
    pub(crate) fn people_tick(&mut self, now_ms: u64) {
        self.cursors.expire(now_ms);
        if self.answer_cursors_at_ms.is_some_and(|due| due <= now_ms) {
            self.answer_cursors_at_ms = None;
            self.out.push(Command::Publish(Peer::Cursors(self.cursors.own())));
        }
    }

    /// When [`Self::people_tick`] or [`Self::tell_people`] is due.
    pub(crate) fn people_deadline_ms(&self) -> Option<u64> {
        let due = [self.presence.deadline_ms(), self.cursors.deadline_ms(), self.answer_cursors_at_ms];
        due.into_iter().flatten().min()
    }

    /// The others that a joining client is told of, the most recently active first.
    pub(crate) fn active_users(&mut self, user_id: &str) -> Vec<ActiveUser> {
        let recent = self.cursors.users();
        let users = self.presence.crowd().show(user_id, &recent);
        let with_cursors = |user: User| {
            let (is_typing, cursors) = self.cursors.of(&user.id);
            ActiveUser { user, is_typing, cursors }
        };
        users.into_iter().map(with_cursors).collect()
    }

    /// Turns what changed in the presence into commands.
    pub(crate) fn tell_people(&mut self, now_ms: u64) {
        self.presence.tick(now_ms);
        for change in self.presence.take_changes() {
            match change {
                Change::Told(told) => self.tell_presence(told),
                Change::Gone { pod, user_id } => self.cursors.clear_origin(&user_id, &Some(pod)),
                Change::Pods(pods) => self.out.push(Command::WatchPods(pods)),
                Change::Write(rows) => self.out.push(Command::WritePresence(rows)),
                Change::Read => self.out.push(Command::ReadPresence),
            }
        }
        let head = self.head().version;
        for gone in self.cursors.take_gone() {
            match gone {
                Gone::Cursor { user_id, client_id } => self.tell_cursor(None, user_id, client_id, head, None),
                Gone::Typing { user_id } => {
                    self.tell_others(&user_id.clone(), Event::TypingUpdate { user_id, is_typing: false });
                }
            }
        }
    }

    fn tell_presence(&mut self, told: Told) {
        match told {
            Told::Joined(user) => {
                let user_id = user.id.clone();
                self.tell_others(&user_id, Event::UserJoined(user));
                // A cursor may have been heard of before its user.
                for ActiveCursor { client_id, version, position } in self.cursors.of(&user_id).1 {
                    self.tell_cursor(None, user_id.clone(), client_id, version, Some(position));
                }
            }
            Told::Left(user_id) => self.tell_others(&user_id.clone(), Event::UserLeft { user_id }),
            Told::Count(active_count) => {
                let to = self.joined(|_, _| true);
                self.send(to, Event::Presence { active_count });
            }
        }
    }

    fn hear_cursor(&mut self, pod: &Arc<str>, cursor: PeerCursor, now_ms: u64) {
        let PeerCursor { user_id, client_id, version, mut position } = cursor;
        for entry in self.history.after(version).into_iter().flatten() {
            move_position(&mut position, &entry.ops);
        }
        let version = version.max(self.head().version);
        let known = ActiveCursor { client_id: client_id.clone(), version, position: position.clone() };
        let is_same = self.cursors.of(&user_id).1.contains(&known);
        if self.cursors.set(&user_id, Some(pod.clone()), known, now_ms)
            && !is_same
            && self.presence.crowd().has(&user_id)
        {
            self.tell_cursor(None, user_id, client_id, version, Some(position));
        }
    }

    fn show_cursor(&mut self, id: ConnectionId, version: Version, position: Option<Position>, now_ms: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (user_id, client_id) = (connection.user.id.clone(), connection.client_id.clone());
        let here: Origin = None;
        let is_followed = match &position {
            Some(position) => {
                let cursor = ActiveCursor { client_id: client_id.clone(), version, position: position.clone() };
                self.cursors.set(&user_id, here, cursor, now_ms)
            }
            None => self.cursors.clear(&user_id, &here, &client_id),
        };
        if is_followed {
            self.publish_cursor(&user_id, &client_id, version, position.clone());
            self.tell_cursor(Some(id), user_id, client_id, version, position);
        }
    }

    fn publish_cursor(
        &mut self,
        user_id: &Arc<str>,
        client_id: &Arc<str>,
        version: Version,
        position: Option<Position>,
    ) {
        let (user_id, client_id) = (user_id.clone(), client_id.clone());
        self.out.push(Command::Publish(Peer::Cursor { user_id, client_id, version, position }));
    }

    fn tell_cursor(
        &mut self,
        except: Option<ConnectionId>,
        user_id: Arc<str>,
        client_id: Arc<str>,
        version: Version,
        position: Option<Position>,
    ) {
        let to = self.joined(|id, _| Some(id) != except);
        self.send(to, Event::CursorUpdate { user_id, client_id, version, position });
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
