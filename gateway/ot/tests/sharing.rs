//! Large formatting that comes to stand in many places is in memory once.

use ot::{Attributes, Delta, Op, Rope, Side};
use serde_json::json;

const PLACES: usize = 3_000;

/// Some 16 KiB.
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

fn formattings(delta: &Delta) -> Vec<&Attributes> {
    delta.ops().iter().filter_map(Op::attributes).collect()
}

fn assert_one(delta: &Delta, count: usize) {
    let all = formattings(delta);
    assert_eq!(all.len(), count);
    assert!(all.iter().all(|one| one.is_shared_with(all[0])), "it was copied");
}

#[test]
fn text_that_is_split_shares_its_formatting() {
    let content = Delta::new().insert(&"x".repeat(PLACES), Some(large("comment")));
    let mut rope = Rope::from_delta(&content).unwrap();
    rope.apply(&between()).unwrap();
    assert_one(&rope.to_delta(), PLACES);
    assert_one(&content.compose(&between()).unwrap(), PLACES);
}

#[test]
fn a_retain_that_is_carried_over_inserts_shares_its_formatting() {
    let comment = Delta::new().retain(PLACES, Some(large("comment")));
    for side in [Side::This, Side::Other] {
        assert_one(&between().transform(&comment, side), PLACES);
        assert_one(&various().transform(&comment, side), 1);
    }
}

#[test]
fn formattings_that_are_made_of_one_share_its_values() {
    let mut rope = Rope::from_delta(&Delta::new().insert(&"x".repeat(PLACES), None)).unwrap();
    rope.apply(&various()).unwrap();
    rope.apply(&Delta::new().retain(PLACES, Some(large("comment")))).unwrap();
    let content = rope.to_delta();
    let all = formattings(&content);
    assert_eq!(all.len(), PLACES);
    let value = |attributes: &Attributes| std::ptr::from_ref(attributes.get("comment-3").expect("it was set"));
    assert!(all.iter().all(|one| value(one) == value(all[0])), "it was copied");
}
