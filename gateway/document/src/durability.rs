//! Acknowledgements that wait until what they acknowledge is durable.
//!
//! In: what is in the log and was asked to be acknowledged; tickets that came true. Out: one ticket for all that one
//! input brought, answers in order, and one notice for each edit that waits long. Without
//! [`crate::Settings::durable_acks`] everything is answered at once.

use std::collections::VecDeque;

use crate::{
    Answer, Code, Command, ConnectionId, Document, Event, Mutation, Refusal, ReplyId, Version, edits::refusal,
};

/// Tickets that are out, and what waits for them.
#[derive(Debug, Default)]
pub(crate) struct Durability {
    /// The newest ticket that was asked for.
    ticket: u64,
    /// What the next ticket is for.
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
    pub(crate) connection: ConnectionId,
    pub(crate) reply: ReplyId,
    pub(crate) seq: Option<u64>,
    pub(crate) version: Version,
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
        self.open.retain(|waiting| waiting.connection != id);
        for round in &mut self.rounds {
            round.waiting.retain(|waiting| waiting.connection != id);
        }
        // Nobody waits for a ticket of nothing; that it comes true later is no harm.
        self.rounds.retain(|round| !round.waiting.is_empty());
        self.waiting = self.open.len() + self.rounds.iter().map(|round| round.waiting.len()).sum::<usize>();
    }
}

impl Document {
    /// An edit is in the log as this version: says so, now or when that is durable.
    pub(crate) fn acknowledge(&mut self, id: ConnectionId, reply: Option<ReplyId>, seq: Option<u64>, version: Version) {
        let Some(reply) = reply else { return };
        if !self.settings.durable_acks || self.settings.mutation == Mutation::AcknowledgeUndurable {
            return self.answer(id, Some(reply), Ok(Answer::Version(version)));
        }
        self.durability.waiting += 1;
        self.durability.open.push(Waiting { connection: id, reply, seq, version });
    }

    /// The same of an edit that was in the log already. The original may be as new as any.
    pub(crate) fn acknowledge_repeat(
        &mut self,
        id: ConnectionId,
        reply: Option<ReplyId>,
        seq: Option<u64>,
        version: Version,
    ) {
        if self.settings.mutation == Mutation::RepeatIsDurable {
            return self.answer(id, reply, Ok(Answer::Version(version)));
        }
        self.acknowledge(id, reply, seq, version);
    }

    /// Asks for what this input brought; a repeat too, whose original may be as new.
    pub(crate) fn ask_for_durability(&mut self, now_ms: u64) {
        let durability = &mut self.durability;
        if durability.open.is_empty() {
            return;
        }
        durability.ticket += 1;
        let (ticket, waiting) = (durability.ticket, std::mem::take(&mut durability.open));
        durability.rounds.push_back(Round { ticket, since_ms: now_ms, is_told: false, waiting });
        self.out.push(Command::MakeDurable { ticket });
    }

    /// Everything up to this ticket is durable.
    pub(crate) fn on_durable(&mut self, ticket: u64) {
        while let Some(round) = self.durability.rounds.pop_front_if(|round| round.ticket <= ticket) {
            self.durability.waiting = self.durability.waiting.saturating_sub(round.waiting.len());
            for Waiting { connection, reply, version, .. } in round.waiting {
                self.answer(connection, Some(reply), Ok(Answer::Version(version)));
            }
        }
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
            for waiting in &round.waiting {
                let message = "the edit is in the log; its acknowledgement waits for replicas";
                let why = Refusal { seq: waiting.seq, ..refusal(Code::NotDurableYet, message) };
                self.out.push(Command::Send { to: vec![waiting.connection], event: Event::Error(why) });
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
        durability.rounds.iter().any(|round| round.waiting.iter().any(|waiting| waiting.connection == id))
    }
}
