//! Small edits that would make a document, or what is sent of it, very large.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use common::{Desk, edit, entry, join};
use document::{
    Batch, Code, Command, ConnectionId, Document, Event, Form, Input, Join, JoinedContent, Role, Settings, Snapshot,
};
use ot::{Attributes, Delta, Op};
use serde_json::json;

/// Characters, each of which can be a run of its own.
const PLACES: usize = 3_000;

/// As large as one component may have it, nearly.
fn large(name: &str) -> Attributes {
    (0..4).map(|index| (format!("{name}-{index}"), json!("x".repeat(4_000)))).collect()
}

/// One plain character after each of the document's.
fn between() -> Delta {
    (0..PLACES).fold(Delta::new(), |delta, _| delta.retain(1, None).insert("y", None))
}

/// A formatting of its own for each character.
fn various() -> Delta {
    (0..PLACES).fold(Delta::new(), |delta, index| {
        delta.retain(1, Some([("color".to_owned(), json!(index))].into_iter().collect()))
    })
}

fn comment() -> Delta {
    Delta::new().retain(PLACES, Some(large("comment")))
}

fn plain() -> Delta {
    Delta::new().insert(&"x".repeat(PLACES), None)
}

fn joined(content: Delta, connections: u64) -> Desk {
    let mut desk = Desk::with(Settings::default(), content);
    for id in 1..=connections {
        desk.join(id);
    }
    desk
}

/// How many formattings are in memory for those that the components have.
fn copies(delta: &Delta) -> usize {
    let mut seen: Vec<&Attributes> = Vec::new();
    for attributes in delta.ops().iter().filter_map(Op::attributes) {
        if !seen.iter().rev().any(|one| one.is_shared_with(attributes)) {
            seen.push(attributes);
        }
    }
    seen.len()
}

fn batches(desk: &mut Desk) -> Vec<Batch> {
    let held = std::mem::take(&mut desk.held).into_iter();
    held.filter_map(|command| if let Command::Commit(batch) = command { Some(batch) } else { None }).collect()
}

#[test]
fn splitting_a_run_of_large_formatting_is_refused() {
    let mut desk = joined(Delta::new(), 1);
    desk.edit(1, 0, 1, Delta::new().insert(&"x".repeat(PLACES), Some(large("comment"))));
    desk.take(1);
    desk.edit(1, 1, 2, between());
    assert_eq!(desk.refusal(1).code, Code::DocumentTooLarge);
    assert!(desk.document.content().weight_bytes() < 20_000);
}

#[test]
fn large_formatting_of_many_runs_is_refused_to_those_who_may_comment_too() {
    let mut desk = joined(plain(), 1);
    desk.edit(1, 0, 1, various());
    desk.roles.insert(2, Role::Comment);
    desk.join(2);
    desk.edit(2, 1, 1, comment());
    assert_eq!(desk.refusal(2).code, Code::DocumentTooLarge);
    // What they may say of all of it, they may.
    desk.join_with(again(2, "new"));
    let short = Some([("comment-1".to_owned(), json!("good"))].into_iter().collect());
    desk.edit(2, 1, 1, Delta::new().retain(PLACES, short));
    assert_eq!(desk.log.len(), 2);
}

#[test]
fn edits_that_explode_together_are_not_sent_together() {
    for (first, second) in [(between(), comment()), (comment(), between()), (various(), comment())] {
        let mut desk = joined(plain(), 3);
        desk.hold = true;
        // Under way while the others come.
        desk.edit(3, 0, 1, Delta::new().delete(1));
        desk.edit(1, 0, 1, first);
        desk.edit(2, 0, 1, second);
        let under_way = batches(&mut desk);
        let reply = desk.commit(&under_way[0]);
        desk.input(Input::Committed(reply));
        let next = batches(&mut desk);
        assert_eq!(next.iter().map(|batch| batch.entries.len()).collect::<Vec<_>>(), [1]);
        let reply = desk.commit(&next[0]);
        desk.input(Input::Committed(reply));
        desk.take(2);
        // Whether an older copy of it is in the log.
        desk.release();
        assert_eq!(desk.refusal(2).code, Code::DocumentTooLarge);
    }
}

#[test]
fn a_call_adds_little_by_formatting_that_others_cut_into_pieces_at_the_same_time() {
    let mut desk = joined(plain(), 41);
    desk.hold = true;
    desk.edit(41, 0, 1, Delta::new().delete(1));
    for id in 1..=20 {
        // 48 MB, if each character gets a formatting of its own meanwhile.
        desk.edit(id, 0, 1, comment());
        desk.edit(id + 20, 0, 1, Delta::new().insert("typed", None));
    }
    let under_way = batches(&mut desk);
    let reply = desk.commit(&under_way[0]);
    desk.input(Input::Committed(reply));
    let next = batches(&mut desk);
    let formatting = next[0].entries.iter().filter(|entry| copies(&entry.ops) > 0).count();
    assert_eq!(formatting, 1);
    // Nobody waits for ever.
    let reply = desk.commit(&next[0]);
    desk.input(Input::Committed(reply));
    desk.release();
    assert_eq!(desk.log.len(), 41);
}

/// Another pod's edit of `content`, under way when those of this one were checked.
fn others(desk: &mut Desk, client: &str, ops: Delta) {
    desk.append(entry(client, 1, "far", 0, ops));
    let version = desk.log.len();
    desk.input(Input::Learned(vec![desk.log[version - 1].clone()]));
}

/// `between` on one pod and `comment` on another, neither of which has seen the other's.
fn attacked(connections: u64) -> Desk {
    let mut desk = joined(plain(), connections);
    desk.take(1);
    others(&mut desk, "far1", between());
    others(&mut desk, "far2", comment());
    desk
}

fn again(id: u64, session: &str) -> Join {
    Join { session: session.into(), ..join(id) }
}

#[test]
fn what_two_pods_make_of_each_others_edits_is_in_memory_once_and_sent_to_nobody() {
    let mut desk = attacked(2);
    let content = desk.document.content();
    assert!(content.weight_bytes() > 48_000_000, "{}", content.weight_bytes());
    assert_eq!(copies(&content), 1);
    assert!(content.held_bytes() < 200_000, "{}", content.held_bytes());
    let events = desk.events(1);
    assert!(matches!(&events[..], [Event::Edit(_), Event::Rejoin]), "{} events", events.len());
    // Nor in the entries that a join brings.
    let named = Join { version: Some(1), hash: Some("h1".into()), form: Form::Text, ..again(1, "new") };
    assert!(matches!(desk.join_with(named).content, JoinedContent::Text(text) if text.len() == 2 * PLACES));
}

#[test]
fn the_writer_of_an_entry_that_is_sent_to_nobody_goes_on() {
    let mut desk = joined(plain(), 2);
    desk.take(1);
    desk.take(2);
    desk.hold = true;
    desk.input(Input::Edit(edit(1, 0, None, comment())));
    let under_way = batches(&mut desk);
    desk.append(entry("far1", 1, "far", 0, between()));
    desk.hold = false;
    let reply = desk.commit(&under_way[0]);
    desk.input(Input::Committed(reply));
    assert!(matches!(&desk.events(1)[..], [Event::Edit(_), Event::EditCommitted { .. }]));
    assert!(matches!(&desk.events(2)[..], [Event::Edit(_), Event::Rejoin]));
    desk.edit(1, 2, 1, Delta::new().delete(PLACES));
    assert_eq!(desk.log.len(), 3);
    // Who reads slowly joins again as well: what came before that is not told once more.
    desk.input(Input::CatchUp { connection: ConnectionId(2), after: 1 });
    assert!(desk.events(2).is_empty());
}

#[test]
fn a_document_that_became_too_large_is_neither_stored_nor_given_but_as_text_until_it_is_smaller() {
    let eager = Settings { snapshot_tail_entries: 1, snapshot_tail_bytes: 0, ..Settings::default() };
    let mut desk = Desk::with(eager, plain());
    others(&mut desk, "far1", between());
    let before = saved(&desk);
    others(&mut desk, "far2", comment());
    desk.tick(60_000);
    desk.input(Input::Saved(1));
    desk.tick(60_000);
    assert_eq!(saved(&desk), before, "it would be of 48 MB");
    for form in [Form::Delta, Form::Quill] {
        desk.input(Input::Join(Join { form, ..join(1) }));
        let why = desk.refusal(1);
        assert_eq!(why.code, Code::DocumentTooLarge);
        assert!(why.message.contains("join it as text"), "{why:?}");
    }
    assert_eq!(desk.log.len(), 2, "no newline was added for those who cannot join");

    // Whoever has the text can make it smaller, and nothing else.
    desk.join_with(Join { form: Form::Text, ..join(2) });
    desk.take(2);
    desk.edit(2, 2, 1, Delta::new().insert("more", None));
    assert_eq!(desk.refusal(2).code, Code::DocumentTooLarge);
    desk.join_with(Join { form: Form::Text, ..again(2, "new") });
    desk.edit(2, 2, 1, Delta::new().delete(PLACES / 10));
    assert_eq!(desk.log.len(), 3, "smaller, if not small");
    desk.edit(2, 3, 2, Delta::new().delete(PLACES));
    desk.edit(2, 4, 3, Delta::new().delete(2 * PLACES - PLACES / 10 - PLACES));
    assert_eq!(desk.log.len(), 5);
    let joined = desk.join_with(again(3, "later"));
    assert!(matches!(joined.content, JoinedContent::Ops(ops) if ops.is_empty()));
    assert!(saved(&desk) > before, "it is stored again");
}

#[test]
fn everybody_folds_what_became_too_large_alike_also_from_the_log() {
    let mut desk = attacked(1);
    // Made before all of it, and behind it in the log: the large entry pushes nothing out that is still needed.
    others(&mut desk, "far3", Delta::new().retain(1, None).insert("late", None));
    assert!(!desk.commands.contains(&Command::Reopen));
    let snapshot = Snapshot { content: plain(), ..common::start("") };
    let opened = Document::open(Settings::default(), "pod2".into(), snapshot, desk.log.clone(), 0).expect("it opens");
    assert_eq!(opened.content(), desk.document.content());
    assert_eq!(copies(&opened.content()), 1);
}

#[test]
fn an_edit_that_waits_while_others_cut_what_it_formats_holds_little_and_is_refused() {
    // Formatting is set, and taken away where there is none: the second makes no document larger.
    let none: Attributes = (0..3).map(|index| (format!("{index}{}", "n".repeat(5_000)), json!(null))).collect();
    for formatting in [large("comment"), none] {
        let mut desk = joined(plain(), 2);
        desk.hold = true;
        desk.edit(2, 0, 1, Delta::new().delete(1));
        desk.edit(1, 0, 1, Delta::new().retain(PLACES, Some(formatting)));
        let under_way = batches(&mut desk);
        desk.append(entry("far1", 1, "far", 0, between()));
        let reply = desk.commit(&under_way[0]);
        desk.input(Input::Committed(reply));
        assert!(desk.document.held_bytes() < 200_000, "{}", desk.document.held_bytes());
        assert!(batches(&mut desk).is_empty(), "it would be of 48 MB");
        desk.take(1);
        desk.hold = false;
        desk.tick(6_000);
        assert_eq!(desk.refusal(1).code, Code::DocumentTooLarge);
        assert_eq!(desk.log.len(), 2);
    }
}

fn saved(desk: &Desk) -> usize {
    desk.commands.iter().filter(|command| matches!(command, Command::Save(_))).count()
}
