//! A primary that is lost takes the end of the log with it; pods that have it put it back.
//!
//! Random schedules: pods with one client each write into one log, the log loses its tail, answers of the old primary
//! come late, calls are answered late or twice, pods die in the middle. At the end everything that a pod had when it
//! noticed is in the log, once, and all copies are equal.
//! `HEAL_SEED=7` plays one run again, `HEAL_RUNS` more of them.

#![allow(clippy::wildcard_enum_match_arm, clippy::expect_used, reason = "tests look for one variant among many")]

mod world;

use std::collections::BTreeMap;

use document::{Batch, CommitReply, ConnectionId, Edit, Entry, Identity, Input, Leaving, ReplyId, Settings, Verdict};
use ot::Delta;

use crate::world::{Job, World};

const RUNS: u64 = 1_500;
const PODS: usize = 3;

#[test]
fn whatever_a_pod_still_holds_is_put_back_once_and_all_copies_are_equal() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("HEAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("HEAL_RUNS").unwrap_or(RUNS),
    };
    let mut met = BTreeMap::<&str, u32>::new();
    for seed in seeds {
        let mut world = World::new(seed);
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.play()));
        assert!(played.is_ok(), "HEAL_SEED={seed}");
        for (what, count) in world.met {
            *met.entry(what).or_default() += count;
        }
    }
    eprintln!("{met:?}");
    for what in ["lost", "put back", "found", "late", "two healers", "died healing", "out of order", "failed again"] {
        assert!(
            std::env::var_os("HEAL_SEED").is_some() || met.get(what).is_some_and(|count| *count > 0),
            "no {what}: {met:?}"
        );
    }
}

#[test]
fn an_acknowledgement_that_waits_comes_when_its_edit_is_put_back() {
    let mut world = World::with(1, Settings { durable_acks: true, ..Settings::default() });
    world.run_all();
    world.edit(0, true);
    world.run_all_but_durable();
    assert_eq!(world.log.len(), 1);
    world.lose(1);
    world.input(0, Input::Forked);
    world.run_all();
    assert_eq!(world.log.len(), 1, "put back");
    assert_eq!(world.answers, [(1, Ok(1))], "and acknowledged, as the version that it has now");
}

/// Somebody on pod 0 has sent an edit without a number, and waits for its acknowledgement.
fn one_who_waits() -> World {
    one_who_waits_in(World::new(1))
}

fn one_who_waits_in(world: World) -> World {
    let mut world = world;
    world.run_all();
    let edit = Edit {
        connection: world.pods[0].connection,
        version: world.pods[0].document.head().version,
        ops: Delta::new().insert("p", None),
        unreadable: None,
        seq: None,
        session: None,
        reply: Some(ReplyId(7)),
    };
    world.input(0, Input::Edit(edit));
    world
}

#[test]
fn whoever_waits_for_a_call_that_history_refused_is_answered_when_its_edit_is_put_back() {
    let mut world = one_who_waits();
    assert!(matches!(world.pods[0].jobs.pop_front(), Some(Job::Commit(_))));
    world.input(0, Input::Committed(CommitReply { verdicts: Vec::new(), tail: Vec::new(), more: false, forked: true }));
    let connection = world.pods[0].connection;
    assert!(!world.pods[0].document.is_settled(connection), "a drain waits for it");
    world.run_all();
    assert_eq!(world.log.len(), 1, "put back");
    assert_eq!(world.answers, [(7, Ok(1))]);
    assert!(world.pods[0].document.is_settled(connection) && world.pods[0].document.is_all_settled());
}

#[test]
fn whoever_waits_for_an_edit_that_cannot_be_put_back_is_told() {
    let mut world = one_who_waits();
    world.input(0, Input::Forked);
    world.pods[0].jobs.clear();
    let full = CommitReply { verdicts: vec![Verdict::Overloaded], tail: Vec::new(), more: false, forked: false };
    world.input(0, Input::Committed(full));
    assert_eq!(world.answers, [(7, Err(()))]);
    assert_eq!(world.met.get("given up"), Some(&1));
}

#[test]
fn whoever_waits_where_histories_part_further_back_than_is_remembered_is_told() {
    let mut world = World::with(1, Settings { window_entries: 2, ..Settings::default() });
    for _ in 0..5 {
        world.edit(0, true);
        world.run_all();
    }
    let mut world = one_who_waits_in(world);
    world.lose(5);
    world.input(0, Input::Forked);
    assert_eq!(world.answers_to(7), [Err(())]);
    assert_eq!(world.met.get("given up"), Some(&3), "what it remembers of the log, and that one");
}

/// Somebody waits on pod 0 for an edit whose call is not answered, while others write more than this pod can carry it over.
/// `is_logged`: the call was carried out; `is_stored`: a snapshot has all of it, and the log does not begin before that.
fn one_who_waits_far_behind(is_logged: bool, is_stored: bool) -> World {
    let mut world = one_who_waits_in(World::with(1, Settings { window_entries: 2, ..Settings::default() }));
    let batch = world.take_commit(0);
    if is_logged {
        world.commit(&batch);
    }
    for _ in 0..5 {
        world.edit(1, true);
        world.run_all();
    }
    world.stored = if is_stored { world.log.len() } else { 0 };
    world.input(0, Input::Forked);
    world
}

#[test]
fn an_edit_that_is_in_the_log_further_back_than_is_remembered_is_acknowledged() {
    let world = one_who_waits_far_behind(true, false);
    assert_eq!((world.answers_to(7), world.met.get("given up")), (vec![Ok(1)], None));
    let world = one_who_waits_far_behind(false, false);
    assert_eq!((world.answers_to(7), world.met.get("given up")), (vec![Err(())], Some(&1)));
}

#[test]
fn an_edit_whose_fate_nothing_shows_is_given_up_without_an_answer() {
    for is_logged in [true, false] {
        let world = one_who_waits_far_behind(is_logged, true);
        assert_eq!((world.answers_to(7), world.met.get("given up")), (vec![], Some(&1)));
    }
}

/// Pod 0 has two edits of its own client and one of pod 1's between them, and is about to put them back.
fn three_to_put_back() -> (World, Batch) {
    let mut world = World::new(1);
    world.run_all();
    for pod in [0, 1, 0] {
        world.edit(pod, true);
        world.run_all();
        world.ask(0);
        world.run_all();
    }
    assert_eq!(world.log.len(), 3);
    world.lose(3);
    world.input(0, Input::Forked);
    let batch = world.take_commit(0);
    (world, batch)
}

#[test]
fn what_was_lost_goes_back_in_one_call() {
    let (mut world, batch) = three_to_put_back();
    assert_eq!(batch.entries.iter().map(|entry| entry.base).collect::<Vec<_>>(), [0, 1, 2]);
    let reply = world.commit(&batch);
    assert_eq!(reply.verdicts, [1, 2, 3].map(Verdict::Ok));
    world.input(0, Input::Committed(reply));
    assert_eq!(world.pods[0].document.missing(), 0);
}

#[test]
fn what_something_came_before_is_put_back_in_the_next_call() {
    let (mut world, batch) = three_to_put_back();
    let other = Entry {
        identity: Identity { id: "other".into(), seq: 1, by_gateway: false },
        client_id: "other".into(),
        ops: Delta::new().insert("first", None),
        ..batch.entries[0].clone()
    };
    world.commit(&Batch { entries: vec![other], ..batch.clone() });
    let reply = world.commit(&batch);
    assert_eq!(reply.verdicts, [Verdict::Ok(2), Verdict::Behind, Verdict::Behind]);
    world.input(0, Input::Committed(reply));
    let rest = world.take_commit(0);
    assert_eq!(rest.entries.iter().map(|entry| entry.base).collect::<Vec<_>>(), [2, 3]);
    world.pods[0].jobs.push_back(Job::Commit(rest));
    world.run_all();
    assert_eq!(world.log.len(), 4);
    assert_eq!(world.pods[0].document.content(), world.whole().content());
}

#[test]
fn an_edit_that_cannot_be_put_back_leaves_the_others_their_way() {
    let (mut world, _) = three_to_put_back();
    let verdicts = vec![Verdict::Gap(0), Verdict::Behind, Verdict::Behind];
    world.input(0, Input::Committed(CommitReply { verdicts, tail: Vec::new(), more: false, forked: false }));
    let next = world.take_commit(0);
    assert_eq!(next.entries.len(), 1, "both edits of the client are given up: {next:?}");
    assert_eq!(&*next.entries[0].client_id, &*world.pods[1].client);
    assert_eq!(world.met.get("given up"), Some(&2), "and counted");
    world.pods[0].jobs.push_back(Job::Commit(next));
    world.run_all();
    assert_eq!(world.log.len(), 1);
    assert_eq!(world.pods[0].document.content(), world.whole().content());
}

#[test]
fn what_belongs_to_a_count_that_the_store_has_forgotten_is_put_back_once() {
    let mut world = World::new(1);
    world.run_all();
    for _ in 0..3 {
        world.edit(0, false);
        world.run_all();
    }
    (1..PODS).for_each(|pod| world.ask(pod));
    world.run_all();
    assert_eq!(world.log.len(), 3);
    // The first edit stays, but its session rested for long.
    world.lose(2);
    world.forgotten = 1;
    (0..PODS).for_each(|pod| world.input(pod, Input::Forked));
    world.run_all();
    assert_eq!(world.log.len(), 3, "both are put back, each once: {:?}", world.log);
    world.edit(0, false);
    world.run_all();
    (1..PODS).for_each(|pod| world.ask(pod));
    world.run_all();
    let whole = world.whole();
    assert_eq!(world.log.len(), 4, "and its writer goes on");
    assert!(world.pods.iter().all(|pod| pod.document.missing() == 0 && pod.document.content() == whole.content()));
}

#[test]
fn early_edits_of_a_join_that_is_carried_over_are_counted_on() {
    let mut world = World::new(1);
    world.run_all();
    let connection = ConnectionId(77);
    let plain = |at: usize, text: &str| Edit {
        connection,
        version: 0,
        ops: Delta::new().retain(at, None).insert(text, None),
        unreadable: None,
        seq: None,
        session: None,
        reply: Some(ReplyId(at as u64)),
    };
    world.join(0, 77);
    world.input(0, Input::Edit(plain(0, "y")));
    // It is on its way to the store, and so is still not in the document, when the history changes.
    world.carry_out_all_lookups(0);
    world.input(0, Input::Forked);
    world.input(0, Input::Edit(plain(1, "z")));
    world.run_all();
    assert_eq!(world.log.len(), 2, "{:?}", world.log);
    assert_eq!(world.pods[0].document.content().plain_text().matches(['y', 'z']).count(), 2);
}

#[test]
fn what_a_departed_client_sent_survives_opening_anew() {
    let mut world = World::new(1);
    world.run_all();
    world.edit(0, true);
    world.edit(0, true);
    let connection = world.pods[0].connection;
    world.input(0, Input::Leave { connection, how: Leaving::Lost, reply: None });
    world.input(0, Input::Forked);
    world.pods[0].jobs.retain(|job| !matches!(job, Job::Save(_)));
    world.run_all();
    assert_eq!(world.log.len(), 2);
}

#[test]
fn a_join_under_way_and_people_are_carried_into_the_new_copy() {
    let mut world = World::new(1);
    world.run_all();
    world.join(0, 77);
    world.input(0, Input::Forked);
    world.run_all();
    assert!(
        world.pods[0].joined.contains(&ConnectionId(77)),
        "its join was answered, once: {:?}",
        world.pods[0].joined
    );
    assert!(world.pods[0].rejoins >= 1);
}
