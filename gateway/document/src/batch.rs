//! Commit calls.
//!
//! In: the pending edits of all sessions; the script's replies. Out: one call at a time, with at most one entry of each
//! client, all based on the pod's head and none on another (chaining them diverges where something comes in between);
//! answers once an entry is in the log.

use std::collections::BTreeSet;

use ot::{Delta, Growth};

use crate::{
    Answer, Batch, Code, Command, CommitReply, ConnectionId, Document, Entry, Mutation, Owed, Refusal, Verdict,
    access::objection,
    connection::Connection,
    document::{Flight, Origin},
    edits::{overloaded, refusal},
    healing::HEALED_SESSION,
};

/// What the names and numbers of an entry add to its operations, in bytes.
pub(crate) const ENTRY_FRAME_BYTES: usize = 160;

#[derive(Debug, Clone, Copy)]
enum Source {
    Present(ConnectionId),
    /// By index.
    Draining(usize),
}

impl Document {
    /// Sends what is pending, unless a call is in flight or the store is away.
    pub(crate) fn flush(&mut self) {
        if self.healing.is_some() {
            if self.flight.is_none() && self.away_since_ms.is_none() && self.stalled_at != Some(self.head().version) {
                self.flush_healing();
            }
            return;
        }
        if self.is_durability_full()
            || self.flight.is_some()
            || self.away_since_ms.is_some()
            || self.stalled_at == Some(self.head().version)
        {
            return;
        }
        let mut sources = self.sources();
        sources.sort_unstable_by_key(|(arrival, _)| *arrival);
        let mut clients = BTreeSet::new();
        let mut entries = Vec::new();
        let mut origins = Vec::new();
        let (mut bytes, mut grown) = (0_usize, Growth::default());
        if let Some((entry, origin)) = self.newline_entry() {
            grown = self.history.rope().growth(&entry.ops).unwrap_or_default();
            bytes += entry.ops.weight_bytes() + ENTRY_FRAME_BYTES;
            clients.insert(entry.client_id.clone());
            entries.push(entry);
            origins.push(origin);
        }
        for (_, source) in sources {
            if entries.len() >= self.settings.batch_entries {
                break;
            }
            let Some(connection) = self.source(source) else { continue };
            let Some(own) = connection.chain.pending().front() else { continue };
            if clients.contains(&connection.client_id) {
                continue;
            }
            let growth = match self.growth(&own.ops) {
                Ok(growth) => growth,
                Err(why) => {
                    self.refuse_unfit(source, why);
                    continue;
                }
            };
            let weight = own.ops.weight_bytes() + ENTRY_FRAME_BYTES;
            if !entries.is_empty() && bytes + weight > self.settings.batch_bytes {
                break;
            }
            // Each fits alone, all together may not: who is left over is judged when the others are in the document.
            if !entries.is_empty() && !self.fits_behind(grown, growth) {
                break;
            }
            bytes += weight;
            grown = grown.and(growth);
            let base = self.head().version;
            let Some(connection) = self.source_mut(source) else { continue };
            let (id, client_id) = (connection.id, connection.client_id.clone());
            let (user_id, session) = (connection.user.id.clone(), connection.session.clone());
            let Some(own) = connection.chain.front_mut() else { continue };
            own.sent = true;
            clients.insert(client_id.clone());
            origins.push(Origin {
                connection: Some(id),
                session: session.clone(),
                client_id: client_id.clone(),
                user_id: user_id.clone(),
                identity: own.identity.clone(),
                reply: own.reply.take(),
            });
            let (identity, ops) = (own.identity.clone(), own.ops.clone());
            entries.push(Entry { identity, client_id, user_id, session, base, ops });
            if self.settings.mutation == Mutation::ChainedBatch {
                self.push_chained(source, &mut entries, &mut origins);
            }
        }
        if self.settings.mutation == Mutation::AcknowledgeEarly {
            self.acknowledge_early(&mut origins);
        }
        if entries.is_empty() {
            return;
        }
        let floor = self.history.wanted_floor();
        self.flight = Some(Flight { head: self.head().version, floor, origins });
        self.out.push(Command::Commit(Batch { head: self.head().clone(), floor, entries }));
    }

    /// [`Mutation::ChainedBatch`].
    fn push_chained(&mut self, source: Source, entries: &mut Vec<Entry>, origins: &mut Vec<Origin>) {
        let base = self.head().version;
        let Some(connection) = self.source_mut(source) else { return };
        let (id, client_id) = (connection.id, connection.client_id.clone());
        let (user_id, session) = (connection.user.id.clone(), connection.session.clone());
        let Some(own) = connection.chain.second_mut() else { return };
        own.sent = true;
        let (identity, ops, reply) = (own.identity.clone(), own.ops.clone(), own.reply.take());
        origins.push(Origin {
            connection: Some(id),
            session: session.clone(),
            client_id: client_id.clone(),
            user_id: user_id.clone(),
            identity: identity.clone(),
            reply,
        });
        entries.push(Entry { identity, client_id, user_id, session, base, ops });
    }

    /// [`Mutation::AcknowledgeEarly`].
    fn acknowledge_early(&mut self, origins: &mut [Origin]) {
        let mut version = self.head().version;
        for origin in origins {
            version += 1;
            if let (Some(id), Some(reply)) = (origin.connection, origin.reply.take()) {
                self.answer(id, Some(reply), Ok(Answer::Version(version)));
            }
        }
    }

    /// Refuses an edit that does not fit, once it is known that no copy of it, sent through an older session, is in the
    /// log: what is in the log is never answered with an error.
    fn refuse_unfit(&mut self, source: Source, why: Refusal) {
        let next_fetch = self.fetches + 1;
        let (fetched, caught_up) = (self.fetched, self.heard <= self.head().version);
        let Some(own) = self.source_mut(source).and_then(|connection| connection.chain.front_mut()) else { return };
        let after = *own.refused_after.get_or_insert(next_fetch);
        if fetched < after || !caught_up {
            // A fetch that was given up is not answered any more, whatever comes of it.
            self.fetch_wanted |= self.fetches < after || self.fetching.is_none();
            return;
        }
        match source {
            Source::Present(id) => self.refuse_pending(id, 0, why),
            Source::Draining(place) => self.refuse_departed(place, 0, why),
        }
    }

    /// The reply to the call in flight.
    pub(crate) fn on_committed(&mut self, reply: CommitReply) {
        let Some(flight) = self.flight.take() else { return };
        if reply.forked {
            self.reopen();
        } else {
            self.history.settle_floor(flight.floor);
            self.learn(reply.tail);
        }
        if self.reopening {
            // It knows who waits for the edits that are to be put back.
            self.flight = Some(flight);
            return;
        }
        let head = self.head().version;
        if reply.more {
            self.heard = self.heard.max(head + 1);
        }
        let mut verdicts = reply.verdicts.into_iter();
        for (place, origin) in flight.origins.into_iter().enumerate() {
            // A reply that says nothing of an entry leaves it to be sent again, which the script notices.
            let verdict = verdicts.next().unwrap_or(Verdict::Behind);
            if let Verdict::Ok(version) | Verdict::Dup(version) = verdict {
                self.committed_here(version);
            }
            // What is put back is made on those before it, which may be in the log already, or refused.
            let is_made_on_head = place == 0 || *origin.session != *HEALED_SESSION;
            if verdict == Verdict::Behind && head == flight.head && is_made_on_head {
                self.stalled_at = Some(head);
            }
            self.on_verdict(origin, verdict, !reply.more);
        }
    }

    fn on_verdict(&mut self, origin: Origin, verdict: Verdict, is_whole: bool) {
        if *origin.session == *HEALED_SESSION {
            return self.on_healed(&origin, verdict, is_whole);
        }
        if origin.connection.is_none() {
            return self.on_newline_verdict(&origin, verdict);
        }
        match verdict {
            Verdict::Ok(version) | Verdict::Dup(version) => {
                self.heard = self.heard.max(version);
                if matches!(verdict, Verdict::Ok(_)) {
                    self.tell_digest(version);
                }
                if let Some(id) = origin.connection {
                    if let Some(reply) = origin.reply {
                        // The store knows the version of a client's last edit; the log, of those that it still has.
                        let (identity, user_id) = (origin.identity.clone(), origin.user_id.clone());
                        let logged = self.history.version_of(&identity, &user_id).unwrap_or(version);
                        let owed = Owed { connection: id, reply, identity, user_id };
                        self.acknowledge_told(owed, logged, verdict, is_whole);
                    }
                    if version <= self.head().version && self.is_front(&origin) {
                        self.start_afresh(id, &origin);
                    }
                }
            }
            Verdict::Gap(0) if origin.identity.is_forgotten() => self.count_anew(origin, is_whole),
            Verdict::Gap(last_seq) => {
                let message = format!("a number before this one is missing; the last one was {last_seq}; join again");
                let why = Refusal { last_seq: Some(last_seq), ..refusal(Code::SeqGap, message) };
                self.refuse_origin(origin, why);
            }
            Verdict::Overloaded => {
                self.refuse_origin(origin, overloaded("this document has too many clients; join again later"));
            }
            Verdict::Behind => self.on_behind(origin),
        }
    }

    /// The store has forgotten its session's count, and so cannot tell whether it is in the log; the log itself can, once
    /// this pod has all of it. Where it is not, it is sent under a new count.
    fn count_anew(&mut self, origin: Origin, is_whole: bool) {
        if let Some(version) = self.history.version_of(&origin.identity, &origin.user_id) {
            return self.on_verdict(origin, Verdict::Dup(version), is_whole);
        }
        let mut origin = origin;
        if is_whole && self.is_front(&origin) {
            let first = origin.identity.clone();
            origin.identity = first.counted_from(&first);
            if let Some(connection) = self.origin_mut(&origin) {
                connection.chain.count_anew();
                if connection.counted.is_counted_with(&first) {
                    connection.counted = connection.counted.counted_from(&first);
                }
            }
        }
        self.on_behind(origin);
    }

    /// It is not in the log: it is sent again, unless its user may not make it any more.
    fn on_behind(&mut self, origin: Origin) {
        let Some(connection) = self.origin_mut(&origin) else { return };
        let Some(own) = connection.chain.front_mut().filter(|own| own.identity == origin.identity) else { return };
        own.sent = false;
        own.reply = origin.reply;
        let why = connection.chain.pending().front().and_then(|own| objection(connection, &own.ops));
        if let Some(why) = why {
            self.refuse_origin(origin, why);
        }
    }

    /// An edit turns out to have been in the log before its session began, which did not know.
    fn start_afresh(&mut self, id: ConnectionId, origin: &Origin) {
        if self.connections.get(&id).is_some_and(|connection| connection.session == origin.session) {
            self.send_rejoin(id);
        } else if let Some(connection) = self.origin_mut(origin) {
            connection.chain.cut(0);
        }
    }

    /// Refuses a sent edit, and those behind it, if its session still lives.
    fn refuse_origin(&mut self, origin: Origin, why: Refusal) {
        let is_front = self.is_front(&origin);
        let Some(connection) = self.origin_mut(&origin) else { return };
        if !is_front {
            return;
        }
        let id = connection.id;
        if let Some(own) = connection.chain.front_mut() {
            own.reply = origin.reply;
        }
        let present = self.connections.get(&id).is_some_and(|connection| connection.session == origin.session);
        if present {
            self.refuse_pending(id, 0, why);
        } else if let Some(place) = self.draining.iter().position(|left| left.session == origin.session) {
            self.refuse_departed(place, 0, why);
        }
    }

    /// Refuses what a session that has left did not get into the log, from the `index`th edit on. Whoever has joined again
    /// since hears nothing of the old session, and sends it again.
    pub(crate) fn refuse_departed(&mut self, place: usize, index: usize, why: Refusal) {
        let Some(connection) = self.draining.get_mut(place) else { return };
        let (id, last_seq, gone) = (connection.id, connection.last_seq, connection.chain.cut(index));
        if self.connections.contains_key(&id) {
            return;
        }
        self.answer_refused(id, last_seq, gone, why);
    }

    fn is_front(&mut self, origin: &Origin) -> bool {
        self.origin_mut(origin)
            .and_then(|connection| connection.chain.pending().front())
            .is_some_and(|own| own.identity == origin.identity)
    }

    /// The session that an entry came from, while it lives.
    fn origin_mut(&mut self, origin: &Origin) -> Option<&mut Connection> {
        let id = origin.connection?;
        let present =
            self.connections.get_mut(&id).map(Box::as_mut).filter(|connection| connection.session == origin.session);
        present.or_else(|| self.draining.iter_mut().find(|connection| connection.session == origin.session))
    }

    /// What an edit does to the document, if it may be appended at the head. Sizes are checked here and never again, so
    /// that what is in the log always folds. What makes the document smaller may always.
    fn growth(&self, ops: &Delta) -> Result<Growth, Refusal> {
        let rope = self.history.rope();
        let invalid = |invalid| refusal(Code::OpInvalid, format!("{invalid} as it is now"));
        let growth = rope.growth(ops).map_err(invalid)?;
        let most = self.settings.max_document_bytes;
        if growth.bytes > 0 && rope.bytes().saturating_add_signed(growth.bytes) > most {
            return Err(refusal(Code::DocumentTooLarge, format!("the document would be larger than {most} bytes")));
        }
        // Its own size, after all that it was carried over: formatting that is taken away makes no document larger.
        let most = self.settings.sent_entry_bytes();
        if ops.weight_bytes() > most {
            let message = format!("others have cut what it changes: the edit would be larger than {most} bytes now");
            return Err(refusal(Code::DocumentTooLarge, message));
        }
        Ok(growth)
    }

    /// Whether an edit that fits alone may go with the call that these others make. They will be carried over each other,
    /// and over what other pods have under way, which may cut what they format into many pieces.
    fn fits_behind(&self, others: Growth, edit: Growth) -> bool {
        let together = others.and(edit);
        let bytes = self.history.rope().bytes().saturating_add(together.most_bytes());
        (edit.added_bytes == 0 || bytes <= self.settings.max_document_bytes)
            && (edit.spread_bytes == 0 || together.spread_bytes <= self.settings.head_room_bytes())
    }

    /// All sessions with an edit to send, by the time it came.
    fn sources(&self) -> Vec<(u64, Source)> {
        let unsent =
            |connection: &Connection| connection.chain.pending().front().filter(|own| !own.sent).map(|own| own.arrival);
        let present = self.busy.iter().filter_map(|id| {
            let connection = self.connections.get(id)?;
            unsent(connection).map(|arrival| (arrival, Source::Present(*id)))
        });
        let draining = self
            .draining
            .iter()
            .enumerate()
            .filter_map(|(index, connection)| unsent(connection).map(|arrival| (arrival, Source::Draining(index))));
        present.chain(draining).collect()
    }

    fn source(&self, source: Source) -> Option<&Connection> {
        match source {
            Source::Present(id) => self.connections.get(&id).map(Box::as_ref),
            Source::Draining(index) => self.draining.get(index),
        }
    }

    fn source_mut(&mut self, source: Source) -> Option<&mut Connection> {
        match source {
            Source::Present(id) => self.connections.get_mut(&id).map(Box::as_mut),
            Source::Draining(index) => self.draining.get_mut(index),
        }
    }
}
