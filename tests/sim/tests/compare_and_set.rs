//! The batch script against the naive way to commit: compare-and-set, one edit a call, taken only if the pod has all that
//! is in the log, else rebased and tried again.
//!
//! In: random schedules, the same for both. Out: the same edits in both logs, as often, and the same document where the
//! edits of the batches are committed in their order in the naive way; how many attempts an edit took is printed.

use document::{Document, Entry, Logged, Point, Settings, Snapshot};
use ot::{Delta, Side};
use sim::{Counts, Fault, Met, Options, Outcome, Schedule, run};

const RUNS: u64 = 120;

#[test]
fn both_ways_to_commit_end_with_the_same_edits() {
    let (mut batches, mut naive) = (Counts::default(), Counts::default());
    for seed in 1..=RUNS {
        // Every edit that is typed gets into the log, whatever happens on the way.
        let schedule = without(Schedule::of(seed), &KEEPS_ALL);
        let (batch, cas) = both(&schedule);
        assert!(!batch.tokens.is_empty(), "seed {seed} typed nothing");
        assert_eq!(batch.tokens, cas.tokens, "seed {seed}");
        for outcome in [&batch, &cas] {
            assert_eq!(committed_one_by_one(outcome), outcome.content, "seed {seed}");
        }
        batches.add(&batch.counts);
        naive.add(&cas.counts);
    }
    assert!(naive.of(Met::Appended) > 10 * RUNS as usize, "{naive:?}");
    println!("with all faults: {:.3} attempts an edit, compare-and-set {:.3}", attempts(&batches), attempts(&naive));
}

#[test]
fn the_batch_script_takes_one_attempt_where_compare_and_set_takes_more() {
    let (mut batches, mut naive) = (Counts::default(), Counts::default());
    for seed in 1..=RUNS {
        let schedule = without(without(Schedule::of(seed), &KEEPS_ALL), &REPEATS);
        let (batch, cas) = both(&schedule);
        batches.add(&batch.counts);
        naive.add(&cas.counts);
    }
    let (batch, cas) = (attempts(&batches), attempts(&naive));
    println!("attempts an edit: {batch:.3}, compare-and-set {cas:.3}");
    assert!(batch < 1.01, "the script refuses what it could take");
    assert!(cas > 1.2, "nobody was in anybody's way");
}

#[test]
fn whatever_happens_the_document_is_that_of_the_naive_way() {
    for seed in 1..=RUNS {
        let schedule = if seed.is_multiple_of(3) { Schedule::of(seed).replicated() } else { Schedule::of(seed) };
        let outcome = run(&schedule, &Options::default()).unwrap_or_else(|wrong| panic!("{schedule}: {wrong:.1000}"));
        assert_eq!(committed_one_by_one(&outcome), outcome.content, "seed {seed}");
    }
}

/// What a pod shows that opens a log of the same edits, in the same order, of which each was taken only when it was made
/// on the newest version: refused for every one that it had missed, carried over that, and tried again.
fn committed_one_by_one(outcome: &Outcome) -> Delta {
    let mut log: Vec<Logged> = Vec::new();
    for Logged { at, entry } in &outcome.log {
        let mut attempt = entry.clone();
        while let Some(missed) = log.get(attempt.base as usize) {
            let ops = missed.entry.ops.transform(&attempt.ops, Side::Other);
            attempt = Entry { base: attempt.base + 1, ops, ..attempt };
        }
        log.push(Logged { at: at.clone(), entry: attempt });
    }
    let at = Point { version: 0, hash: "0".into() };
    let snapshot = Snapshot { at, content: outcome.root.clone(), window: Vec::new() };
    let settings = Settings { window_entries: 1, ..Settings::default() };
    Document::open(settings, "pod".into(), snapshot, log, 0).expect("a log without gaps").content()
}

/// Without these no edit is refused or forgotten.
const KEEPS_ALL: [Fault; 6] = [Fault::Failover, Fault::Roles, Fault::Garbage, Fault::Small, Fault::Plain, Fault::Rows];
/// Without these no call is made twice, whatever the store says to it.
const REPEATS: [Fault; 9] = [
    Fault::LostReply,
    Fault::Ghost,
    Fault::Crash,
    Fault::Pause,
    Fault::Disconnect,
    Fault::Late,
    Fault::Offline,
    Fault::Away,
    Fault::Flush,
];

fn without(schedule: Schedule, faults: &[Fault]) -> Schedule {
    faults.iter().fold(schedule, |schedule, fault| schedule.without(*fault))
}

fn both(schedule: &Schedule) -> (Outcome, Outcome) {
    let play = |compare_and_set| {
        let options = Options { compare_and_set, comparable: true, ..Options::default() };
        run(schedule, &options).unwrap_or_else(|wrong| panic!("{schedule}: {wrong:.1000}"))
    };
    (play(false), play(true))
}

fn attempts(counts: &Counts) -> f64 {
    counts.of(Met::Offered) as f64 / counts.of(Met::Appended) as f64
}
