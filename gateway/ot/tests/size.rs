//! The size of a document is what its content says, however it came to be, and what an edit does to it is known before.

mod common;

use common::{change, document, random, seed};
use ot::{Attributes, Delta, Growth, Op, Rope, Side};
use rand::Rng;
use serde_json::{Value, json};

/// Text as it is, everything else as JSON.
fn counted_bytes(content: &Delta) -> usize {
    let runs = content.ops().iter().map(|op| match (op, op.attributes()) {
        (Op::Insert { text, .. }, None) => text.len(),
        (Op::Insert { text, .. }, Some(map)) => text.len() + 14 + map_bytes(map),
        (Op::Embed { value, .. }, map) => value_bytes(value) + 14 + map.map_or(0, map_bytes),
        (Op::Retain { .. } | Op::Delete { .. }, _) => panic!("a document has inserts only"),
    });
    runs.sum()
}

fn map_bytes(map: &Attributes) -> usize {
    15 + map.iter().map(|(name, value)| name.len() + 4 + value_bytes(value)).sum::<usize>()
}

/// Lists and maps count a comma for each value.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Array(values) => 2 + values.iter().map(|value| value_bytes(value) + 1).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(name, value)| name.len() + 4 + value_bytes(value)).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string().len(),
    }
}

#[test]
fn the_accounted_size_is_that_of_a_fresh_count() {
    let seed = seed();
    for case in 0..400 {
        let mut random = random(seed ^ case);
        // Of a few runs, and of many pieces and leaves.
        let most = if case % 2 == 0 { 4 } else { 300 };
        let mut content = document(&mut random, most);
        if case % 3 == 0 {
            content = long_runs(&mut random, content);
        }
        let mut rope = Rope::from_delta(&content).unwrap();
        for step in 0..60 {
            let edit = far_change(&mut random, &content);
            let before = rope.bytes();
            let growth = rope.growth(&edit).unwrap();
            content = content.compose(&edit).unwrap();
            rope.apply(&edit).unwrap();
            assert_eq!(rope.bytes(), counted_bytes(&content), "case {case}, step {step}: {edit:?}");
            assert_eq!(before.checked_add_signed(growth.bytes), Some(rope.bytes()), "case {case}, step {step}");
            assert!(growth.bytes <= growth.added_bytes as isize, "case {case}, step {step}: {growth:?} {edit:?}");
        }
        assert_eq!(Rope::from_delta(&rope.to_delta()).unwrap().bytes(), rope.bytes(), "case {case}");
    }
}

#[test]
fn edits_made_on_one_document_add_no_more_than_was_said_before() {
    let seed = seed();
    for case in 0..20_000 {
        let mut random = random(seed ^ case);
        let content = document(&mut random, 8);
        let mut rope = Rope::from_delta(&content).unwrap();
        let before = rope.bytes();
        let edits: Vec<Delta> = (0..random.random_range(2..6)).map(|_| change(&mut random, &content)).collect();
        let together = edits.iter().map(|edit| rope.growth(edit).unwrap()).fold(Growth::default(), Growth::and);
        let mut log: Vec<Delta> = Vec::new();
        for edit in &edits {
            let edit = log.iter().fold(edit.clone(), |edit, entry| entry.transform(&edit, Side::Other));
            rope.apply(&edit).unwrap();
            log.push(edit);
        }
        assert!(rope.bytes() <= before + together.most_bytes(), "case {case}: {content:?} {edits:?}");
    }
}

#[test]
fn what_a_small_edit_makes_of_large_formatting_is_known_before() {
    const PLACES: usize = 3_000;
    let large: Attributes = (0..4).map(|index| (format!("comment-{index}"), json!("x".repeat(4_000)))).collect();
    let between = (0..PLACES).fold(Delta::new(), |delta, _| delta.retain(1, None).insert("y", None));
    let formatted = Rope::from_delta(&Delta::new().insert(&"x".repeat(PLACES + 1), Some(large.clone()))).unwrap();
    let growth = formatted.growth(&between).unwrap();
    assert!(growth.bytes > 48_000_000, "{growth:?}");

    // Each character has a formatting of its own.
    let various = (0..PLACES).fold(Delta::new(), |delta, index| {
        delta.insert("x", Some([("color".to_owned(), json!(index))].into_iter().collect()))
    });
    let growth = Rope::from_delta(&various).unwrap().growth(&Delta::new().retain(PLACES, Some(large.clone()))).unwrap();
    assert!(growth.bytes > 48_000_000, "{growth:?}");

    // Neither adds much alone, both together do.
    let plain = Rope::from_delta(&Delta::new().insert(&"x".repeat(PLACES), None)).unwrap();
    let pair = [between, Delta::new().retain(PLACES, Some(large))].map(|edit| plain.growth(&edit).unwrap());
    assert!(pair.iter().all(|growth| growth.bytes < 20_000), "{pair:?}");
    assert!(pair[0].and(pair[1]).most_bytes() > 48_000_000, "{pair:?}");
}

/// The same, in front of it runs that are longer than a piece.
fn long_runs(random: &mut impl Rng, content: Delta) -> Delta {
    let bold = || Some([("bold".to_owned(), json!(true))].into_iter().collect());
    let long = Delta::new().insert(&"word ".repeat(random.random_range(100..1_000)), bold());
    let long = long.insert(&"wörd ".repeat(random.random_range(100..1_000)), None);
    content.ops().iter().cloned().fold(long, |mut delta, op| {
        delta.push(op);
        delta
    })
}

/// A change somewhere in the document.
fn far_change(random: &mut rand::rngs::StdRng, content: &Delta) -> Delta {
    let places = common::places(content);
    let start = random.random_range(0..places.len());
    let rest = Delta::new().delete(places[start]);
    let tail = content.compose(&rest).expect("it fits");
    let mut edit = Delta::new().retain(places[start], None);
    if random.random_range(0..4) == 0 {
        // Over many runs.
        let end = random.random_range(start..places.len());
        let length = places[end] - places[start];
        edit = match random.random_range(0..3) {
            0 => edit.delete(length),
            1 => edit.retain(length, Some([("bold".to_owned(), json!(null))].into_iter().collect())),
            _ => edit.retain(length, Some([("bold".to_owned(), json!(true))].into_iter().collect())),
        };
        return edit.chop();
    }
    for op in change(random, &tail).ops() {
        edit.push(op.clone());
    }
    edit.chop()
}
