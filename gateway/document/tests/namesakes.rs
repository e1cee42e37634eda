//! Two users under one `clientId`: it belongs to the one whose edit is in the log first, and the other one is told so
//! before anything of his is taken for that edit.

mod common;

use common::{Desk, edit, entry, insert, join};
use document::{Code, Command, ConnectionId, Edit, Event, Input, Join, Lookup, Role};

/// The second user's join, under the name of the first.
fn namesake() -> Join {
    Join { client_id: "c1".into(), ..join(2) }
}

/// Another pod has the second user's edit in the log, under the name and the number of the first user's.
fn theirs_comes_first(desk: &mut Desk) {
    let mut theirs = entry("c1", 1, "far", 0, insert(0, "theirs"));
    theirs.user_id = "u2".into();
    desk.append(theirs);
    let tail = desk.log.clone();
    desk.input(Input::Learned(tail));
    desk.release();
}

#[test]
fn an_owner_comes_back_where_another_user_waits_under_the_name() {
    let mut desk = Desk::new();
    desk.join_with(namesake());
    // The owner's edit came in through another pod, and its client does not know that yet.
    desk.append(entry("c1", 1, "far", 0, insert(0, "x")));
    desk.input(Input::Hint(1));
    assert_eq!(desk.events(2), [Event::Rejoin]);
    let owner = desk.join(1);
    assert_eq!(owner.last_seq, 1);
    desk.input(Input::Join(namesake()));
    assert_eq!(desk.refusal(2).code, Code::BadRequest);
    desk.edit(1, 1, 2, insert(0, "y"));
    assert_eq!(desk.text(), "yxabc");
}

#[test]
fn an_edit_of_another_user_is_not_taken_for_the_one_that_has_its_name_and_number() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "mine"));
    theirs_comes_first(&mut desk);
    // Neither acknowledged nor confirmed: the client keeps it, and sends it under a name of its own.
    assert_eq!(desk.events(1), [Event::Rejoin]);
    assert_eq!(desk.text(), "theirsabc");
    desk.input(Input::Join(join(1)));
    assert_eq!(desk.refusal(1).code, Code::BadRequest);
}

#[test]
fn a_join_ends_when_the_name_becomes_another_users() {
    let mut desk = Desk::new();
    desk.hold = true;
    let early: Vec<Edit> = vec![edit(1, 0, Some(1), insert(0, "mine"))];
    desk.input(Input::Join(Join { early, ..join(1) }));
    // Nobody has the name when the store is asked.
    let lookup = Lookup { role: Role::Write, rows: Vec::new(), tail: Vec::new(), more: false };
    assert!(matches!(desk.held.pop(), Some(Command::Lookup { .. })));
    desk.input(Input::LookedUp { connection: ConnectionId(1), result: Ok(lookup) });
    theirs_comes_first(&mut desk);
    let refusals = desk.take(1).into_iter().map(|got| {
        let common::Got::Answer(_, Err(refusal)) = got else { panic!("the edit and the join are refused: {got:?}") };
        refusal.code
    });
    assert_eq!(refusals.collect::<Vec<_>>(), [Code::SeqGap, Code::BadRequest]);
    assert_eq!(desk.text(), "theirsabc");
}
