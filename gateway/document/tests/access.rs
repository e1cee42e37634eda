//! A permission that ends with edits in flight: what is in the log is acknowledged, what is not is refused, and nothing
//! gets into the log afterwards.

#![allow(clippy::wildcard_enum_match_arm, clippy::expect_used, reason = "tests look for one variant among many")]

mod common;

use common::{Desk, Got, entry, insert, join, user};
use document::{
    Answer, Code, Command, CommitReply, ConnectionId, Event, Input, Join, Leaving, Logged, Point, Role, Verdict,
};

/// Client 1 has one edit in flight and one behind it when its role becomes this.
fn in_flight(role: Option<Role>) -> Desk {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(3, "one"));
    desk.edit(1, 0, 2, insert(6, "two"));
    desk.take(1);
    desk.input(Input::Access { user_id: "u1".into(), role });
    desk
}

/// The answer to the call in flight: another edit was first, and ours is not in the log.
fn say_behind(desk: &mut Desk) {
    let call = desk.held.iter().position(|command| matches!(command, Command::Commit(_))).expect("a call");
    desk.held.remove(call);
    desk.append(entry("c9", 1, "s9", 0, insert(0, "x")));
    let tail = desk.log.clone();
    let reply = CommitReply { verdicts: vec![Verdict::Behind], tail, more: false, forked: false };
    desk.input(Input::Committed(reply));
}

/// The answers to edits that this client got: number and version, or why not.
fn answers(desk: &mut Desk) -> Vec<(u64, Result<Answer, Code>)> {
    let answer = |got| match got {
        Got::Answer(seq, answer) => Some((seq, answer.map_err(|refusal| refusal.code))),
        Got::Event(_) => None,
    };
    desk.take(1).into_iter().filter_map(answer).collect()
}

#[test]
fn an_edit_in_flight_when_access_ends_is_acknowledged_where_it_is_in_the_log() {
    let mut desk = in_flight(None);
    let got = desk.take(1);
    assert!(got.contains(&Got::Event(Event::AccessChanged { role: None })), "{got:?}");
    let refused = |got: &Got| matches!(got, Got::Answer(2, Err(why)) if why.code == Code::AccessDenied);
    assert!(got.iter().any(refused) && got.len() == 2, "what was not sent is refused: {got:?}");
    desk.release();
    assert_eq!(answers(&mut desk), [(1, Ok(Answer::Version(1)))]);
    assert_eq!(desk.text(), "abcone");
}

#[test]
fn an_edit_in_flight_when_access_ends_is_refused_where_it_is_not_in_the_log() {
    for (role, code) in [(None, Code::AccessDenied), (Some(Role::Read), Code::ReadOnly)] {
        let mut desk = in_flight(role);
        desk.take(1);
        say_behind(&mut desk);
        assert_eq!(answers(&mut desk), [(1, Err(code))], "{role:?}");
        desk.release();
        desk.tick(60_000);
        assert_eq!((answers(&mut desk), desk.text()), (vec![], "xabc".to_owned()), "{role:?}");
    }
}

#[test]
fn whoever_is_let_in_again_hears_nothing_of_the_session_that_ended_and_sends_the_edit_again() {
    let mut desk = in_flight(None);
    desk.take(1);
    desk.input(Input::Join(Join { session: "again".into(), seq: Some(1), ..join(1) }));
    say_behind(&mut desk);
    desk.release_lookups();
    let got = desk.take(1);
    assert!(got.iter().all(|got| !matches!(got, Got::Answer(1 | 2, _))), "{got:?}");
    desk.hold = false;
    desk.edit(1, 1, 1, insert(4, "one"));
    assert_eq!(answers(&mut desk), [(1, Ok(Answer::Version(2)))]);
    assert_eq!(desk.text(), "xabcone");
}

#[test]
fn a_session_that_was_overtaken_is_not_answered_for_what_it_did_not_get_away() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(3, "one"));
    desk.edit(1, 0, 2, insert(6, "two"));
    // A copy of the first came through another pod.
    desk.append(entry("c1", 1, "older", 0, insert(3, "one")));
    let tail: Vec<Logged> = desk.log.clone();
    assert_eq!(tail[0].at, Point { version: 1, hash: "h1".into() });
    desk.input(Input::Learned(tail));
    desk.release();
    assert_eq!(answers(&mut desk), [(1, Ok(Answer::Version(1)))], "the second is dropped");
    assert_eq!(desk.document.held_bytes(), 0);
    let joined = desk.join_with(Join { connection: ConnectionId(1), session: "again".into(), seq: Some(2), ..join(1) });
    assert_eq!(joined.last_seq, 1);
    desk.edit(1, 1, 2, insert(6, "two"));
    assert_eq!(answers(&mut desk), [(2, Ok(Answer::Version(2)))]);
    assert_eq!(desk.text(), "abconetwo");
}

#[test]
fn a_change_of_a_user_is_about_all_connections_of_that_user_and_of_nobody_else() {
    let mut desk = Desk::new();
    for id in 1..=3 {
        desk.join(id);
    }
    let tab = |id| Join { user: user(1), ..join(id) };
    for id in [4, 5] {
        desk.join_with(tab(id));
    }
    // One that joined again, and one that left.
    desk.join_with(Join { session: "again".into(), ..tab(1) });
    desk.leave(4, Leaving::Said);
    let told = |desk: &mut Desk| -> Vec<u64> {
        let mut told = Vec::new();
        for id in 1..=5 {
            if desk.events(id).iter().any(|event| matches!(event, Event::AccessChanged { .. })) {
                told.push(id);
            }
        }
        told
    };
    for (role, expected) in [(Some(Role::Read), vec![1, 5]), (None, vec![1, 5]), (Some(Role::Read), vec![])] {
        desk.input(Input::Access { user_id: "u1".into(), role });
        assert_eq!(told(&mut desk), expected, "{role:?}");
    }
    desk.join_with(tab(5));
    desk.input(Input::Access { user_id: "u1".into(), role: Some(Role::Comment) });
    assert_eq!(told(&mut desk), [5]);
}
