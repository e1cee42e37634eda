//! What a drain waits for before it lets a connection, or the document, go.

mod common;

use common::{Desk, insert, join};
use document::{ConnectionId, Input, Leaving, Settings};
use ot::Delta;

fn desk() -> Desk {
    Desk::with(Settings { durable_acks: true, ..Settings::default() }, Delta::new())
}

fn settled(desk: &Desk, id: u64) -> bool {
    desk.document.is_settled(ConnectionId(id))
}

#[test]
fn a_connection_is_settled_when_its_edits_are_in_the_log_and_durable() {
    let mut desk = desk();
    desk.join(1);
    desk.join(2);
    assert!(settled(&desk, 1) && settled(&desk, 77) && desk.document.is_all_settled(), "nobody waits");
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "x"));
    assert!(!settled(&desk, 1) && settled(&desk, 2) && !desk.document.is_all_settled(), "it is on its way to the log");
    desk.edit(1, 0, 2, insert(1, "y"));
    desk.release();
    assert_eq!(desk.text(), "xy");
    assert!(!settled(&desk, 1) && settled(&desk, 2) && !desk.document.is_all_settled(), "no follower has it");
    desk.input(Input::Durable { ticket: 1 });
    assert!(!settled(&desk, 1), "the second is not");
    desk.input(Input::Durable { ticket: 2 });
    assert!(settled(&desk, 1) && desk.document.is_all_settled());
}

#[test]
fn whoever_joins_is_not_settled_until_it_is_in_or_refused() {
    let mut desk = desk();
    desk.hold = true;
    desk.input(Input::Join(join(1)));
    assert!(!settled(&desk, 1));
    desk.leave(1, Leaving::Said);
    assert!(settled(&desk, 1));
}

#[test]
fn what_a_lost_connection_had_sent_is_waited_for() {
    let mut desk = desk();
    desk.join(1);
    desk.join(2);
    desk.hold = true;
    desk.edit(2, 0, 1, insert(0, "z"));
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.leave(1, Leaving::Lost);
    assert!(!settled(&desk, 1) && !desk.document.is_all_settled());
    desk.release();
    desk.input(Input::Durable { ticket: u64::MAX });
    assert_eq!(desk.text(), "xz");
    assert!(settled(&desk, 1) && settled(&desk, 2) && desk.document.is_all_settled());
}
