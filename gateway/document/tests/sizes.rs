//! Small edits that would make a document, or what is sent of it, very large.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use common::{Desk, join};
use document::{Batch, Code, Command, Input, Role, Settings};
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
    desk.join_with(document::Join { session: "new".into(), ..join(2) });
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
