//! Rules taken away one by one: the simulation has to notice each.

use document::Mutation;
use sim::{BrokenRule, Fault, Options, Schedule, minimise, run};

/// Runs within which a broken rule has to show.
const WITHIN: u64 = 5_000;

#[test]
fn turning_ties_round_is_noticed() {
    assert_noticed(broken(Mutation::FlipTies));
}

#[test]
fn leaving_own_entries_out_of_the_context_is_noticed() {
    assert_noticed(broken(Mutation::SkipOwnEntries));
}

#[test]
fn folding_over_own_entries_is_noticed() {
    assert_noticed(broken(Mutation::FoldOverOwnEntries));
}

#[test]
fn composing_the_missed_history_is_noticed() {
    assert_noticed(broken(Mutation::ComposedHistory));
}

#[test]
fn doing_without_sessions_is_noticed() {
    assert_noticed(broken(Mutation::NoSessions));
}

#[test]
fn snapshots_without_their_window_are_noticed() {
    assert_noticed(broken(Mutation::SnapshotWithoutWindow));
}

#[test]
fn acknowledging_before_the_commit_is_noticed() {
    assert_noticed(broken(Mutation::AcknowledgeEarly));
}

#[test]
fn a_batch_with_two_edits_of_a_client_is_noticed() {
    assert_noticed(broken(Mutation::ChainedBatch));
}

#[test]
fn a_store_that_appends_duplicates_is_noticed() {
    assert_noticed(Options { broken_rule: BrokenRule::Dedupe, ..Options::default() });
}

#[test]
fn a_store_that_checks_bases_once_per_call_is_noticed() {
    assert_noticed(Options { broken_rule: BrokenRule::BasePerCall, ..Options::default() });
}

#[test]
fn a_store_that_appends_what_is_made_on_entries_that_others_came_between_is_noticed() {
    let broken_rule = BrokenRule::Chains;
    // It takes two pods that put back at the same time: rarer with what makes them slower.
    let quick = |seed| Schedule::of(seed).replicated().without_newer();
    assert_noticed_in(Options { broken_rule, ..Options::default() }, quick);
}

#[test]
fn a_store_that_does_not_ask_whose_a_name_is_is_noticed() {
    assert_noticed(Options { broken_rule: BrokenRule::Owners, ..Options::default() });
}

#[test]
fn a_store_that_takes_calls_of_another_history_is_noticed() {
    assert_noticed(Options { broken_rule: BrokenRule::Forks, ..Options::default() });
}

#[test]
fn a_store_that_trims_what_follows_a_snapshot_is_noticed() {
    assert_noticed(Options { broken_rule: BrokenRule::TrimTail, ..Options::default() });
}

#[test]
fn acknowledging_before_a_follower_has_it_is_noticed() {
    assert_noticed_in(broken(Mutation::AcknowledgeUndurable), |seed| Schedule::of(seed).replicated());
}

#[test]
fn acknowledging_a_repeat_whose_original_no_follower_has_is_noticed() {
    assert_noticed_in(broken(Mutation::RepeatIsDurable), |seed| Schedule::of(seed).replicated());
}

#[test]
fn forgetting_what_a_lost_history_had_is_noticed() {
    assert_noticed(Options { forgets_lost: true, ..Options::default() });
}

#[test]
fn acknowledging_before_the_commit_is_noticed_where_followers_are_waited_for() {
    assert_noticed_in(broken(Mutation::AcknowledgeEarly), |seed| Schedule::of(seed).replicated());
}

#[test]
fn waiting_for_followers_without_a_write_is_noticed() {
    let broken_rule = BrokenRule::WaitWithoutWrite;
    assert_noticed_in(Options { broken_rule, ..Options::default() }, |seed| Schedule::of(seed).replicated());
}

#[test]
fn promoting_a_follower_that_lacks_what_another_has_is_noticed() {
    let broken_rule = BrokenRule::PromoteAny;
    assert_noticed_in(Options { broken_rule, ..Options::default() }, |seed| Schedule::of(seed).replicated());
}

#[test]
fn taking_publishes_of_another_history_is_noticed() {
    // One run in ten thousand meets it. That this one passes with the rule shows that it is the rule that it misses.
    let seed = 6_685;
    let schedule = Schedule::of(seed).replicated().without(Fault::OldPrimary).without_newer();
    run(&schedule, &Options::default()).expect("a run that passes with the rule");
    let wrong = run(&schedule, &Options { unchecked_chain: true, ..Options::default() }).expect_err("not noticed");
    println!("seed {seed}: {wrong:.300}");
}

fn broken(mutation: Mutation) -> Options {
    Options { mutation, ..Options::default() }
}

fn assert_noticed(options: Options) {
    assert_noticed_in(options, Schedule::of);
}

fn assert_noticed_in(options: Options, of: impl Fn(u64) -> Schedule) {
    let fails = |seed: u64| run(&of(seed), &options).err().map(|wrong| (seed, wrong));
    let (seed, wrong) = (1..=WITHIN).find_map(fails).expect("no run notices");
    let smallest = minimise(&of(seed), |schedule| run(schedule, &options).is_err());
    println!("seed {seed}: {wrong:.300}\n  smallest, {} events: {smallest}", smallest.events.len());
    assert!(smallest.events.len() < Schedule::of(seed).events.len() / 2, "not made small: {smallest}");
}
