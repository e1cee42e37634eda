//! Messages that cross: what a client sends before it has heard what its pod said, and answers that come too late.
//!
//! In: edits and replies in unlucky orders. Out: one form of each edit, and an answer where one is due.

mod common;

use common::{Desk, Got, edit, entry, insert, join};
use document::{
    Answer, Code, Command, Event, Input, Join, JoinedContent, Leaving, Logged, Lookup, Point, Role, Snapshot,
};
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
fn an_edit_that_crossed_document_joined_is_taken_where_only_own_entries_lie_between() {
    let mut desk = Desk::new();
    desk.append(entry("c1", 1, "far", 0, insert(0, "x")));
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.edit(1, 0, 2, insert(1, "y"));
    assert_eq!(desk.text(), "xyabc");
    assert!(desk.take(1).contains(&Got::Answer(2, Ok(Answer::Version(2)))));
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

#[test]
fn a_join_that_crossed_entries_of_a_lost_history_is_answered_by_content() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.append(entry("other", 1, "far", 0, insert(0, "lost ")));
    desk.input(Input::Hint(1));
    assert!(matches!(&desk.events(1)[..], [Event::Edit(_)]));
    // Sent before the client has heard of version 1.
    desk.hold = true;
    let again = Join { version: Some(0), hash: Some("h0".into()), last_session: Some("s1".into()), ..join(1) };
    desk.input(Input::Join(Join { session: "s2".into(), ..again }));
    // A failover; what was version 1 is something else now.
    desk.input(Input::Forked);
    let kept = entry("third", 1, "far", 0, insert(0, "kept "));
    desk.log = vec![Logged { at: Point { version: 1, hash: "g1".into() }, entry: kept }];
    desk.rows.clear();
    desk.hold = false;
    desk.held.clear();
    let at = Point { version: 0, hash: "h0".into() };
    let snapshot = Snapshot { at, content: Delta::new().insert("abc", None), window: Vec::new() };
    let reopened = desk.document.open_again(snapshot, desk.log.clone(), desk.now_ms).expect("it opens");
    assert_eq!(reopened.missing, 1);
    desk.tick(1);
    let joined = desk
        .events(1)
        .into_iter()
        .find_map(|event| if let Event::DocumentJoined(joined) = event { Some(joined) } else { None });
    let joined = joined.expect("the join that was under way is answered");
    assert!(matches!(&joined.content, JoinedContent::Ops(ops) if ops.plain_text() == "lost kept abc"), "{joined:?}");
    assert_eq!(joined.session, "s2".into());
}

/// What the store said for a join that was given up is older than what this pod has by then.
#[test]
fn a_lookup_of_a_join_that_is_over_does_not_answer_the_next_one() {
    let mut desk = Desk::new();
    desk.hold = true;
    desk.input(Input::Join(join(1)));
    let Some(Command::Lookup { connection, .. }) = desk.held.pop() else { panic!("nothing was looked up") };
    let lookup = |rows, tail| Lookup { role: Role::Write, rows, tail, more: false };
    let answer = |lookup| Input::LookedUp { connection, result: Ok(lookup) };
    let before = answer(lookup(Vec::new(), Vec::new()));
    desk.leave(1, Leaving::Said);
    // Its edit arrives after all, through another pod.
    desk.append(entry("c1", 1, "other", 0, insert(0, "x")));
    desk.input(Input::Learned(desk.log.clone()));
    desk.input(Input::Join(join(1)));
    let after = answer(lookup(desk.rows.values().cloned().collect(), Vec::new()));
    let joined = |desk: &mut Desk| {
        let events = desk.events(1).into_iter();
        events.filter_map(|event| if let Event::DocumentJoined(joined) = event { Some(joined) } else { None }).next()
    };
    desk.input(before.clone());
    assert_eq!(joined(&mut desk), None, "it may be the older of two");
    desk.input(after.clone());
    assert_eq!(joined(&mut desk).map(|joined| (joined.at.version, joined.last_seq)), Some((1, 1)));
    // The other way round the newer one counts all the same.
    desk.input(Input::Join(Join { session: "s2".into(), ..join(1) }));
    desk.leave(1, Leaving::Said);
    desk.input(Input::Join(Join { session: "s3".into(), ..join(1) }));
    desk.input(after);
    desk.input(before);
    assert_eq!(joined(&mut desk).map(|joined| (joined.at.version, joined.last_seq)), Some((1, 1)));
}
