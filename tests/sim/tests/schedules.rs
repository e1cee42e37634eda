//! Random schedules against the product, and against the product with one rule taken away.
//!
//! `SIM_SEED=7 cargo test -p sim` runs one schedule again; `SIM_RUNS=100000` runs more.

use document::Mutation;
use sim::{Counts, Options, run};

#[test]
fn every_schedule_ends_with_equal_documents_and_every_edit_once() {
    let runs = number("SIM_RUNS").unwrap_or(2_000);
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..runs + 1,
    };
    let mut total = Counts::default();
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        match run(seed, &Options::default()) {
            Ok(counts) => add(&mut total, counts),
            Err(wrong) => failed.push((seed, wrong)),
        }
    }
    println!("seeds {seeds:?}: {total:?}");
    for (seed, wrong) in failed.iter().take(5) {
        println!("SIM_SEED={seed}: {wrong}");
    }
    assert!(failed.is_empty(), "{} of {} schedules failed", failed.len(), seeds.end - seeds.start);
    if seeds.end - seeds.start >= 1_000 {
        // A schedule that never meets a rule proves nothing about it.
        let Counts { by_entries, by_content, rejoins, refused, pipelined, folded, duplicates, behind, reopened } =
            total;
        for met in [by_entries, by_content, rejoins, refused, pipelined, folded, duplicates, behind, reopened] {
            assert!(met > 0, "{total:?}");
        }
    }
}

#[test]
fn turning_ties_round_is_noticed() {
    assert_noticed(Options { mutation: Mutation::FlipTies, ..Options::default() });
}

#[test]
fn leaving_own_entries_out_of_the_context_is_noticed() {
    assert_noticed(Options { mutation: Mutation::SkipOwnEntries, ..Options::default() });
}

#[test]
fn doing_without_sessions_is_noticed() {
    assert_noticed(Options { mutation: Mutation::NoSessions, ..Options::default() });
}

#[test]
fn snapshots_without_their_window_are_noticed() {
    assert_noticed(Options { mutation: Mutation::SnapshotWithoutWindow, ..Options::default() });
}

#[test]
fn acknowledging_before_the_commit_is_noticed() {
    assert_noticed(Options { mutation: Mutation::AcknowledgeEarly, ..Options::default() });
}

#[test]
fn composing_the_missed_history_is_noticed() {
    assert_noticed(Options { mutation: Mutation::ComposedHistory, ..Options::default() });
}

#[test]
fn folding_over_own_entries_is_noticed() {
    assert_noticed(Options { mutation: Mutation::FoldOverOwnEntries, ..Options::default() });
}

#[test]
fn a_batch_with_two_edits_of_a_client_is_noticed() {
    assert_noticed(Options { mutation: Mutation::ChainedBatch, ..Options::default() });
}

#[test]
fn a_store_that_appends_duplicates_is_noticed() {
    assert_noticed(Options { drop_dedupe: true, ..Options::default() });
}

fn assert_noticed(options: Options) {
    let noticed = (1..=3_000).find_map(|seed| run(seed, &options).err().map(|wrong| (seed, wrong)));
    let (seed, wrong) = noticed.expect("no schedule notices");
    println!("seed {seed}: {wrong}");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn add(total: &mut Counts, counts: Counts) {
    total.by_entries += counts.by_entries;
    total.by_content += counts.by_content;
    total.rejoins += counts.rejoins;
    total.refused += counts.refused;
    total.pipelined += counts.pipelined;
    total.folded += counts.folded;
    total.duplicates += counts.duplicates;
    total.behind += counts.behind;
    total.reopened += counts.reopened;
}
