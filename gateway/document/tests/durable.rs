//! Acknowledgements that wait until what they acknowledge is durable.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use common::{Desk, Got, edit, entry, insert, join};
use document::{
    Answer, Code, Command, CommitReply, ConnectionId, Edit, Entry, Event, Input, Join, Leaving, ReplyId, Settings,
    Verdict,
};
use ot::Delta;

fn desk() -> Desk {
    let settings = Settings { durable_acks: true, ..Settings::default() };
    Desk::with(settings, Delta::new().insert("abc", None))
}

/// Tickets that were asked for, the version of each, and whether the last commit vouches for it.
fn tickets(desk: &Desk) -> Vec<(u64, u64, bool)> {
    let ticket = |command: &Command| match command {
        Command::MakeDurable { ticket, at, by_commit } => Some((*ticket, at.version, *by_commit)),
        _ => None,
    };
    desk.commands.iter().filter_map(ticket).collect()
}

fn answers(desk: &mut Desk, id: u64) -> Vec<Got> {
    desk.take(id).into_iter().filter(|got| matches!(got, Got::Answer(..))).collect()
}

#[test]
fn an_acknowledgement_waits_for_its_ticket() {
    let mut desk = desk();
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "x"));
    let got = desk.take(1);
    assert!(matches!(&got[..], [Got::Event(Event::EditCommitted { .. })]), "everybody sees it at once: {got:?}");
    assert_eq!(tickets(&desk), [(1, 1, true)]);
    assert!(!desk.document.is_idle() && desk.document.owes(ConnectionId(1)));
    desk.input(Input::Durable { ticket: 1 });
    assert_eq!(desk.take(1), [Got::Answer(1, Ok(Answer::Version(1)))]);
    assert_eq!(desk.document.acknowledgements_waiting(), 0);
}

#[test]
fn a_later_ticket_answers_the_earlier_ones_in_order() {
    let mut desk = desk();
    desk.join(1);
    for seq in 1..=3 {
        desk.edit(1, seq - 1, seq, insert(0, "x"));
    }
    desk.take(1);
    desk.input(Input::Durable { ticket: 2 });
    assert_eq!(answers(&mut desk, 1), [Got::Answer(1, Ok(Answer::Version(1))), Got::Answer(2, Ok(Answer::Version(2)))]);
    desk.input(Input::Durable { ticket: 3 });
    assert_eq!(answers(&mut desk, 1), [Got::Answer(3, Ok(Answer::Version(3)))]);
}

/// Case 12: WAIT timed out; the edit is present, but not acknowledged.
#[test]
fn an_edit_that_is_present_but_not_durable_is_told_once_and_answered_later() {
    let mut desk = desk();
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.take(1);
    desk.tick(4_999);
    assert_eq!(desk.take(1), []);
    assert_eq!(desk.document.deadline_ms().map(|at| at <= desk.now_ms + 1), Some(true));
    desk.tick(1);
    let got = desk.take(1);
    assert!(
        matches!(&got[..], [Got::Event(Event::Error(why))] if why.code == Code::NotDurableYet && why.seq == Some(1)),
        "{got:?}"
    );
    desk.tick(60_000);
    assert_eq!(desk.take(1), [], "once");
    desk.input(Input::Durable { ticket: 1 });
    assert_eq!(desk.take(1), [Got::Answer(1, Ok(Answer::Version(1)))]);
}

#[test]
fn a_duplicate_whose_original_is_not_replicated_yet_waits_like_it() {
    let mut desk = desk();
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.edit(1, 1, 2, insert(0, "y"));
    desk.leave(1, Leaving::Lost);
    desk.commands.clear();
    // Nothing of it is known to be durable; the client comes back and sends both again.
    let mut back = join(7);
    (back.client_id, back.user) = ("c1".into(), common::user(1));
    desk.join_with(back);
    for seq in 1..=2 {
        desk.input(Input::Edit(edit(7, 0, Some(seq), insert(0, "again"))));
    }
    assert_eq!(answers(&mut desk, 7), []);
    let asked = tickets(&desk);
    assert_eq!(
        asked.iter().map(|(_, version, by_commit)| (*version, *by_commit)).collect::<Vec<_>>(),
        [(2, false), (2, false)]
    );
    desk.input(Input::Durable { ticket: asked[1].0 });
    assert_eq!(answers(&mut desk, 7), [Got::Answer(1, Ok(Answer::Version(1))), Got::Answer(2, Ok(Answer::Version(2)))]);
    assert_eq!(desk.text(), "yxabc");
}

#[test]
fn what_the_pod_has_not_seen_yet_is_not_asked_for() {
    let mut desk = desk();
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "x"));
    let Command::Commit(batch) = desk.held.remove(0) else { panic!() };
    desk.append(entry("c9", 1, "far", 0, insert(0, "far")));
    let verdicts = batch.entries.iter().map(|entry| desk.append(entry.clone())).collect();
    // The tail is longer than one answer may be.
    desk.input(Input::Committed(CommitReply { verdicts, tail: Vec::new(), more: true, forked: false }));
    assert_eq!(tickets(&desk), []);
    desk.release();
    assert_eq!(tickets(&desk), [(1, 2, false)], "no reply vouches for it any more");
    desk.input(Input::Durable { ticket: 1 });
    assert_eq!(answers(&mut desk, 1), [Got::Answer(1, Ok(Answer::Version(2)))]);
}

/// Case 10: a failover lost the tail before the pod saw it; another entry stands where the store said this one was, or, for
/// a repeat, a later one of its client. It may be another user's of the same name and number. Opening the document again
/// makes it no truer.
#[test]
fn an_edit_that_the_log_took_back_is_not_acknowledged() {
    let far = |client: &str| entry(client, 1, "far", 0, insert(0, "far"));
    let others = [far("c9"), Entry { user_id: "u9".into(), ..far("c1") }];
    for (verdict, other) in others.iter().flat_map(|other| [(Verdict::Ok(1), other), (Verdict::Dup(1), other)]) {
        let mut desk = desk();
        desk.join(1);
        desk.hold = true;
        desk.edit(1, 0, 1, insert(0, "x"));
        desk.held.clear();
        desk.input(Input::Committed(CommitReply {
            verdicts: vec![verdict],
            tail: Vec::new(),
            more: true,
            forked: false,
        }));
        desk.append(other.clone());
        desk.release();
        assert_eq!(tickets(&desk), [], "{verdict:?}");
        assert!(desk.commands.iter().any(|command| matches!(command, Command::Reopen)), "{verdict:?}");
        desk.document.open_again(common::start("abc"), desk.log.clone(), desk.now_ms).expect("it opens");
        desk.tick(1);
        assert_eq!(tickets(&desk), [], "{verdict:?}");
        assert_eq!(answers(&mut desk, 1), [], "{verdict:?}");
    }
}

#[test]
fn nothing_more_is_committed_while_too_many_acknowledgements_wait() {
    let settings = Settings { durable_acks: true, durable_waiting: 2, ..Settings::default() };
    let mut desk = Desk::with(settings, Delta::new());
    desk.join(1);
    for seq in 1..=3 {
        desk.edit(1, desk.log.len() as u64, seq, insert(0, "x"));
    }
    assert_eq!(desk.log.len(), 2);
    desk.input(Input::Durable { ticket: 2 });
    assert_eq!(desk.log.len(), 3);
}

#[test]
fn edits_that_are_held_back_for_acknowledgements_are_refused_after_thirty_seconds() {
    let settings = Settings { durable_acks: true, durable_waiting: 2, ..Settings::default() };
    let mut desk = Desk::with(settings, Delta::new());
    desk.join(1);
    for seq in 1..=4 {
        desk.edit(1, desk.log.len() as u64, seq, insert(0, "x"));
    }
    desk.tick(29_999);
    desk.take(1);
    assert_eq!(desk.document.deadline_ms(), Some(desk.now_ms + 1));
    desk.tick(1);
    let refused: Vec<_> = answers(&mut desk, 1)
        .into_iter()
        .map(|got| match got {
            Got::Answer(reply, Err(why)) => (reply, why.code, why.seq),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(refused, [(3, Code::StoreUnavailable, Some(3)), (4, Code::SeqGap, Some(4))]);
    // What is in the log is never answered with an error, and after the refusals there is room again.
    desk.input(Input::Durable { ticket: 2 });
    assert_eq!(answers(&mut desk, 1), [Got::Answer(1, Ok(Answer::Version(1))), Got::Answer(2, Ok(Answer::Version(2)))]);
    desk.join_with(Join { session: "s2".into(), seq: Some(3), ..join(1) });
    desk.input(Input::Edit(Edit { session: Some("s2".into()), ..edit(1, 2, Some(3), insert(0, "y")) }));
    assert_eq!(desk.text(), "yxx");
}

#[test]
fn whoever_lost_the_transport_is_not_waited_for() {
    let mut desk = desk();
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.leave(1, Leaving::Lost);
    assert_eq!(desk.document.acknowledgements_waiting(), 0);
    desk.input(Input::Durable { ticket: 1 });
    assert_eq!(answers(&mut desk, 1), []);
}

#[test]
fn whoever_left_the_document_still_hears_that_the_edit_is_durable() {
    let mut desk = desk();
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.input(Input::Leave { connection: ConnectionId(1), how: Leaving::Said, reply: Some(ReplyId(5)) });
    desk.take(1);
    desk.input(Input::Durable { ticket: 1 });
    assert_eq!(desk.take(1), [Got::Answer(1, Ok(Answer::Version(1)))]);
}
