//! Edits that wait: for a join, for a version, for a store that is away; and edits that cannot be read.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use common::{Desk, Got, edit, entry, insert, join, start};
use document::{Answer, Code, Command, ConnectionId, Edit, Event, Input, Join, Leaving, Refusal, Settings};
use ot::Delta;

/// After `rejoin` an edit is kept so long for a join that does not come.
const EARLY_MS: u64 = 10_000;
const HELD_MS: u64 = 30_000;

#[test]
fn an_edit_that_names_a_session_which_nobody_has_is_dropped_without_an_answer() {
    let mut desk = Desk::new();
    let stale = Edit { session: Some("older".into()), ..edit(1, 0, Some(1), insert(0, "x")) };
    desk.input(Input::Edit(stale));
    assert_eq!(desk.take(1), []);
    desk.edit(1, 0, 1, insert(0, "x"));
    assert_eq!(desk.refusal(1).code, Code::NotJoined);
}

#[test]
fn an_edit_that_cannot_be_read_is_refused_at_its_place() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.input(Input::Edit(edit(1, 0, None, insert(0, "a"))));
    desk.input(Input::Edit(unreadable(1, None)));
    desk.input(Input::Edit(edit(1, 0, None, insert(2, "after"))));
    assert_eq!(codes(&desk.take(1)), [Code::OpInvalid, Code::SeqGap]);
    desk.release();
    assert_eq!(desk.text(), "aabc", "what came before it is committed");
}

#[test]
fn after_an_edit_that_cannot_be_read_the_next_number_is_not_a_gap_without_a_cause() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "a"));
    desk.take(1);
    desk.input(Input::Edit(unreadable(1, Some(2))));
    desk.edit(1, 0, 3, insert(0, "c"));
    let got = desk.take(1);
    let refusals: Vec<_> =
        got.iter().filter_map(|got| if let Got::Answer(_, Err(why)) = got { Some(why) } else { None }).collect();
    assert_eq!((refusals[0].code, refusals[0].seq), (Code::OpInvalid, Some(2)));
    assert_eq!((refusals[1].code, refusals[1].seq, refusals[1].last_seq), (Code::SeqGap, Some(3), Some(1)));
}

#[test]
fn an_edit_that_cannot_be_read_spoils_those_behind_it_before_the_join_too() {
    let mut desk = Desk::new();
    let early = vec![edit(1, 0, None, insert(0, "a")), unreadable(1, None), edit(1, 0, None, insert(2, "after"))];
    desk.input(Input::Join(Join { early, ..join(1) }));
    assert_eq!(codes(&desk.take(1)), [Code::OpInvalid, Code::SeqGap]);
    assert_eq!(desk.text(), "aabc");
}

#[test]
fn a_number_that_the_log_has_is_acknowledged_even_if_its_copy_cannot_be_read() {
    let mut desk = Desk::new();
    desk.append(entry("c1", 1, "far", 0, insert(0, "x")));
    desk.join(1);
    desk.input(Input::Edit(unreadable(1, Some(1))));
    assert_eq!(desk.take(1), [Got::Answer(1, Ok(Answer::Version(1)))]);
    desk.input(Input::Edit(Edit { session: Some("s1".into()), ..edit(1, 0, Some(2), insert(1, "behind it")) }));
    assert_eq!(desk.refusal(1).code, Code::SeqGap, "what it is relative to is not known");
}

#[test]
fn what_the_log_has_is_acknowledged_after_a_refusal_too() {
    let mut desk = Desk::new();
    for seq in 1..=2 {
        desk.append(entry("c1", seq, "older", seq - 1, insert(0, "x")));
    }
    desk.input(Input::Learned(desk.log.clone()));
    desk.join_with(Join { seq: Some(1), ..join(1) });
    // It ends the session, for nobody knows what those behind it are relative to.
    desk.input(Input::Edit(unreadable(1, Some(1))));
    desk.edit(1, 0, 2, insert(0, "x"));
    desk.edit(1, 0, 3, insert(0, "y"));
    let got = desk.take(1);
    assert!(got.contains(&Got::Answer(2, Ok(Answer::Version(2)))), "{got:?}");
    assert_eq!(codes(&got), [Code::SeqGap]);
}

#[test]
fn a_socket_is_read_no_further_while_many_bytes_wait_for_a_join() {
    let mut desk = Desk::with(Settings { held_bytes: 1_000, ..Settings::default() }, Delta::new());
    desk.hold = true;
    desk.input(Input::Join(join(1)));
    for n in 0..3 {
        desk.input(Input::Edit(edit(1, 0, None, insert(0, &"x".repeat(400)))));
        assert_eq!(pauses(&mut desk), if n == 2 { vec![true] } else { vec![] }, "edit {n}");
    }
}

#[test]
fn a_socket_is_read_no_further_while_many_bytes_wait_for_a_version() {
    let mut desk = Desk::with(Settings { held_bytes: 1_000, ..Settings::default() }, Delta::new());
    desk.join(1);
    desk.hold = true;
    for seq in 1..=3 {
        desk.edit(1, 1, seq, insert(0, &"x".repeat(400)));
    }
    assert_eq!(pauses(&mut desk), [true]);
    desk.append(entry("c9", 1, "far", 0, Delta::new()));
    desk.release();
    assert_eq!(pauses(&mut desk), [false]);
    assert_eq!(desk.log.len(), 4);
}

#[test]
fn after_rejoin_the_socket_is_read_on_and_bytes_are_bounded_by_refusing() {
    let mut desk = rejoining(Settings { held_bytes: 1_000, ..Settings::default() });
    for n in 0..3 {
        desk.input(Input::Edit(edit(1, 1, None, insert(0, &n.to_string().repeat(400)))));
    }
    assert!(pauses(&mut desk).is_empty(), "the join is still to be read");
    assert_eq!(desk.refusal(1).code, Code::NotJoined);
    desk.join_with(Join { session: "s2".into(), ..join(1) });
    assert_eq!(desk.log.len(), 3, "two were kept");
}

#[test]
fn edits_after_rejoin_are_kept_for_ten_seconds() {
    let mut desk = rejoining(Settings::default());
    desk.input(Input::Edit(edit(1, 1, None, insert(0, "y"))));
    desk.tick(EARLY_MS - 1);
    assert_eq!(desk.take(1), []);
    assert_eq!(desk.document.deadline_ms(), Some(desk.now_ms + 1));
    desk.tick(1);
    assert_eq!(desk.refusal(1).code, Code::NotJoined);
    desk.input(Input::Edit(edit(1, 1, None, insert(1, "z"))));
    assert_eq!(desk.refusal(1).code, Code::NotJoined, "it was relative to the one before");
    desk.join_with(Join { session: "s2".into(), ..join(1) });
    desk.input(Input::Edit(edit(1, 1, None, insert(0, "w"))));
    assert_eq!(desk.text(), "wxabc");
}

#[test]
fn edits_that_wait_for_a_version_are_refused_when_the_store_is_away_for_long() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.take(1);
    desk.input(Input::StoreAway(true));
    desk.edit(1, 7, 1, insert(0, "x"));
    desk.edit(1, 7, 2, insert(0, "y"));
    desk.tick(HELD_MS);
    assert_eq!(codes(&desk.take(1)), [Code::StoreUnavailable, Code::SeqGap]);
}

#[test]
fn a_join_ends_when_the_store_is_away_for_long_and_its_edits_with_it() {
    let mut desk = Desk::new();
    desk.hold = true;
    desk.input(Input::Join(join(1)));
    desk.input(Input::Edit(edit(1, 0, None, insert(0, "x"))));
    desk.input(Input::StoreAway(true));
    desk.tick(HELD_MS);
    assert_eq!(codes(&desk.take(1)), [Code::StoreUnavailable, Code::NotJoined]);
}

#[test]
fn a_copy_that_waits_for_the_store_to_be_opened_anew_refuses_late_joins_and_keeps_what_it_has() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "kept "));
    desk.take(1);
    desk.input(Input::Forked);
    assert_eq!(desk.events(1), [Event::Rejoin]);
    desk.input(Input::StoreAway(true));
    desk.tick(HELD_MS / 2);
    desk.hold = true;
    desk.input(Input::Join(join(2)));
    desk.tick(HELD_MS - 1);
    assert_eq!(desk.take(2), []);
    desk.tick(1);
    assert_eq!(desk.refusal(2).code, Code::StoreUnavailable);
    desk.input(Input::Join(join(2)));
    desk.tick(HELD_MS - 1);
    desk.input(Input::StoreAway(true));
    assert_eq!(desk.take(2), [], "it came again, and waits anew");
    let reopened = desk.document.open_again(start("abc"), Vec::new(), desk.now_ms).expect("it opens");
    assert_eq!((reopened.missing, reopened.given_up), (1, 0));
}

#[test]
fn edits_that_wait_for_a_join_are_refused_when_the_client_leaves() {
    let mut desk = Desk::new();
    desk.hold = true;
    desk.input(Input::Join(join(1)));
    desk.input(Input::Edit(edit(1, 0, None, insert(0, "x"))));
    desk.leave(1, Leaving::Said);
    assert_eq!(codes(&desk.take(1)), [Code::NotJoined, Code::NotJoined]);
}

#[test]
fn whoever_is_not_in_the_document_is_read_again_however_much_waited() {
    let waiting = || {
        let mut desk = Desk::with(Settings { held_edits: 2, ..Settings::default() }, Delta::new());
        desk.hold = true;
        desk.input(Input::Join(join(1)));
        for _ in 0..3 {
            desk.input(Input::Edit(edit(1, 0, None, insert(0, "x"))));
        }
        assert_eq!(pauses(&mut desk), [true]);
        desk
    };
    let mut failed = waiting();
    let why = Refusal::new(Code::StoreUnavailable, "the store does not answer");
    let result = Err(Refusal { retry_after_ms: Some(1000), ..why });
    failed.input(Input::LookedUp { connection: ConnectionId(1), result });
    assert_eq!(pauses(&mut failed), [false]);
    let mut late = waiting();
    late.input(Input::StoreAway(true));
    late.tick(HELD_MS);
    assert_eq!(pauses(&mut late), [false]);
    let mut left = waiting();
    left.leave(1, Leaving::Said);
    assert_eq!(pauses(&mut left), [false]);
    // The same client from another connection.
    let mut replaced = waiting();
    replaced.input(Input::Join(Join { client_id: "c1".into(), user: join(1).user, ..join(2) }));
    assert_eq!(pauses(&mut replaced), [false]);
}

/// Client 1 was told to join again: a copy of its first edit came into the log through another session.
fn rejoining(settings: Settings) -> Desk {
    let mut desk = Desk::with(settings, Delta::new().insert("abc", None));
    desk.join(1);
    desk.append(entry("c1", 1, "far", 0, insert(0, "x")));
    let log = desk.log.clone();
    desk.input(Input::Learned(log));
    assert!(matches!(&desk.events(1)[..], [Event::Rejoin]));
    desk
}

fn unreadable(id: u64, seq: Option<u64>) -> Edit {
    Edit { unreadable: Some(Box::new(Refusal::new(Code::OpInvalid, "ops[0]"))), ..edit(id, 0, seq, Delta::new()) }
}

fn codes(got: &[Got]) -> Vec<Code> {
    got.iter()
        .filter_map(|got| if let Got::Answer(_, Err(refusal)) = got { Some(refusal.code) } else { None })
        .collect()
}

fn pauses(desk: &mut Desk) -> Vec<bool> {
    let pause = |command: Command| match command {
        Command::PauseReading { connection: ConnectionId(1), pause } => Some(pause),
        _ => None,
    };
    std::mem::take(&mut desk.commands).into_iter().filter_map(pause).collect()
}
