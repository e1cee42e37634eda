//! Acknowledgements that wait until what they acknowledge is durable.
//!
//! In: what is in the log and was asked to be acknowledged; tickets that came true. Out: one ticket for all that one
//! input brought, answers in order, and one notice for each edit that waits long. Without
//! [`crate::Settings::durable_acks`] everything is answered at once.

use std::collections::VecDeque;

use crate::{
    Answer, Code, Command, ConnectionId, Document, Event, Mutation, Owed, Refusal, Verdict, Version, edits::refusal,
};

/// Tickets that are out, and what waits for them.
#[derive(Debug, Default)]
pub(crate) struct Durability {
    /// The newest ticket that was asked for.
    ticket: u64,
    /// What the next tickets are for.
    open: Vec<Waiting>,
    /// Oldest first.
    rounds: VecDeque<Round>,
    waiting: usize,
}

#[derive(Debug)]
struct Round {
    ticket: u64,
    since_ms: u64,
    is_told: bool,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) owed: Owed,
    pub(crate) version: Version,
    /// The reply that is being handled shows that the log has it, up to the head.
    by_commit: bool,
    /// Appended as this very version; a repeat may have been told that of a later edit of its client.
    is_exact: bool,
    /// This pod has it, at or below its head; until then a reply said so, of a log that may be lost since.
    pub(crate) is_seen: bool,
}

impl Durability {
    /// How many acknowledgements wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Gives up all that waits, oldest first: what tickets that are out say is not of interest any more.
    pub(crate) fn start_over(&mut self) -> Vec<Waiting> {
        self.waiting = 0;
        let rounds = std::mem::take(&mut self.rounds).into_iter().flat_map(|round| round.waiting);
        rounds.chain(std::mem::take(&mut self.open)).collect()
    }

    /// Nobody is there to be answered any more.
    pub(crate) fn forget(&mut self, id: ConnectionId) {
        self.open.retain(|waiting| waiting.owed.connection != id);
        for round in &mut self.rounds {
            round.waiting.retain(|waiting| waiting.owed.connection != id);
        }
        // Nobody waits for a ticket of nothing; that it comes true later is no harm.
        self.rounds.retain(|round| !round.waiting.is_empty());
        self.count();
    }

    fn count(&mut self) {
        self.waiting = self.open.len() + self.rounds.iter().map(|round| round.waiting.len()).sum::<usize>();
    }
}

impl Document {
    /// An edit is in the log as this version, as this pod sees: says so, now or when that is durable.
    pub(crate) fn acknowledge(&mut self, owed: Owed, version: Version) {
        self.promise(Waiting { owed, version, by_commit: false, is_exact: false, is_seen: true });
    }

    /// The same of an edit of which only the reply to a commit says so. `is_whole`: the reply brought all of the log up to
    /// that version.
    pub(crate) fn acknowledge_told(&mut self, owed: Owed, version: Version, verdict: Verdict, is_whole: bool) {
        let is_exact = matches!(verdict, Verdict::Ok(_));
        self.promise(Waiting { owed, version, by_commit: is_whole, is_exact, is_seen: false });
    }

    fn promise(&mut self, waiting: Waiting) {
        let Waiting { version, is_exact, .. } = waiting;
        let mutation = self.settings.mutation;
        let is_broken =
            mutation == Mutation::AcknowledgeUndurable || (mutation == Mutation::RepeatIsDurable && !is_exact);
        if !self.settings.durable_acks || is_broken {
            return self.answer(waiting.owed.connection, Some(waiting.owed.reply), Ok(Answer::Version(version)));
        }
        self.durability.open.push(waiting);
        self.durability.waiting += 1;
    }

    /// Asks for what this input brought; a repeat too, whose original may be as new. What lies beyond the head waits
    /// until the head is there: a ticket is for the log up to a point, so that the store can tell whether it has it.
    pub(crate) fn ask_for_durability(&mut self, now_ms: u64) {
        if self.durability.open.is_empty() {
            return;
        }
        let head = self.head().clone();
        let (mut ready, mut later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.durability.open).into_iter().partition(|waiting| waiting.version <= head.version);
        for waiting in &mut later {
            waiting.by_commit = false;
        }
        self.durability.open = later;
        if ready.iter().any(|waiting| self.is_taken_back(waiting)) {
            // The log has something else there than it said: what this pod knows of it is not true any more.
            self.durability.open.extend(ready);
            return self.reopen();
        }
        if ready.is_empty() {
            return;
        }
        ready.iter_mut().for_each(|waiting| waiting.is_seen = true);
        let by_commit = ready.iter().all(|waiting| waiting.by_commit);
        self.durability.ticket += 1;
        let ticket = self.durability.ticket;
        self.durability.rounds.push_back(Round { ticket, since_ms: now_ms, is_told: false, waiting: ready });
        self.out.push(Command::MakeDurable { ticket, at: head, by_commit });
    }

    /// Whether the log, now that this pod has it up to there, is not what a reply said it was.
    fn is_taken_back(&self, waiting: &Waiting) -> bool {
        let Owed { identity, user_id, .. } = &waiting.owed;
        match self.history.canonical(waiting.version).filter(|_| waiting.is_exact) {
            Some(entry) => !entry.is(identity, user_id),
            None => !waiting.is_seen && !waiting.by_commit && self.history.version_of(identity, user_id).is_none(),
        }
    }

    /// Everything up to this ticket is durable.
    pub(crate) fn on_durable(&mut self, ticket: u64) {
        while let Some(round) = self.durability.rounds.pop_front_if(|round| round.ticket <= ticket) {
            self.durability.waiting = self.durability.waiting.saturating_sub(round.waiting.len());
            for Waiting { owed, version, .. } in round.waiting {
                self.answer(owed.connection, Some(owed.reply), Ok(Answer::Version(version)));
            }
        }
    }

    /// Whether so many acknowledgements wait that nothing more is committed until some are out.
    pub(crate) fn is_durability_full(&self) -> bool {
        self.durability.waiting() >= self.settings.durable_waiting
    }

    /// Edits that are held back for it wait no longer than for a store that is away.
    pub(crate) fn note_durability_full(&mut self, now_ms: u64) {
        let since_ms = self.full_since_ms.unwrap_or(now_ms);
        self.full_since_ms = self.is_durability_full().then_some(since_ms);
    }

    /// Tells, once, that an acknowledgement is late. The edit is in the log: this is no answer.
    pub(crate) fn tell_not_durable(&mut self, now_ms: u64) {
        let late_ms = self.settings.durable_notice_ms;
        for round in &mut self.durability.rounds {
            if round.since_ms.saturating_add(late_ms) > now_ms {
                break;
            }
            if std::mem::replace(&mut round.is_told, true) {
                continue;
            }
            for Waiting { owed, .. } in &round.waiting {
                let message = "the edit is in the log; its acknowledgement waits for replicas";
                let seq = (!owed.identity.by_gateway).then_some(owed.identity.seq);
                let why = Refusal { seq, ..refusal(Code::NotDurableYet, message) };
                self.out.push(Command::Send { to: vec![owed.connection], event: Event::Error(why) });
            }
        }
    }

    /// When [`Self::tell_not_durable`] has something to say.
    pub(crate) fn durable_deadline_ms(&self) -> Option<u64> {
        let next = self.durability.rounds.iter().find(|round| !round.is_told)?;
        Some(next.since_ms.saturating_add(self.settings.durable_notice_ms))
    }

    /// Whether an acknowledgement for this connection waits until its edit is durable.
    pub fn owes(&self, id: ConnectionId) -> bool {
        let durability = &self.durability;
        let mut waiting = durability.rounds.iter().flat_map(|round| &round.waiting).chain(&durability.open);
        waiting.any(|waiting| waiting.owed.connection == id)
    }

    /// How many acknowledgements wait until their edits are durable.
    pub fn acknowledgements_waiting(&self) -> usize {
        self.durability.waiting()
    }
}
