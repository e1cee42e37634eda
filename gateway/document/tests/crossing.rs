//! Messages that cross: what a client sends before it has heard what its pod said, and answers that come too late.
//!
//! In: edits and replies in unlucky orders. Out: one form of each edit, and an answer where one is due.

mod common;

use common::{Desk, Got, edit, entry, insert};
use document::{Answer, Code, Command, Input};
use ot::Delta;

#[test]
fn an_edit_that_crossed_document_joined_is_left_to_be_sent_again() {
    let mut desk = Desk::new();
    desk.append(entry("c1", 1, "far", 0, insert(0, "x")));
    desk.append(entry("other", 1, "far", 1, insert(0, "y")));
    desk.join(1);
    // What the client drops and what it carries over the difference it finds between two contents; the pod, knowing the
    // entries, would carry it elsewhere.
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.edit(1, 0, 2, insert(1, "z"));
    assert_eq!(desk.take(1), [Got::Answer(1, Ok(Answer::Version(1)))]);
    assert_eq!(desk.text(), "yxabc");
    desk.edit(1, 2, 2, insert(2, "z"));
    assert_eq!(desk.text(), "yxzabc");
    // Whoever does not count its edits does not send them again.
    desk.join(2);
    desk.input(Input::Edit(edit(2, 0, None, insert(0, "!"))));
    assert_eq!(desk.text(), "!yxzabc");
}

#[test]
fn an_edit_that_does_not_fit_is_refused_though_the_log_was_asked_in_vain() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, Delta::new().retain(9, None).delete(1));
    assert!(matches!(&desk.held[..], [Command::Fetch { .. }]), "is an older copy of it in the log?");
    // The answer comes after the pod has given it up.
    desk.tick(6_000);
    assert!(matches!(&desk.held[..], [Command::Fetch { .. }, Command::Fetch { .. }]), "{:?}", desk.held);
    assert_eq!(desk.take(1), []);
    desk.release();
    assert_eq!(desk.refusal(1).code, Code::OpInvalid);
}
