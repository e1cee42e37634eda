//! Presence, cursors and typing.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use common::{Desk, Got, edit, entry, insert, join, user};
use document::{
    Code, Command, ConnectionId, Event, Input, Join, Leaving, Lookup, Member, Peer, Position, Refusal, Role, Settings,
};
use ot::Delta;

fn range(index: usize, length: usize) -> Option<Position> {
    Some(Position::Range { index, length })
}

fn member(pod: &str, id: u64, connections: u32) -> Member {
    Member { pod: pod.into(), user: user(id), connections, since_ms: 5, lapses: 0 }
}

fn joined(id: u64) -> Event {
    Event::UserJoined(user(id))
}

fn left(id: u64) -> Event {
    Event::UserLeft { user_id: user(id).id }
}

fn pods(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

/// A row of another pod changed.
fn heard(member: Member) -> Input {
    Input::Peer { pod: member.pod.clone(), peer: Peer::Members(vec![member]) }
}

fn second_tab(id: u64, of: u64) -> Join {
    Join { user: user(of), ..join(id) }
}

#[test]
fn several_tabs_of_one_user_count_once() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    assert_eq!(desk.events(1), [joined(2)]);
    let tab = desk.join_with(second_tab(3, 2));
    assert_eq!((tab.active_count, tab.active_users.len()), (2, 1));
    desk.leave(2, Leaving::Said);
    assert_eq!(desk.events(1), []);
    desk.leave(3, Leaving::Said);
    assert_eq!(desk.events(1), [left(2)]);
    let rows: Vec<_> = desk
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::WritePresence(rows) => Some(rows.iter().map(|row| (row.user.id.to_string(), row.connections))),
            _ => None,
        })
        .flatten()
        .collect();
    let row = |user: &str, connections| (user.to_owned(), connections);
    assert_eq!(rows, [row("u1", 1), row("u2", 1), row("u2", 2), row("u2", 1), row("u2", 0)]);
}

#[test]
fn a_new_name_is_shown_to_newcomers_and_written_once_and_nobody_seems_to_come() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    desk.take(1);
    desk.commands.clear();
    let renamed = document::User { name: "New".into(), ..user(2) };
    for _ in 0..2 {
        desk.input(Input::User(renamed.clone()));
    }
    desk.input(Input::User(document::User { name: "Nobody here".into(), ..user(7) }));
    assert_eq!(desk.events(1), []);
    let written: Vec<_> = desk
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::WritePresence(rows) => Some(rows.clone()),
            _ => None,
        })
        .flatten()
        .map(|row| (row.user, row.connections))
        .collect();
    assert_eq!(written, [(renamed.clone(), 1)]);
    let newcomer = desk.join_with(join(3));
    assert!(newcomer.active_users.iter().any(|active| active.user == renamed), "{:?}", newcomer.active_users);
}

#[test]
fn a_lost_transport_is_told_after_ten_seconds_unless_the_user_is_back() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    desk.take(1);
    desk.leave(2, Leaving::Lost);
    desk.tick(9_900);
    desk.join_with(second_tab(3, 2));
    desk.tick(1_000);
    assert_eq!(desk.events(1), []);
    desk.leave(3, Leaving::Lost);
    assert_eq!(desk.document.deadline_ms(), Some(desk.now_ms + 10_000));
    desk.tick(10_000);
    assert_eq!(desk.events(1), [left(2)]);
}

#[test]
fn a_tab_whose_transport_was_lost_is_waited_for_though_another_leaves_by_word() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    desk.join_with(second_tab(3, 2));
    desk.take(1);
    desk.leave(2, Leaving::Lost);
    desk.tick(1_000);
    desk.leave(3, Leaving::Said);
    desk.tick(8_000);
    assert_eq!(desk.events(1), [], "the first tab may come back");
    desk.join_with(second_tab(4, 2));
    desk.leave(4, Leaving::Said);
    assert_eq!(desk.events(1), [left(2)], "it has come back, and nobody is waited for");

    desk.join_with(second_tab(5, 2));
    desk.join_with(second_tab(6, 2));
    desk.take(1);
    desk.leave(5, Leaving::Lost);
    desk.tick(1_000);
    desk.leave(6, Leaving::Said);
    desk.tick(9_000);
    assert_eq!(desk.events(1), [left(2)], "ten seconds after the transport was lost");
}

#[test]
fn whoever_is_connected_does_not_leave_because_a_join_fails_for_a_passing_reason() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    desk.input(Input::Cursor { connection: ConnectionId(2), version: Some(0), position: range(1, 1), reply: None });
    desk.take(1);
    let fail = |desk: &mut Desk, join: Join, code: Code| {
        let connection = join.connection;
        desk.hold = true;
        desk.input(Input::Join(join));
        let why = Refusal::new(code, "the lookup failed");
        let retry_after_ms = (code == Code::StoreUnavailable).then_some(1_000);
        desk.input(Input::LookedUp { connection, result: Err(Refusal { retry_after_ms, ..why }) });
        desk.hold = false;
        assert_eq!(desk.refusal(connection.0).code, code);
    };
    fail(&mut desk, join(2), Code::StoreUnavailable);
    desk.tick(60_000);
    assert_eq!(desk.events(1), [], "neither the user nor the cursor");
    let back = desk.join(2);
    assert_eq!(back.active_count, 2);
    assert_eq!(desk.events(1), []);

    fail(&mut desk, join(2), Code::StoreUnavailable);
    desk.leave(2, Leaving::Said);
    assert!(desk.events(1).contains(&left(2)), "a word counts as ever");

    // Another connection of somebody who is waited for: it is there when its join comes, not when that is answered.
    desk.join(3);
    desk.take(1);
    desk.leave(3, Leaving::Lost);
    desk.tick(9_000);
    fail(&mut desk, second_tab(4, 3), Code::StoreUnavailable);
    desk.tick(60_000);
    assert_eq!(desk.events(1), []);
    fail(&mut desk, second_tab(4, 3), Code::AccessDenied);
    assert_eq!(desk.events(1), [left(3)]);

    // Nobody is there by a join that failed.
    fail(&mut desk, join(5), Code::StoreUnavailable);
    assert_eq!((desk.events(1), desk.document.has(ConnectionId(5))), (vec![], false));
}

#[test]
fn edits_of_a_join_that_failed_are_refused_and_what_was_committed_of_them_stays() {
    let mut desk = Desk::with(Settings { held_edits: 2, ..Settings::default() }, Delta::new());
    desk.join(1);
    desk.hold = true;
    desk.input(Input::Join(join(1)));
    for _ in 0..3 {
        desk.input(Input::Edit(edit(1, 0, None, insert(0, "x"))));
    }
    desk.input(Input::StoreAway(true));
    desk.tick(30_000);
    let codes = |desk: &mut Desk| -> Vec<Code> {
        let refused = |got| if let Got::Answer(_, Err(Refusal { code, .. })) = got { Some(code) } else { None };
        desk.take(1).into_iter().filter_map(refused).collect()
    };
    let not_joined = Code::NotJoined;
    assert_eq!(codes(&mut desk), [Code::StoreUnavailable, not_joined, not_joined, not_joined]);
    let is_read_on = Command::PauseReading { connection: ConnectionId(1), pause: false };
    assert_eq!(desk.commands.last(), Some(&is_read_on), "{:?}", desk.commands);
    desk.input(Input::StoreAway(false));
    desk.hold = false;
    desk.held.clear();
    // The answer of the lookup that came too late.
    let late = Lookup { role: Role::Write, rows: Vec::new(), tail: Vec::new(), more: false };
    desk.input(Input::LookedUp { connection: ConnectionId(1), result: Ok(late) });
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "y"));
    assert_eq!(desk.text(), "y");
}

#[test]
fn people_of_other_pods_count_while_their_pod_lives() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.input(Input::Presence { members: vec![member("pod2", 2, 1), member("dead", 3, 1)], live: pods(&["pod2"]) });
    assert_eq!(desk.events(1), [joined(2)]);
    desk.input(heard(member("pod3", 2, 1)));
    desk.input(heard(member("pod2", 2, 0)));
    assert_eq!(desk.events(1), [], "still on pod3");
    desk.input(Input::Presence { members: vec![member("pod3", 2, 1)], live: pods(&["pod2"]) });
    assert_eq!(desk.events(1), [left(2)]);
}

#[test]
fn a_row_that_an_older_copy_left_behind_is_taken_away() {
    let mut desk = Desk::new();
    desk.input(Input::Presence { members: vec![member("pod1", 2, 1)], live: pods(&["pod1"]) });
    assert!(!desk.document.is_idle());
    desk.tick(10_000);
    let is_removal = |rows: &[Member]| matches!(rows, [gone] if gone.connections == 0);
    assert!(desk.commands.iter().any(|command| matches!(command, Command::WritePresence(rows) if is_removal(rows))));
    assert!(desk.document.is_idle());
}

#[test]
fn in_a_crowd_only_the_total_is_told_at_most_once_a_second() {
    let mut desk = Desk::new();
    desk.join(1);
    let crowd = (2..=150).map(|id| member("pod2", id, 1)).collect();
    desk.input(Input::Presence { members: crowd, live: pods(&["pod2"]) });
    let events = desk.events(1);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::UserJoined(_))).count(), 99);
    assert_eq!(events.last(), Some(&Event::Presence { active_count: 150 }));
    for id in 151..=160 {
        desk.input(heard(member("pod2", id, 1)));
    }
    assert_eq!(desk.events(1), []);
    desk.tick(1_000);
    assert_eq!(desk.events(1), [Event::Presence { active_count: 160 }]);
    let late = desk.join(500);
    assert_eq!((late.active_users.len(), late.active_count), (100, 161));
}

#[test]
fn a_cursor_is_told_and_moves_with_edits() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    desk.take(1);
    desk.input(Input::Cursor { connection: ConnectionId(2), version: Some(0), position: range(1, 1), reply: None });
    let (user_id, client_id) = (user(2).id, Arc::<str>::from("c2"));
    let update = Event::CursorUpdate { user_id, client_id, version: 0, position: range(1, 1) };
    assert_eq!(desk.events(1), [update]);
    assert_eq!(desk.events(2), [joined(2)][..0]);
    desk.edit(1, 0, 1, insert(0, "xy"));
    let late = desk.join(3);
    let cursors = &late.active_users.iter().find(|active| active.user.id == user(2).id).unwrap().cursors;
    assert_eq!((cursors[0].version, Some(cursors[0].position.clone())), (1, range(3, 1)));
    desk.take(1);
    desk.leave(2, Leaving::Lost);
    assert!(matches!(&desk.events(1)[..], [Event::CursorUpdate { position: None, .. }]));
}

#[test]
fn a_cursor_behind_own_edits_is_shown_when_they_are_committed() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    desk.take(1);
    desk.hold = true;
    desk.edit(2, 0, 1, insert(3, "word"));
    desk.input(Input::Cursor { connection: ConnectionId(2), version: Some(0), position: range(7, 0), reply: None });
    assert_eq!(desk.events(1), []);
    desk.append(entry("other", 1, "far", 0, insert(0, "__")));
    desk.release();
    let events = desk.events(1);
    assert!(
        matches!(&events[..], [Event::Edit(_), Event::Edit(_), Event::CursorUpdate { version: 2, position, .. }]
            if *position == range(9, 0)),
        "{events:?}"
    );
}

#[test]
fn a_cursor_of_another_pod_is_brought_to_what_is_shown_here() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "xy"));
    desk.take(1);
    let cursor = Peer::Cursor { user_id: user(2).id, client_id: "c2".into(), version: 0, position: range(3, 0) };
    desk.input(Input::Presence { members: vec![member("pod2", 2, 1)], live: pods(&["pod2"]) });
    desk.take(1);
    desk.input(Input::Peer { pod: "pod2".into(), peer: cursor });
    assert!(
        matches!(&desk.events(1)[..], [Event::CursorUpdate { version: 1, position, .. }] if *position == range(5, 0))
    );
}

#[test]
fn typing_ends_by_itself_after_five_seconds() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    desk.take(1);
    let typing = |desk: &mut Desk| {
        desk.input(Input::Typing { connection: ConnectionId(2), is_typing: true, reply: None });
    };
    let update = |is_typing| Event::TypingUpdate { user_id: user(2).id, is_typing };
    typing(&mut desk);
    assert_eq!(desk.events(1), [update(true)]);
    desk.tick(4_000);
    typing(&mut desk);
    desk.tick(4_000);
    assert_eq!(desk.events(1), [], "still typing");
    desk.tick(1_000);
    assert_eq!(desk.events(1), [update(false)]);
}
