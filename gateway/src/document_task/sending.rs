//! The task's part in what connections are told.
//!
//! In: events and answers of the document. Out: frames in outboxes, each encoded once, by class of traffic. Whoever reads
//! too slowly is told of no more edits until there is room, and then of what it missed.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
};

use document::{Answer, ConnectionId, Document, Event, Input, JoinedContent, Refusal, ReplyId, Version};
use tokio::sync::Notify;

use super::{Flow, Task};
use crate::{encoded::Encoded, outbox::Class};

/// Connections that this task writes to by itself in one turn, at some microseconds each; the others' own tasks do the
/// same on all threads, and nobody waits long for this one.
const DIRECT_WRITES_MAX: usize = 64;

/// Connections that read too slowly, and the version that each was told of last.
#[derive(Debug, Default)]
pub(super) struct Behind {
    connections: BTreeMap<ConnectionId, Version>,
    drained: Arc<Notify>,
    /// One of them is being told: that it falls behind again is nothing new.
    catching_up: Option<ConnectionId>,
}

impl Behind {
    /// Waits until one of them may have room.
    pub(super) async fn drained(&self) {
        self.drained.notified().await;
    }

    /// Whether there is one.
    pub(super) fn is_anybody(&self) -> bool {
        !self.connections.is_empty()
    }

    /// It left, or learns everything in another way.
    pub(super) fn remove(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
    }

    /// Everybody joins again.
    pub(super) fn clear(&mut self) {
        self.connections.clear();
    }
}

impl Task {
    /// Sends what the turn put in line: all of one connection's frames in one write.
    pub(super) fn flush(&mut self) {
        for (count, outbox) in self.dirty.drain(..).enumerate() {
            if count < DIRECT_WRITES_MAX {
                outbox.flush();
            } else {
                outbox.wake();
            }
        }
    }

    pub(super) fn send(&mut self, to: &[ConnectionId], event: &Event) {
        match event {
            Event::Edit(entry) => {
                let told = self.send_edit(to, event, entry.at.version);
                self.inner.parts.metrics.deliveries.inc_by(told);
            }
            Event::EditCommitted { at, .. } => {
                self.send_edit(to, event, at.version);
            }
            Event::DocumentJoined(_)
            | Event::Rejoin
            | Event::AccessChanged { .. }
            | Event::UserJoined(_)
            | Event::UserLeft { .. }
            | Event::Presence { .. }
            | Event::CursorUpdate { .. }
            | Event::TypingUpdate { .. }
            | Event::Error(_) => self.send_other(to, event),
        }
    }

    pub(super) fn answer(&mut self, to: ConnectionId, reply: Option<ReplyId>, answer: &Result<Answer, Refusal>) {
        let Some(outbox) = self.outboxes.get(&to) else { return };
        if let Some(text) = protocol::acknowledgement(reply, &self.id, answer) {
            let parts = &self.inner.parts;
            let frame = Encoded::new(text, &parts.budget, &parts.metrics).frame(outbox.deflate());
            outbox.push_later(frame, Class::Must);
            self.dirty.push(outbox.clone());
        }
    }

    /// Tells those who have room again what they missed, as much as they have room for.
    pub(super) fn catch_up(&mut self, document: &mut Document) -> Flow {
        for (connection, after) in self.behind.connections.clone() {
            if self.outboxes.get(&connection).is_some_and(|outbox| outbox.has_room_for_edits(&self.behind.drained)) {
                self.behind.connections.remove(&connection);
                self.behind.catching_up = Some(connection);
                let flow = self.feed(document, Input::CatchUp { connection, after });
                self.behind.catching_up = None;
                flow?;
            }
        }
        Ok(())
    }

    /// Answers how many were told.
    fn send_edit(&mut self, to: &[ConnectionId], event: &Event, version: Version) -> u64 {
        let behind = &mut self.behind;
        let parts = &self.inner.parts;
        let mut encoded = None;
        let mut told = 0;
        for connection in to {
            let Some(outbox) = self.outboxes.get(connection) else { continue };
            if behind.connections.contains_key(connection) {
                outbox.hold_fair();
                continue;
            }
            let encoded = encoded
                .get_or_insert_with(|| Encoded::new(protocol::event(&self.id, event), &parts.budget, &parts.metrics));
            if outbox.push_edit_later(encoded.frame(outbox.deflate()), &behind.drained) {
                told += 1;
            } else {
                behind.connections.insert(*connection, version.saturating_sub(1));
                if behind.catching_up != Some(*connection) {
                    outbox.count_slow();
                }
            }
            self.dirty.push(outbox.clone());
        }
        told
    }

    fn send_other(&mut self, to: &[ConnectionId], event: &Event) {
        if matches!(event, Event::DocumentJoined(_) | Event::Rejoin | Event::AccessChanged { role: None }) {
            for connection in to {
                // The content has what it missed, or it has to ask for it.
                self.behind.remove(*connection);
            }
        }
        // A join is one connection's.
        let joined = to.first().filter(|_| matches!(event, Event::DocumentJoined(_)));
        let user_id = joined.and_then(|connection| self.access.user(*connection));
        let ticket = user_id.map(|user_id| self.inner.parts.tickets.issue(user_id));
        let text = protocol::event_with_ticket(&self.id, event, ticket.as_deref());
        let parts = &self.inner.parts;
        let encoded = Encoded::new(text, &parts.budget, &parts.metrics);
        let class = self.class(event);
        // Who is here is told by the connections' own tasks: in a storm of joins several such frames share one write.
        let may_wait = matches!(event, Event::UserJoined(_) | Event::UserLeft { .. } | Event::Presence { .. });
        for outbox in to.iter().filter_map(|connection| self.outboxes.get(connection)) {
            outbox.push_later(encoded.frame(outbox.deflate()), class);
            if may_wait {
                outbox.wake();
            } else {
                self.dirty.push(outbox.clone());
            }
        }
    }

    fn class(&self, event: &Event) -> Class {
        match event {
            Event::DocumentJoined(joined) => match joined.content {
                JoinedContent::Edits(_) => Class::Must,
                JoinedContent::Text(_) | JoinedContent::Ops(_) => Class::Snapshot,
            },
            Event::CursorUpdate { user_id, client_id, .. } => Class::Latest(self.key("cursor", user_id, client_id)),
            Event::TypingUpdate { user_id, .. } => Class::Latest(self.key("typing", user_id, "")),
            Event::UserJoined(user) => Class::LatestMust(self.key("person", &user.id, "")),
            Event::UserLeft { user_id } => Class::LatestMust(self.key("person", user_id, "")),
            Event::Presence { .. } => Class::LatestMust(self.key("people", "", "")),
            Event::Rejoin
            | Event::AccessChanged { .. }
            | Event::Edit(_)
            | Event::EditCommitted { .. }
            | Event::Error(_) => Class::Must,
        }
    }

    /// What a frame is about, so that a later one takes its place. Nobody outside can choose two that collide.
    fn key(&self, what: &str, user_id: &str, client_id: &str) -> u64 {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        KEYS.hash_one((what, &*self.id, user_id, client_id))
    }
}
