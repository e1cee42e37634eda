//! Edits without a number, of sessions that the store has forgotten: it keeps their counts for an hour, or for ten minutes
//! where there are many.

mod common;

use std::collections::BTreeSet;

use common::{Desk, Got, edit, insert};
use document::{Answer, Code, Command, CommitReply, Edit, Identity, Input, Leaving, ReplyId, Verdict};
use ot::Delta;

/// An edit without a number, with a callback.
fn plain(desk: &Desk, reply: u64, ops: Delta) -> Edit {
    Edit { reply: Some(ReplyId(reply)), ..edit(1, desk.document.head().version, None, ops) }
}

/// Somebody who wrote one edit and then rested for so long that the store has forgotten it.
fn rested() -> Desk {
    let mut desk = Desk::new();
    desk.join(1);
    desk.input(Input::Edit(plain(&desk, 1, insert(0, "1"))));
    desk.rows.clear();
    desk.take(1);
    desk
}

fn answers(desk: &mut Desk) -> Vec<(u64, Result<Answer, Code>)> {
    let answer = |got| match got {
        Got::Answer(reply, answer) => Some((reply, answer.map_err(|refusal| refusal.code))),
        Got::Event(_) => None,
    };
    desk.take(1).into_iter().filter_map(answer).collect()
}

fn identities(desk: &Desk) -> BTreeSet<Identity> {
    desk.log.iter().map(|logged| logged.entry.identity.clone()).collect()
}

#[test]
fn whoever_rested_goes_on_where_its_count_was_forgotten() {
    let mut desk = rested();
    desk.hold = true;
    // The second is made on the first, which the store refuses when it is asked.
    desk.input(Input::Edit(plain(&desk, 2, insert(1, "2"))));
    desk.input(Input::Edit(plain(&desk, 3, insert(2, "3"))));
    desk.release();
    assert_eq!(desk.text(), "123abc");
    assert_eq!(answers(&mut desk), [(2, Ok(Answer::Version(2))), (3, Ok(Answer::Version(3)))]);
    // And once more.
    desk.rows.clear();
    desk.input(Input::Edit(plain(&desk, 4, insert(3, "4"))));
    assert_eq!(desk.text(), "1234abc");
    assert_eq!(answers(&mut desk), [(4, Ok(Answer::Version(4)))]);
    let identities = identities(&desk);
    assert_eq!(identities.len(), 4, "each is another edit: {identities:?}");
    assert!(identities.iter().all(|identity| identity.by_gateway && identity.id.len() < 40), "{identities:?}");
}

#[test]
fn what_somebody_left_behind_goes_on_too() {
    let mut desk = rested();
    desk.join(2);
    desk.hold = true;
    desk.input(Input::Edit(plain(&desk, 2, insert(1, "2"))));
    desk.input(Input::Edit(plain(&desk, 3, insert(2, "3"))));
    desk.leave(1, Leaving::Lost);
    desk.release();
    assert_eq!(desk.text(), "123abc");
}

#[test]
fn an_edit_that_the_log_has_although_its_count_was_forgotten_is_not_sent_again() {
    let mut desk = rested();
    desk.hold = true;
    desk.input(Input::Edit(plain(&desk, 2, insert(1, "2"))));
    desk.rows.clear();
    let batch = desk.held_commit();
    // It was appended and nobody heard; when the call is repeated its row is gone, and more came than one reply holds.
    let entry = batch.entries[0].clone();
    let other = common::entry("c9", 1, "s9", 1, insert(0, "9"));
    desk.rows.insert(entry.identity.id.clone(), desk.row_of(&entry, 1));
    assert_eq!(desk.append(other), Verdict::Ok(2));
    assert_eq!(desk.append(entry), Verdict::Ok(3));
    desk.rows.clear();
    let tail = vec![desk.log[1].clone()];
    desk.input(Input::Committed(CommitReply { verdicts: vec![Verdict::Gap(0)], tail, more: true, forked: false }));
    let batch = desk.held_commit();
    let reply = desk.commit(&batch);
    assert_eq!(reply.verdicts, [Verdict::Gap(0)]);
    desk.input(Input::Committed(reply));
    desk.hold = false;
    assert!(!desk.held.iter().any(|held| matches!(held, Command::Commit(_))), "it is sent again: {:?}", desk.held);
    assert_eq!(desk.text(), "912abc");
    assert_eq!(answers(&mut desk), [(2, Ok(Answer::Version(3)))]);
}

#[test]
fn a_number_of_the_clients_own_that_is_missing_is_still_refused() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.rows.clear();
    desk.take(1);
    desk.edit(1, 1, 2, insert(0, "y"));
    assert_eq!(desk.refusal(1).code, Code::SeqGap);
    assert_eq!(desk.text(), "xabc");
}
