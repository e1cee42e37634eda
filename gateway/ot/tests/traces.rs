//! Real editing sessions through the OT core: one entry after the other, and with several writers at once who learn of
//! each other late.
//!
//! In: the four traces; `OT_SEED` for how late. Out: every writer and the log end in one document, the recorded one where
//! the recording says who knew what.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod common;

use std::collections::VecDeque;

use common::{random, seed};
use ot::{Delta, Op, Rope, cross};
use rand::Rng;

/// Writers at once, where the recording has one only.
const WRITERS: usize = 3;
/// How many entries a writer may learn between two edits; fewer than come, on average, so that the lag grows until...
const LEARNED_MOST: usize = 4;
/// ... it is this many, when everything is learned at once.
const LAG_MOST: usize = 24;

#[test]
fn one_entry_at_a_time_every_trace_ends_as_recorded() {
    for name in traces::SEQUENTIAL {
        let Some(trace) = traces::read(name).unwrap() else { return };
        let mut rope = empty();
        for typed in &trace.edits {
            rope.apply(&typed.change).unwrap();
        }
        assert!(rope.text() == trace.end, "{name} ends otherwise");
    }
}

#[test]
fn two_writers_who_know_what_the_recorded_ones_knew_end_as_recorded() {
    let Some(trace) = traces::read(traces::CONCURRENT).unwrap() else { return };
    let mut session = Session::new(2);
    for typed in &trace.edits {
        session.learn_until(typed.agent, typed.others_known);
        session.commit(typed.agent, typed.change.clone());
    }
    assert!(session.end().text() == trace.end, "it ends otherwise");
}

#[test]
fn any_trace_typed_by_writers_who_learn_late_ends_in_one_document() {
    let seed = seed();
    for name in traces::SEQUENTIAL {
        let Some(trace) = traces::read(name).unwrap() else { return };
        let mut random = random(seed);
        let mut session = Session::new(WRITERS);
        let mut most_unconfirmed = 0;
        for typed in &trace.edits {
            let writer = random.random_range(0..WRITERS);
            let lag = session.log.len() - session.sites[writer].learned;
            let learned = if lag > LAG_MOST { lag } else { random.random_range(0..=LEARNED_MOST.min(lag)) };
            session.learn(writer, learned);
            let change = fitted(&typed.change, session.sites[writer].shown.length_utf16());
            session.commit(writer, change);
            most_unconfirmed = most_unconfirmed.max(session.sites[writer].unconfirmed.len());
        }
        assert!(most_unconfirmed > 4, "{name}: the writers must be late, or nothing is shown");
        session.end();
    }
}

/// Writers and their log.
struct Session {
    sites: Vec<Site>,
    /// Who wrote each entry, and the entry as it applies after those before it.
    log: Vec<(usize, Delta)>,
}

/// What one writer has.
struct Site {
    shown: Rope,
    /// Entries learned, from the start of the log.
    learned: usize,
    /// How many of these are the others'.
    others: usize,
    /// Own edits that are not among the entries learned, in order, relative to these.
    unconfirmed: VecDeque<Delta>,
}

impl Session {
    fn new(writers: usize) -> Self {
        let site = || Site { shown: empty(), learned: 0, others: 0, unconfirmed: VecDeque::new() };
        Self { sites: (0..writers).map(|_| site()).collect(), log: Vec::new() }
    }

    fn learn_until(&mut self, writer: usize, others: usize) {
        while self.sites[writer].others < others {
            self.learn(writer, 1);
        }
    }

    /// The client's rule.
    fn learn(&mut self, writer: usize, entries: usize) {
        let site = &mut self.sites[writer];
        for (author, entry) in &self.log[site.learned..][..entries] {
            site.learned += 1;
            if *author == writer {
                site.unconfirmed.pop_front().expect("it was unconfirmed");
            } else {
                site.others += 1;
                let shown = over(site.unconfirmed.iter_mut(), entry);
                site.shown.apply(&shown).unwrap();
            }
        }
    }

    /// The pod's rule: the writer's chain of own edits is carried along the entries that the writer does not know.
    fn commit(&mut self, writer: usize, change: Delta) {
        let site = &mut self.sites[writer];
        site.shown.apply(&change).unwrap();
        site.unconfirmed.push_back(change);
        let mut chain = site.unconfirmed.clone();
        for (author, entry) in &self.log[site.learned..] {
            if *author == writer {
                assert_eq!(chain.pop_front().as_ref(), Some(entry), "the pod's chain gives what it gave before");
            } else {
                over(chain.iter_mut(), entry);
            }
        }
        let committed = chain.pop_front().expect("the new one");
        assert!(chain.is_empty());
        self.log.push((writer, committed));
    }

    /// Everybody learns everything; all are the fold of the log.
    fn end(mut self) -> Rope {
        let mut fold = empty();
        for (_, entry) in &self.log {
            fold.apply(entry).unwrap();
        }
        for writer in 0..self.sites.len() {
            self.learn(writer, self.log.len() - self.sites[writer].learned);
            let site = &self.sites[writer];
            assert!(site.unconfirmed.is_empty());
            assert!(site.shown.to_delta() == fold.to_delta(), "writer {writer} has another document");
        }
        fold
    }
}

/// Carries an entry over a chain of unconfirmed edits, and these over the entry; the entry as the chain's end sees it.
fn over<'a>(chain: impl Iterator<Item = &'a mut Delta>, entry: &Delta) -> Delta {
    chain.fold(entry.clone(), |entry, edit| {
        let (carried, entry) = cross(edit, &entry);
        *edit = carried;
        entry
    })
}

/// The change, cut to a document of this length (UTF-16 units).
fn fitted(change: &Delta, length: usize) -> Delta {
    let mut left = length;
    let mut out = Delta::new();
    for op in change.ops() {
        let op = match op {
            Op::Insert { .. } | Op::Embed { .. } => op.clone(),
            Op::Retain { length, attributes } => {
                Op::Retain { length: (*length).min(left), attributes: attributes.clone() }
            }
            Op::Delete { length } => Op::Delete { length: (*length).min(left) },
        };
        if !op.is_insert() {
            left -= op.length();
        }
        if op.length() > 0 {
            out.push(op);
        }
    }
    out.chop()
}

fn empty() -> Rope {
    Rope::from_delta(&Delta::new()).unwrap()
}
