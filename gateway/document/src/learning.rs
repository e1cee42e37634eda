//! Taking in the log.
//!
//! In: entries, from publishes, fetches and replies; some known already, some beyond a gap. Out: `edit` and
//! `edit-committed` for everybody who has joined, in version order without gaps.

use std::sync::Arc;

use crate::{
    Canonical, Code, Command, ConnectionId, Document, Event, Logged, Mutation, Refusal, Version,
    catching_up::committed,
    connection::Stage,
    cursors::move_position,
    edits::refusal,
    joins::not_owner,
    queue::{EditQueue, Queued},
};

impl Document {
    /// Entries from a publish or a fetch.
    pub(crate) fn on_learned(&mut self, entries: Vec<Logged>) {
        let answers_fetch = self.fetching.is_some_and(|fetching| {
            entries.first().is_none_or(|first| first.at.version <= fetching.after.saturating_add(1))
        });
        // What was heard of after the question says more than an answer that was given before it.
        let is_outdated = self.fetching.is_some_and(|fetching| fetching.heard < self.heard);
        if answers_fetch {
            self.fetching = None;
            self.fetched = self.fetches;
            self.vain_fetches = 0;
        } else if let Some(fetching) = &mut self.fetching {
            fetching.beyond_gap = true;
        }
        let nothing_more = answers_fetch && entries.is_empty() && !is_outdated;
        self.learn(entries);
        if nothing_more && !self.reopening {
            self.on_end_of_log();
        }
    }

    /// Takes in entries in order; stops at a gap.
    pub(crate) fn learn(&mut self, entries: Vec<Logged>) {
        for logged in entries {
            if self.reopening {
                return;
            }
            let version = logged.at.version;
            self.heard = self.heard.max(version);
            let head = self.head().version;
            if version <= head {
                if self.history.hash(version).is_some_and(|hash| *hash != logged.at.hash) {
                    // Two histories: what this pod showed is not what the log says.
                    return self.reopen();
                }
            } else if version == head + 1 {
                match self.history.learn(&logged) {
                    Ok(canonical) => {
                        self.count_for_snapshot();
                        self.deliver(&canonical);
                        self.compare_digest(&canonical);
                    }
                    Err(_) => return self.reopen(),
                }
            }
        }
        if self.heard.saturating_sub(self.head().version) > self.settings.behind_entries {
            self.reopen();
        }
    }

    /// Tells everybody about the entry that just became the head.
    fn deliver(&mut self, entry: &Arc<Canonical>) {
        let mutation = self.settings.mutation;
        if *entry.client_id == *crate::joins::NEWLINE_CLIENT {
            self.newline_seq = self.newline_seq.max(entry.identity.seq);
        }
        self.cursors.learn(entry.at.version, &entry.ops);
        let mut others = Vec::new();
        let mut own = Vec::new();
        let mut overtaken = Vec::new();
        let mut nameless = Vec::new();
        let mut shown = Vec::new();
        for (id, connection) in self.connections.iter_mut() {
            if connection.is_namesake(entry) {
                match connection.stage {
                    Stage::Joined => overtaken.push(*id),
                    Stage::Joining(_) => nameless.push(*id),
                    Stage::Rejoining(_) => {}
                }
                continue;
            }
            let is_own = connection.client_id == entry.client_id;
            if is_own && !entry.identity.by_gateway && entry.identity.seq > connection.last_seq {
                connection.last_seq = entry.identity.seq;
                connection.last_version = entry.at.version;
            }
            let foreign_session = entry.session != connection.session && mutation != Mutation::NoSessions;
            if is_own && foreign_session && connection.is_joined() {
                overtaken.push(*id);
                continue;
            }
            if let Some(cursor) = &mut connection.cursor
                && !is_own
            {
                move_position(&mut cursor.position, &connection.chain.after_pending(entry, cursor.behind));
            }
            let popped = connection.chain.learn(&self.history, entry, mutation).is_some();
            if popped && let Some(cursor) = &mut connection.cursor {
                cursor.behind = cursor.behind.saturating_sub(1);
                if cursor.behind == 0 {
                    shown.push(*id);
                }
            }
            if connection.is_joined() {
                if is_own { own.push(*id) } else { others.push(*id) }
            }
        }
        self.heal_learned(entry);
        for connection in &mut self.draining {
            if connection.is_namesake(entry) {
                // It never gets into the log, and nobody waits for an answer.
                connection.chain.cut(0);
            } else {
                connection.chain.learn(&self.history, entry, mutation);
            }
        }
        if !self.is_sendable(entry) {
            overtaken.append(&mut others);
        }
        if !others.is_empty() {
            self.out.push(Command::Send { to: others, event: Event::Edit(entry.clone()) });
        }
        if !own.is_empty() {
            let event = committed(entry);
            self.out.push(Command::Send { to: own, event });
        }
        for id in overtaken {
            self.send_rejoin(id);
        }
        for id in nameless {
            // What the store would say of them. The client keeps them, and sends them under a name of its own.
            self.refuse_pending(id, 0, Refusal::new(Code::SeqGap, not_owner().message));
            if let Some(joining) = self.connections.get_mut(&id).and_then(|connection| connection.joining()) {
                joining.is_foreign = true;
            }
        }
        for id in shown {
            self.show_waiting_cursor(id);
        }
    }

    /// Whether an entry is small enough to be sent; whoever should get another joins again.
    pub(crate) fn is_sendable(&self, entry: &Canonical) -> bool {
        entry.ops.weight_bytes() <= self.settings.sent_entry_bytes()
    }

    /// The client's session cannot go on: what it sent and is not in the log is dropped, it joins again.
    pub(crate) fn send_rejoin(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.stage = Stage::Rejoining(EditQueue::default());
        connection.reset();
        self.busy.remove(&id);
        self.waiting.remove(&id);
        self.out.push(Command::Send { to: vec![id], event: Event::Rejoin });
        self.check_pause(id);
    }

    /// A fetch brought nothing: the head is the end of the log. Whoever waits for more waits in vain.
    fn on_end_of_log(&mut self) {
        let head = self.head().version;
        self.heard = head;
        if let Some(healing) = &mut self.healing {
            healing.expect_after(Version::MAX);
        }
        if self.stalled_at == Some(head) {
            // The store refuses what is based on its own newest version: this copy is not of that history.
            return self.reopen();
        }
        for id in self.waiting.clone() {
            self.refuse_ahead(id);
        }
        let lost_tail = self.joining.clone().into_iter().any(|id| {
            let joining = self.connections.get_mut(&id).and_then(|connection| connection.joining());
            joining.is_some_and(|joining| {
                joining.reach = joining.reach.min(joining.row.as_ref().map_or(0, |row| row.version));
                joining.reach > head
            })
        });
        if lost_tail {
            self.reopen();
        }
    }

    /// Whether entries that somebody waits for may still come.
    pub(crate) fn check_progress(&mut self) {
        let head = self.head().version;
        let edits_wait = self.waiting.iter().any(|id| {
            let inbox = self.connections.get(id).map(|connection| &connection.inbox);
            inbox.and_then(EditQueue::front).is_some_and(|queued| queued.edit.version > head)
        });
        let joins_wait = self.joining.iter().any(|id| {
            matches!(self.connections.get(id).map(|connection| &connection.stage),
                Some(Stage::Joining(joining)) if !self.lookups.contains_key(id) && joining.reach > head)
        });
        if edits_wait || joins_wait || self.stalled_at == Some(head) {
            self.fetch_wanted = true;
        }
    }

    fn refuse_ahead(&mut self, id: ConnectionId) {
        let head = self.head().version;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(Queued { edit, .. }) = connection.inbox.pop_if(|edit| edit.version > head) {
            let message = format!("version {} is not in the log, which ends at {head}; join again", edit.version);
            let why = refusal(crate::Code::VersionAhead, message);
            self.refuse_edit(id, edit.reply, edit.seq, why);
        }
    }
}
