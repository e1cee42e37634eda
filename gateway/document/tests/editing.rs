//! The rules of editing, one by one.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use common::{Desk, Got, content, edit, entry, insert, join};
use document::{
    Answer, Code, Command, ConnectionId, Event, Form, Input, Join, JoinedContent, Leaving, Lookup, ReplyId, Role,
    Settings,
};
use ot::{Attributes, Delta};
use serde_json::json;

#[test]
fn an_edit_is_committed_told_to_others_and_answered() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    desk.take(1);
    desk.edit(1, 0, 1, insert(3, "d"));
    let got = desk.take(1);
    assert!(matches!(&got[0], Got::Event(Event::EditCommitted { at, seq: Some(1), .. }) if at.version == 1), "{got:?}");
    assert_eq!(got[1], Got::Answer(1, Ok(Answer::Version(1))));
    assert!(matches!(&desk.events(2)[..], [Event::Edit(entry)] if *entry.ops == insert(3, "d")));
    assert_eq!(desk.text(), "abcd");
}

#[test]
fn edits_sent_without_waiting_apply_after_each_other() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.edit(1, 0, 2, insert(1, "y"));
    desk.edit(1, 0, 3, Delta::new().delete(1));
    // Somebody else's words at the same place, in between.
    desk.append(entry("other", 1, "far", 0, insert(0, "OTHER ")));
    desk.release();
    assert_eq!(desk.text(), "yOTHER abc");
    assert_eq!(desk.log.len(), 4);
}

#[test]
fn one_call_carries_one_edit_of_each_client() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "a"));
    desk.edit(1, 0, 2, insert(0, "b"));
    desk.edit(2, 0, 1, insert(0, "c"));
    assert!(matches!(&desk.held[..], [Command::Commit(batch)] if batch.entries.len() == 1));
    let first = desk.held.remove(0);
    let Command::Commit(batch) = first else { panic!() };
    let reply = desk.commit(&batch);
    desk.input(Input::Committed(reply));
    assert!(matches!(&desk.held[..], [Command::Commit(batch)]
        if batch.entries.len() == 2 && batch.entries.iter().all(|entry| entry.base == 1)));
}

#[test]
fn an_edit_of_another_session_is_dropped_without_an_answer() {
    let mut desk = Desk::new();
    desk.join(1);
    let mut stale = edit(1, 0, Some(1), insert(0, "x"));
    stale.session = Some("older".into());
    desk.input(Input::Edit(stale));
    assert_eq!(desk.take(1), []);
    assert_eq!(desk.text(), "abc");
}

#[test]
fn an_own_entry_of_another_session_makes_the_client_join_again() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.append(entry("c1", 1, "older", 0, insert(0, "x")));
    desk.input(Input::Hint(1));
    assert_eq!(desk.events(1), [Event::Rejoin]);
    desk.edit(1, 0, 2, insert(0, "lost"));
    let again = desk.join_with(Join { session: "new".into(), last_session: Some("s1".into()), ..join(1) });
    assert_eq!((again.last_seq, content(&again)), (1, "xabc".to_owned()));
    assert_eq!(desk.text(), "xabc");
}

#[test]
fn a_join_is_answered_by_entries_only_if_the_own_ones_are_of_the_named_session() {
    let mut desk = Desk::new();
    desk.append(entry("c1", 1, "last", 0, insert(0, "x")));
    desk.append(entry("other", 1, "far", 1, insert(0, "y")));
    let from = |session: &str, hash: &str| Join {
        version: Some(0),
        hash: Some(hash.into()),
        last_session: Some(session.into()),
        seq: Some(1),
        ..join(1)
    };
    let joined = desk.join_with(from("last", "h0"));
    assert!(matches!(&joined.content, JoinedContent::Edits(entries) if entries.len() == 2));
    assert_eq!(joined.last_seq, 1);
    let joined = desk.join_with(from("another", "h0"));
    assert_eq!(content(&joined), "yxabc");
    let joined = desk.join_with(from("last", "fork"));
    assert_eq!(content(&joined), "yxabc");
}

#[test]
fn a_client_id_belongs_to_the_user_who_used_it_first() {
    let mut desk = Desk::new();
    desk.append(entry("c1", 1, "far", 0, insert(0, "x")));
    desk.rows.values_mut().for_each(|row| row.owner = "u2".into());
    desk.input(Input::Join(join(1)));
    assert_eq!(desk.refusal(1).code, Code::BadRequest);
}

#[test]
fn a_newer_connection_of_a_client_takes_the_place_of_the_older_one() {
    let mut desk = Desk::new();
    desk.join(1);
    let newer = Join { connection: ConnectionId(2), session: "s2".into(), ..join(1) };
    desk.join_with(newer);
    desk.edit(1, 0, 1, insert(0, "x"));
    assert_eq!(desk.refusal(1).code, Code::NotJoined);
    desk.input(Input::Join(join(1)));
    assert_eq!(desk.refusal(1).code, Code::ClientReplaced);
}

#[test]
fn numbers_are_taken_in_order() {
    let mut desk = Desk::new();
    desk.append(entry("c1", 1, "far", 0, insert(0, "x")));
    desk.join_with(Join { seq: Some(2), ..join(1) });
    desk.edit(1, 1, 1, insert(0, "ignored"));
    assert_eq!(desk.take(1), []);
    desk.edit(1, 1, 3, insert(0, "too soon"));
    let refusal = desk.refusal(1);
    assert_eq!((refusal.code, refusal.seq, refusal.last_seq), (Code::SeqGap, Some(3), Some(1)));
    desk.edit(1, 1, 2, insert(0, "after a refusal"));
    assert_eq!(desk.refusal(1).code, Code::SeqGap);
    assert_eq!(desk.text(), "xabc");
}

#[test]
fn a_number_that_is_in_the_log_is_answered_with_its_version() {
    let mut desk = Desk::new();
    desk.append(entry("c1", 1, "far", 0, insert(0, "x")));
    desk.append(entry("c1", 2, "far", 1, insert(0, "y")));
    // What follows is relative to both.
    let early = [insert(0, "x"), insert(0, "y"), insert(2, "z")];
    let early = (1..).zip(early).map(|(seq, ops)| edit(1, 0, Some(seq), ops)).collect();
    desk.input(Input::Join(Join { early, ..join(1) }));
    let answers: Vec<_> = desk.take(1).into_iter().filter(|got| matches!(got, Got::Answer(1..=3, _))).collect();
    assert_eq!(answers, [1, 2, 3].map(|version| Got::Answer(version, Ok(Answer::Version(version)))));
    assert_eq!(desk.text(), "yxzabc");
}

#[test]
fn a_refused_edit_ends_the_session_until_the_next_join() {
    let mut desk = Desk::new();
    desk.roles.insert(1, Role::Read);
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "x"));
    assert_eq!(desk.refusal(1).code, Code::ReadOnly);
    desk.edit(1, 0, 2, insert(0, "y"));
    assert_eq!(desk.refusal(1).code, Code::SeqGap);
    desk.join_with(Join { last_session: Some("s1".into()), session: "new".into(), seq: Some(1), ..join(1) });
    desk.edit(1, 0, 1, Delta::new());
    assert_eq!(desk.log.len(), 1);
    assert_eq!(desk.text(), "abc");
}

#[test]
fn commenters_set_comments_only() {
    let mut desk = Desk::new();
    desk.roles.insert(1, Role::Comment);
    desk.join(1);
    let set = |name: &str| Some([(name.to_owned(), json!("c7"))].into_iter().collect::<Attributes>());
    desk.edit(1, 0, 1, Delta::new().retain(1, None).retain(2, set("comment-7")));
    assert_eq!(desk.log.len(), 1);
    desk.take(1);
    desk.edit(1, 1, 2, Delta::new().retain(2, set("bold")));
    assert_eq!(desk.refusal(1).code, Code::ReadOnly);
}

#[test]
fn edits_that_do_not_fit_are_refused() {
    for ops in [insert(4, "x"), Delta::new().delete(4), Delta::new().retain(1, None).delete(3)] {
        let mut desk = Desk::new();
        desk.join(1);
        desk.edit(1, 0, 1, ops);
        assert_eq!(desk.refusal(1).code, Code::OpInvalid);
        assert_eq!((desk.log.len(), desk.text()), (0, "abc".to_owned()));
    }
}

#[test]
fn a_document_does_not_grow_beyond_its_limit_but_may_shrink() {
    let settings = Settings { max_document_bytes: 100, ..Settings::default() };
    let mut desk = Desk::with(settings, Delta::new().insert(&"x".repeat(150), None));
    desk.join(1);
    desk.edit(1, 0, 1, Delta::new().delete(10));
    assert_eq!(desk.log.len(), 1);
    desk.take(1);
    desk.edit(1, 1, 2, insert(0, "y"));
    assert_eq!(desk.refusal(1).code, Code::DocumentTooLarge);
}

#[test]
fn edits_that_fit_one_by_one_but_not_together_are_judged_one_after_the_other() {
    let settings = Settings { max_document_bytes: 200, ..Settings::default() };
    let mut desk = Desk::with(settings, Delta::new().insert(&"x".repeat(100), None));
    for id in 1..=3 {
        desk.join(id);
    }
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "a"));
    desk.edit(2, 0, 1, insert(0, &"b".repeat(60)));
    desk.edit(3, 0, 1, insert(0, &"c".repeat(60)));
    desk.take(3);
    desk.release();
    assert_eq!(desk.log.len(), 2);
    assert_eq!(desk.refusal(3).code, Code::DocumentTooLarge);
    assert_eq!(desk.text(), format!("{}a{}", "b".repeat(60), "x".repeat(100)));
}

#[test]
fn a_version_that_is_not_in_the_log_is_refused_after_asking_the_store() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.edit(1, 7, 1, insert(0, "x"));
    assert_eq!(desk.refusal(1).code, Code::VersionAhead);
    desk.join_with(Join { session: "new".into(), ..join(1) });
    // In the log, but not known here yet.
    desk.append(entry("other", 1, "far", 0, insert(0, "y")));
    desk.edit(1, 1, 1, insert(0, "x"));
    assert_eq!(desk.text(), "xyabc");
}

#[test]
fn a_version_below_the_window_is_refused() {
    let mut desk = Desk::with(Settings { window_entries: 2, ..Settings::default() }, Delta::new());
    desk.join(1);
    for seq in 1..=4 {
        desk.append(entry("other", seq, "far", seq - 1, insert(0, "y")));
    }
    desk.input(Input::Hint(4));
    desk.take(1);
    desk.edit(1, 1, 1, insert(0, "x"));
    assert_eq!(desk.refusal(1).code, Code::VersionTooOld);
}

#[test]
fn edits_without_a_number_are_applied_and_answered() {
    let mut desk = Desk::new();
    desk.join(1);
    let mut plain = edit(1, 0, None, insert(0, "x"));
    plain.reply = Some(ReplyId(5));
    desk.input(Input::Edit(plain));
    let got = desk.take(1);
    assert!(matches!(&got[0], Got::Event(Event::EditCommitted { seq: None, .. })), "{got:?}");
    assert_eq!(got[1], Got::Answer(5, Ok(Answer::Version(1))));
    assert!(desk.log[0].entry.identity.by_gateway);
    assert_eq!(&*desk.log[0].entry.client_id, "c1");
}

#[test]
fn edits_before_the_join_are_committed_first_unless_it_names_a_session() {
    let mut desk = Desk::new();
    let early = vec![edit(1, 0, Some(1), insert(0, "x")), edit(1, 0, Some(2), insert(1, "y"))];
    let joined = desk.join_with(Join { early: early.clone(), ..join(1) });
    assert_eq!((content(&joined), joined.last_seq), ("xyabc".to_owned(), 2));
    let mut desk = Desk::new();
    let joined = desk.join_with(Join { early, last_session: Some("older".into()), ..join(1) });
    assert_eq!((content(&joined), joined.last_seq), ("abc".to_owned(), 0));
}

#[test]
fn quill_gets_its_newline_from_the_gateway_once() {
    let mut desk = Desk::new();
    desk.roles.insert(1, Role::Read);
    let joined = desk.join_with(Join { form: Form::Quill, ..join(1) });
    assert_eq!((content(&joined), joined.at.version), ("abc\n".to_owned(), 1));
    assert_eq!((&*desk.log[0].entry.client_id, desk.log[0].entry.identity.seq), ("newline", 1));
    let joined = desk.join_with(Join { form: Form::Quill, ..join(2) });
    assert_eq!(joined.at.version, 1);
    // Deleted again: the next number.
    desk.edit(2, 1, 1, Delta::new().retain(3, None).delete(1));
    desk.join_with(Join { form: Form::Quill, ..join(3) });
    assert_eq!((desk.text(), desk.log[2].entry.identity.seq), ("abc\n".to_owned(), 2));
}

#[test]
fn two_pods_that_both_see_no_newline_put_one() {
    let mut desk = Desk::new();
    desk.hold = true;
    desk.input(Input::Join(Join { form: Form::Quill, ..join(1) }));
    desk.held.clear();
    let result = Ok(Lookup { role: Role::Read, rows: Vec::new(), tail: Vec::new(), more: false });
    desk.input(Input::LookedUp { connection: ConnectionId(1), result });
    assert!(matches!(&desk.held[..], [Command::Commit(batch)] if &*batch.entries[0].client_id == "newline"));
    // The other pod was quicker.
    desk.append(entry("newline", 1, "newline", 0, insert(3, "\n")));
    desk.release();
    let joined = desk.events(1).into_iter().find_map(|event| match event {
        Event::DocumentJoined(joined) => Some(*joined),
        _ => None,
    });
    let joined = joined.expect("joined");
    assert_eq!((content(&joined), joined.at.version, desk.log.len()), ("abc\n".to_owned(), 1, 1));
}

#[test]
fn the_gateways_own_client_id_is_nobody_elses() {
    let mut desk = Desk::new();
    desk.input(Input::Join(Join { client_id: "newline".into(), ..join(1) }));
    assert_eq!(desk.refusal(1).code, Code::BadRequest);
}

#[test]
fn text_is_text_with_embeds_as_one_character() {
    let mut desk = Desk::with(Settings::default(), Delta::new().insert("a", None).embed(json!({"image": 1}), None));
    let joined = desk.join_with(Join { form: Form::Text, ..join(1) });
    assert_eq!(joined.content, JoinedContent::Text("a\u{FFFC}".to_owned()));
}

#[test]
fn while_the_store_is_away_edits_are_held_then_refused_but_for_those_that_were_sent() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.input(Input::StoreAway(true));
    desk.edit(1, 0, 2, insert(0, "y"));
    desk.edit(1, 0, 3, insert(0, "z"));
    desk.tick(29_000);
    assert_eq!(desk.take(1), []);
    desk.tick(2_000);
    let codes: Vec<_> = desk.take(1);
    assert!(
        matches!(&codes[..], [Got::Answer(2, Err(first)), Got::Answer(3, Err(second))]
        if first.code == Code::StoreUnavailable && second.code == Code::SeqGap),
        "{codes:?}"
    );
    desk.input(Input::StoreAway(false));
    desk.release();
    assert!(desk.take(1).contains(&Got::Answer(1, Ok(Answer::Version(1)))));
    assert_eq!(desk.text(), "xabc");
}

#[test]
fn a_connection_with_too_much_waiting_is_read_no_further_until_half_is_done() {
    let mut desk = Desk::with(Settings { held_edits: 4, ..Settings::default() }, Delta::new());
    desk.join(1);
    desk.hold = true;
    for seq in 1..=5 {
        desk.edit(1, 0, seq, insert(0, "x"));
    }
    let pauses = |desk: &Desk| {
        let commands = desk.commands.iter();
        let pauses = commands.filter_map(|command| match command {
            Command::PauseReading { pause, .. } => Some(*pause),
            _ => None,
        });
        pauses.collect::<Vec<_>>()
    };
    assert_eq!(pauses(&desk), [true]);
    desk.release();
    assert_eq!(pauses(&desk), [true, false]);
    assert_eq!(desk.text(), "xxxxx");
}

#[test]
fn what_others_made_void_does_not_keep_a_connection_from_being_read() {
    let mut desk = Desk::with(Settings { held_bytes: 300, ..Settings::default() }, Delta::new().insert("abc", None));
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "x"));
    for seq in 2..=3 {
        let comment: Attributes = [("comment".to_owned(), json!("y".repeat(200)))].into_iter().collect();
        desk.edit(1, 0, seq, Delta::new().retain(1, None).retain(3, Some(comment)));
    }
    assert!(desk.commands.contains(&Command::PauseReading { connection: ConnectionId(1), pause: true }));
    desk.append(entry("other", 1, "far", 0, Delta::new().delete(3)));
    desk.release();
    assert_eq!((desk.log.len(), desk.text().as_str()), (4, "x"));
    assert_eq!(desk.commands.last(), Some(&Command::PauseReading { connection: ConnectionId(1), pause: false }));
}

#[test]
fn an_answer_that_is_older_than_a_hint_does_not_make_it_forgotten() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.input(Input::StoreAway(true));
    desk.input(Input::StoreAway(false));
    assert!(matches!(desk.held.pop(), Some(Command::Fetch { .. })));
    desk.append(entry("other", 1, "far", 0, insert(0, "y")));
    desk.input(Input::Hint(1));
    // Read before the entry was there.
    desk.input(Input::Learned(Vec::new()));
    desk.release();
    assert_eq!(desk.text(), "yabc");
}

#[test]
fn what_a_leaving_client_sent_is_committed() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.edit(1, 0, 2, insert(1, "y"));
    desk.leave(1, Leaving::Said);
    assert!(!desk.document.is_idle());
    desk.release();
    assert_eq!(desk.text(), "xyabc");
    // The last one to leave takes a snapshot.
    assert!(desk.commands.iter().any(|command| matches!(command, Command::Save(snapshot) if snapshot.at.version == 2)));
    desk.input(Input::Saved(2));
    assert!(desk.document.is_idle());
}

#[test]
fn the_last_one_who_leaves_takes_one_snapshot_whatever_others_type_elsewhere() {
    let settings = Settings { snapshot_tail_entries: 5, ..Settings::default() };
    let mut desk = Desk::with(settings, Delta::new());
    desk.join(1);
    desk.edit(1, 0, 1, insert(0, "x"));
    desk.leave(1, Leaving::Said);
    let saves = |desk: &Desk| desk.commands.iter().filter(|command| matches!(command, Command::Save(_))).count();
    assert_eq!(saves(&desk), 1);
    desk.input(Input::Saved(1));
    for seq in 1..=20 {
        desk.append(entry("other", seq, "far", seq, insert(0, "y")));
        desk.input(Input::Learned(vec![desk.log.last().unwrap().clone()]));
    }
    assert_eq!((saves(&desk), desk.document.is_idle()), (1, true));
    // Whoever comes and goes takes one again, and once more where it is not answered.
    desk.join(2);
    desk.leave(2, Leaving::Said);
    assert_eq!((saves(&desk), desk.document.is_idle()), (2, false));
    desk.now_ms += 60_000;
    desk.input(Input::Tick);
    assert_eq!(saves(&desk), 3);
}

#[test]
fn a_reply_from_another_history_makes_everybody_join_again() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.edit(1, 0, 1, insert(0, "x"));
    let forked = document::CommitReply { verdicts: Vec::new(), tail: Vec::new(), more: false, forked: true };
    desk.input(Input::Committed(forked));
    assert_eq!(desk.events(1), [Event::Rejoin]);
    assert_eq!(desk.commands.last(), Some(&Command::Reopen));
}

#[test]
fn a_pod_that_is_far_behind_opens_the_document_anew() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.append(entry("other", 1, "far", 0, insert(0, "y")));
    let mut far = desk.log[0].clone();
    far.at.version = 600;
    desk.input(Input::Learned(vec![far]));
    assert_eq!(desk.events(1), [Event::Rejoin]);
    assert_eq!(desk.commands.last(), Some(&Command::Reopen));
}

#[test]
fn a_snapshot_is_due_after_many_entries_and_carries_the_window() {
    let settings = Settings { snapshot_tail_entries: 5, window_entries: 3, ..Settings::default() };
    let mut desk = Desk::with(settings, Delta::new());
    desk.join(1);
    for seq in 1..=6 {
        desk.edit(1, seq - 1, seq, insert(0, "x"));
    }
    let saved = desk.commands.iter().find_map(|command| match command {
        Command::Save(snapshot) => Some(snapshot.clone()),
        _ => None,
    });
    let snapshot = saved.expect("a snapshot");
    assert_eq!((snapshot.at.version, snapshot.window.len()), (6, 3));
    assert_eq!(snapshot.content.plain_text(), "xxxxxx");
}

#[test]
fn a_client_that_joins_again_without_naming_its_session_loses_nothing() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    desk.input(Input::Edit(edit(1, 0, None, insert(0, "x"))));
    desk.input(Input::Edit(edit(1, 0, None, insert(1, "y"))));
    desk.input(Input::Join(Join { session: "new".into(), ..join(1) }));
    let lookup = desk.held.pop();
    assert!(matches!(lookup, Some(Command::Lookup { .. })), "{lookup:?}");
    desk.release();
    let result = Ok(Lookup { role: Role::Write, rows: Vec::new(), tail: Vec::new(), more: false });
    desk.input(Input::LookedUp { connection: ConnectionId(1), result });
    let joined = desk.events(1).into_iter().find_map(|event| match event {
        Event::DocumentJoined(joined) => Some(joined),
        _ => None,
    });
    assert_eq!(content(&joined.expect("joined")), "xyabc");
}

#[test]
fn a_join_waits_for_what_the_store_knows_of_the_client() {
    let mut desk = Desk::new();
    desk.hold = true;
    desk.input(Input::Join(join(1)));
    desk.held.clear();
    desk.append(entry("c1", 1, "older", 0, insert(0, "x")));
    let rows = desk.rows.values().cloned().collect();
    let result = Ok(Lookup { role: Role::Write, rows, tail: Vec::new(), more: true });
    desk.input(Input::LookedUp { connection: ConnectionId(1), result });
    assert_eq!(desk.take(1), []);
    desk.release();
    let got = desk.take(1);
    assert!(
        matches!(&got[0], Got::Event(Event::DocumentJoined(joined))
        if joined.last_seq == 1 && content(joined) == "xabc"),
        "{got:?}"
    );
}

#[test]
fn leaving_answers_a_join_that_is_under_way() {
    let mut desk = Desk::new();
    desk.hold = true;
    desk.input(Input::Join(join(1)));
    desk.leave(1, Leaving::Said);
    assert_eq!(desk.refusal(1).code, Code::NotJoined);
}

#[test]
fn edits_kept_after_a_rejoin_are_committed_if_the_join_names_no_session() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.append(entry("c1", 1, "older", 0, insert(0, "x")));
    desk.input(Input::Hint(1));
    assert_eq!(desk.events(1), [Event::Rejoin]);
    desk.edit(1, 0, 2, insert(1, "y"));
    let joined = desk.join_with(Join { session: "new".into(), ..join(1) });
    assert_eq!((joined.last_seq, desk.text().len()), (2, 5));
}

#[test]
fn whoever_read_too_slowly_is_told_what_it_missed() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    for seq in 1..=3 {
        desk.edit(1, seq - 1, seq, insert(0, "x"));
    }
    desk.edit(2, 3, 1, insert(0, "y"));
    let told = desk.events(2);
    let edits: Vec<_> =
        told.into_iter().filter(|event| matches!(event, Event::Edit(_) | Event::EditCommitted { .. })).collect();
    assert_eq!(edits.len(), 4);
    desk.input(Input::CatchUp { connection: ConnectionId(2), after: 1 });
    assert_eq!(desk.events(2), edits[1..], "the same again, its own edit at its place");
    desk.input(Input::CatchUp { connection: ConnectionId(2), after: 4 });
    assert_eq!(desk.events(2), []);
    desk.leave(2, Leaving::Said);
    desk.take(2);
    desk.input(Input::CatchUp { connection: ConnectionId(2), after: 0 });
    assert_eq!(desk.events(2), [], "it left meanwhile");
}

#[test]
fn whoever_missed_more_than_the_window_has_joins_again() {
    let settings = Settings { window_entries: 4, ..Settings::default() };
    let mut desk = Desk::with(settings, Delta::new());
    desk.join(1);
    desk.join(2);
    for seq in 1..=8 {
        desk.edit(1, seq - 1, seq, insert(0, "x"));
    }
    desk.take(2);
    desk.input(Input::CatchUp { connection: ConnectionId(2), after: 1 });
    assert_eq!(desk.events(2), [Event::Rejoin]);
}
