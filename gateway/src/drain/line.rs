//! The connections of a drain, each on its way out: told, read to its end, closed, gone.
//!
//! In: outboxes, the order that stands, moments, connections that have settled. Out: hints, requests to settle, closes at
//! the pace, and when to look again. Who does not settle or does not end in time is not waited for.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use document::ConnectionId;
use rand::{Rng, seq::SliceRandom};
use tokio::{sync::mpsc, time::Instant};

use super::pace::{self, Pace};
use crate::{
    clock::milliseconds,
    outbox::{Ending, Outbox},
};

/// Everybody has a hint within this time.
const HINTS_WITHIN: Duration = Duration::from_secs(4);
/// Fewer connections need less time.
const HINTS_PER_SECOND: f64 = 1000.0;
/// How long before its close a connection is read no further: a commit takes a few milliseconds.
const LEAD: Duration = Duration::from_millis(500);
/// A connection whose edits are not answered after this long is closed with them: the store is away.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// The same for those who are in a hurry.
const SETTLE_HURRIED: Duration = Duration::from_secs(2);
/// A peer that has not taken its last bytes after this long is dropped.
const GOODBYE: Duration = Duration::from_secs(3);
/// Service restart, as RFC 6455's registry names it.
const RESTART: u16 = 1012;

/// What counts for this step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Closes a second.
    pub(super) per_second: u32,
    /// When the last one is to be closed.
    pub(super) by: Instant,
    /// Everybody at once, though what is under way may finish.
    pub(super) hurry: bool,
}

/// Everybody who is to go.
pub(super) struct Line {
    began: Instant,
    pace: Pace,
    hints_due: Instant,
    hints_per_second: f64,
    to_hint: VecDeque<Outbox>,
    hinted: VecDeque<Outbox>,
    settling: HashMap<ConnectionId, Outbox>,
    /// When those that settle were asked; some have settled since.
    asked: VecDeque<(Instant, ConnectionId)>,
    ready: VecDeque<Outbox>,
    /// Closed, with the time when they are dropped.
    closed: VecDeque<(Instant, Outbox)>,
    settled: mpsc::UnboundedSender<ConnectionId>,
}

impl Line {
    /// Nobody yet. Whoever has settled is told on `settled`; each connection once.
    pub(super) fn new(now: Instant, settled: mpsc::UnboundedSender<ConnectionId>) -> Line {
        Line {
            began: now,
            pace: Pace::new(now),
            hints_due: now,
            hints_per_second: HINTS_PER_SECOND,
            to_hint: VecDeque::new(),
            hinted: VecDeque::new(),
            settling: HashMap::new(),
            asked: VecDeque::new(),
            ready: VecDeque::new(),
            closed: VecDeque::new(),
            settled,
        }
    }

    /// These stand in line now, in random order.
    pub(super) fn enter(&mut self, mut outboxes: Vec<Outbox>, now: Instant) {
        outboxes.shuffle(&mut rand::rng());
        self.to_hint.extend(outboxes);
        self.hints_due = now;
        self.hints_per_second = HINTS_PER_SECOND.max(self.to_hint.len() as f64 / HINTS_WITHIN.as_secs_f64());
    }

    /// Those who were not asked to settle yet stay.
    pub(super) fn let_stay(&mut self) {
        self.to_hint.clear();
        self.hinted.clear();
    }

    /// How many are not closed yet.
    pub(super) fn left(&self) -> usize {
        self.to_hint.len() + self.hinted.len() + self.settling.len() + self.ready.len()
    }

    /// Whether everybody was closed and is gone.
    pub(super) fn is_over(&self) -> bool {
        self.left() == 0 && self.closed.is_empty()
    }

    /// Everything of this connection is answered.
    pub(super) fn has_settled(&mut self, id: ConnectionId) {
        self.ready.extend(self.settling.remove(&id));
    }

    /// Does what is due; answers when to come again, at the latest.
    pub(super) fn step(&mut self, terms: Terms, now: Instant) -> Option<Instant> {
        let at_once = terms.hurry || terms.by <= now;
        let rate = pace::rate(terms.per_second, self.left(), terms.by.saturating_duration_since(now));
        self.hint(at_once, rate, now);
        self.give_up(terms, now);
        self.close(at_once, rate, now);
        self.ask(at_once, rate, now);
        self.drop_closed(now);
        self.next(terms, rate, now)
    }

    fn hint(&mut self, at_once: bool, rate: f64, now: Instant) {
        while at_once || self.hints_due <= now {
            let Some(outbox) = self.to_hint.pop_front() else { return };
            // Everybody before this one is closed first.
            let before = self.hinted.len() + self.settling.len() + self.ready.len();
            let wait = if at_once { Duration::ZERO } else { Duration::from_secs_f64(before as f64 / rate) };
            outbox.hint(now + wait);
            self.hints_due += Duration::from_secs_f64(1.0 / self.hints_per_second);
            self.hinted.push_back(outbox);
        }
    }

    /// Asks as many to settle as can be closed within [`LEAD`], whether or not those before them have.
    fn ask(&mut self, at_once: bool, rate: f64, now: Instant) {
        let most = ((rate * LEAD.as_secs_f64()).ceil() as usize).max(1);
        while at_once || self.ready.len() < most && self.asked_lately(now) < most {
            let Some(outbox) = self.hinted.pop_front() else { return };
            self.settling.insert(outbox.id(), outbox.clone());
            self.asked.push_back((now, outbox.id()));
            outbox.settle(self.settled.clone());
        }
    }

    fn asked_lately(&self, now: Instant) -> usize {
        self.asked.len() - self.asked.partition_point(|(at, _)| *at + LEAD <= now)
    }

    /// Whoever has not settled in time is closed as it is.
    fn give_up(&mut self, terms: Terms, now: Instant) {
        let patience = patience(terms);
        while let Some((_, id)) = self.asked.front().filter(|(at, _)| (*at + patience).min(terms.by.max(*at)) <= now) {
            if let Some(outbox) = self.settling.remove(id) {
                tracing::debug!(connection = id.0, "closing a connection whose edits were not answered");
                self.ready.push_back(outbox);
            }
            self.asked.pop_front();
        }
    }

    fn close(&mut self, at_once: bool, rate: f64, now: Instant) {
        while at_once || self.pace.due(rate) <= now {
            let Some(outbox) = self.ready.pop_front() else { return };
            // Whoever went by itself takes no turn.
            if outbox.is_dropped() {
                continue;
            }
            // The moment that the pace counts; the line itself may be late.
            let after_ms = milliseconds(now.saturating_duration_since(self.began));
            tracing::debug!(connection = outbox.id().0, after_ms, "draining a connection");
            outbox.close(Ending::Transport { code: RESTART, reason: "draining" });
            self.pace.closed(now, rate, rand::rng().random());
            self.closed.push_back((now + GOODBYE, outbox));
        }
    }

    fn drop_closed(&mut self, now: Instant) {
        while self.closed.front().is_some_and(|(until, outbox)| *until <= now || outbox.is_dropped()) {
            if let Some((_, outbox)) = self.closed.pop_front().filter(|(_, outbox)| !outbox.is_dropped()) {
                outbox.close(Ending::Drop);
            }
        }
    }

    fn next(&self, terms: Terms, rate: f64, now: Instant) -> Option<Instant> {
        let is_any_left = self.left() > 0;
        [
            (!self.to_hint.is_empty()).then_some(self.hints_due),
            (!self.ready.is_empty()).then(|| self.pace.due(rate)),
            self.asked.front().filter(|_| !self.settling.is_empty()).map(|(at, _)| *at + patience(terms)),
            if self.hinted.is_empty() { None } else { self.next_question(now) },
            self.closed.front().map(|(until, _)| *until),
            is_any_left.then_some(terms.by),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When the oldest of the questions that count is [`LEAD`] ago.
    fn next_question(&self, now: Instant) -> Option<Instant> {
        let first = self.asked.partition_point(|(at, _)| *at + LEAD <= now);
        self.asked.get(first).map(|(at, _)| *at + LEAD)
    }
}

fn patience(terms: Terms) -> Duration {
    if terms.hurry { SETTLE_HURRIED } else { SETTLE_MAX }
}
