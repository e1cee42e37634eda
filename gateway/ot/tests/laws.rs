//! The laws that editing together rests on, on random documents and changes.

mod common;

use common::{Nulls, attributes, change, document, document_of, places, random, seed};
use ot::{Bias, Delta, Invalid, MAX_ATTRIBUTE_BYTES, Op, Rope, Side, cross};

const CASES: u64 = 20_000;

#[test]
fn two_changes_give_one_document_whichever_is_applied_first() {
    let seed = seed();
    for case in 0..CASES {
        let mut random = random(seed ^ case);
        let base = document(&mut random, 5);
        let (a, b) = (change(&mut random, &base), change(&mut random, &base));
        let (pending, committed) = cross(&a, &b);
        let through_b = base.compose(&b).unwrap().compose(&pending).unwrap();
        let through_a = base.compose(&a).unwrap().compose(&committed).unwrap();
        assert_eq!(through_a, through_b, "case {case}: {base:?} {a:?} {b:?}");
    }
}

#[test]
fn composing_may_be_done_in_any_order() {
    let seed = seed();
    for case in 0..CASES {
        let mut random = random(seed ^ case);
        let base = document(&mut random, 5);
        let a = change(&mut random, &base);
        let after_a = base.compose(&a).unwrap();
        let b = change(&mut random, &after_a);
        let after_b = after_a.compose(&b).unwrap();
        let c = change(&mut random, &after_b);
        let left = a.compose(&b).unwrap().compose(&c).unwrap();
        let right = a.compose(&b.compose(&c).unwrap()).unwrap();
        assert_eq!(left, right, "case {case}: {a:?} {b:?} {c:?}");
        assert_eq!(base.compose(&left).unwrap(), after_b.compose(&c).unwrap(), "case {case}");
    }
}

#[test]
fn a_change_and_its_inverse_lead_back() {
    let seed = seed();
    for case in 0..CASES {
        let mut random = random(seed ^ case);
        let base = document(&mut random, 5);
        let a = change(&mut random, &base);
        let back = a.invert(&base).unwrap();
        assert_eq!(base.compose(&a).unwrap().compose(&back).unwrap(), base, "case {case}: {base:?} {a:?}");
    }
}

#[test]
fn everything_that_comes_out_is_in_normal_form() {
    let seed = seed();
    for case in 0..CASES {
        let mut random = random(seed ^ case);
        let base = document(&mut random, 5);
        let (a, b) = (change(&mut random, &base), change(&mut random, &base));
        let after = base.compose(&a).unwrap();
        let c = change(&mut random, &after);
        for delta in [a.transform(&b, Side::Other), b.transform(&a, Side::This), a.compose(&c).unwrap(), after] {
            assert_eq!(Delta::from_normal(delta.ops().to_vec()).as_ref(), Ok(&delta), "case {case}");
        }
    }
}

#[test]
fn the_rope_shows_what_composing_gives() {
    let seed = seed();
    for case in 0..300 {
        let mut random = random(seed ^ case);
        let mut content = document(&mut random, 400);
        let mut rope = Rope::from_delta(&content).unwrap();
        for step in 0..60 {
            let edit = change(&mut random, &content);
            content = content.compose(&edit).unwrap();
            rope.apply(&edit).unwrap();
            assert_eq!(rope.length_utf16(), content.length(), "case {case}, step {step}");
            if step % 10 == 0 {
                assert_eq!(rope.to_delta(), content, "case {case}, step {step}");
                assert_eq!(rope.text(), content.plain_text(), "case {case}, step {step}");
            }
        }
        assert_eq!(rope.to_delta(), content, "case {case}");
        assert_eq!(rope.ends_with_newline(), content.plain_text().ends_with('\n'), "case {case}");
        let mut fresh = Rope::from_delta(&content).unwrap();
        fresh.apply(&Delta::new()).unwrap();
        let clear = Delta::new().delete(content.length());
        rope.apply(&clear).unwrap();
        assert_eq!((rope.length_utf16(), rope.bytes()), (0, 0), "case {case}");
    }
}

/// Long enough for branches above branches.
#[test]
fn a_document_of_many_leaves_shows_what_composing_gives() {
    use rand::Rng;
    let mut random = random(seed());
    let mut content = document_of(&mut random, 12_000, Nulls::OnRetainsOnly);
    let mut rope = Rope::from_delta(&content).unwrap();
    for step in 0..160 {
        let places = places(&content);
        let mut place = |most: usize| {
            let from = random.random_range(0..places.len());
            let to = (from + random.random_range(0..=most)).min(places.len() - 1);
            (places[from], places[to] - places[from])
        };
        // Mostly a few characters, now and then half of the document.
        let (from, length) = place(if step % 16 == 0 { places.len() / 2 } else { 1 << (step % 8) });
        let start = Delta::new().retain(from, None);
        let edit = match step % 4 {
            0 => start.retain(length, attributes(&mut random, true)),
            1 | 2 => start.delete(length),
            _ => document_of(&mut random, 1 << (step % 12), Nulls::OnRetainsOnly).ops().iter().fold(
                start,
                |mut edit, op| {
                    edit.push(op.clone());
                    edit
                },
            ),
        };
        let edit = edit.chop();
        content = content.compose(&edit).unwrap();
        rope.apply(&edit).unwrap();
        assert_eq!(rope.length_utf16(), content.length(), "step {step}");
        if step % 20 == 0 {
            assert!(rope.to_delta() == content, "step {step}: {edit:?}");
        }
    }
    assert!(rope.to_delta() == content);
}

#[test]
fn a_long_document_takes_scattered_typing() {
    let seed = seed();
    let mut random = random(seed);
    let mut naive: Vec<u16> = Vec::new();
    let mut rope = Rope::default();
    for _ in 0..4_000 {
        use rand::Rng;
        let at = random.random_range(0..=naive.len());
        if random.random_bool(0.7) || naive.len() < 100 {
            let words = "word ".repeat(random.random_range(1..60));
            rope.apply(&Delta::new().retain(at, None).insert(&words, None)).unwrap();
            naive.splice(at..at, words.encode_utf16());
        } else {
            let length = random.random_range(0..=(naive.len() - at).min(900));
            rope.apply(&Delta::new().retain(at, None).delete(length)).unwrap();
            naive.drain(at..at + length);
        }
        assert_eq!(rope.length_utf16(), naive.len());
    }
    assert_eq!(rope.text(), String::from_utf16(&naive).unwrap());
    assert_eq!(rope.bytes(), naive.len());
}

#[test]
fn an_edit_past_the_end_or_inside_a_pair_changes_nothing() {
    let content = Delta::new().insert("a😀b", None);
    let mut rope = Rope::from_delta(&content).unwrap();
    let past = Delta::new().retain(5, None).insert("x", None);
    assert_eq!(rope.apply(&past), Err(Invalid::PastEnd));
    let inside = Delta::new().insert("x", None).retain(2, None).insert("y", None);
    assert_eq!(rope.apply(&inside), Err(Invalid::InsidePair));
    let half = Delta::new().retain(1, None).delete(1);
    assert_eq!(rope.apply(&half), Err(Invalid::InsidePair));
    let huge = Delta::new().delete(usize::MAX);
    assert_eq!(rope.apply(&huge), Err(Invalid::PastEnd));
    assert_eq!(rope.to_delta(), content);
}

#[test]
fn a_change_that_cuts_a_pair_does_not_compose() {
    let content = Delta::new().insert("😀", None);
    assert_eq!(content.compose(&Delta::new().delete(1)), Err(Invalid::InsidePair));
}

#[test]
fn later_committed_words_stand_first_and_stay_words() {
    let committed = Delta::new().insert("hello ", None);
    let later = Delta::new().insert("world ", None);
    let carried = committed.transform(&later, Side::Other);
    assert_eq!(committed.compose(&carried).unwrap().plain_text(), "world hello ");
}

#[test]
fn positions_move_with_their_bias() {
    let insert = Delta::new().retain(2, None).insert("xyz", None);
    assert_eq!(insert.transform_position(2, Bias::Before), 2);
    assert_eq!(insert.transform_position(2, Bias::After), 5);
    assert_eq!(insert.transform_position(1, Bias::After), 1);
    let delete = Delta::new().retain(1, None).delete(3);
    assert_eq!(delete.transform_position(2, Bias::After), 1);
    assert_eq!(delete.transform_position(9, Bias::After), 6);
}

#[test]
fn what_push_would_have_written_otherwise_is_refused() {
    let insert = |text: &str| Op::Insert { text: text.to_owned(), attributes: None };
    let retain = |length| Op::Retain { length, attributes: None };
    let delete = |length| Op::Delete { length };
    let cases = [
        (vec![insert("")], Invalid::ZeroLength),
        (vec![delete(0)], Invalid::ZeroLength),
        (vec![retain(0), insert("a")], Invalid::ZeroLength),
        (vec![insert("a"), insert("b")], Invalid::Unmerged),
        (vec![retain(1), retain(1), insert("a")], Invalid::Unmerged),
        (vec![delete(1), delete(1)], Invalid::Unmerged),
        (vec![delete(1), insert("a")], Invalid::DeleteBeforeInsert),
        (vec![insert("a"), retain(3)], Invalid::TrailingRetain),
        (vec![retain(usize::MAX), delete(2)], Invalid::Overflow),
        (vec![Op::Embed { value: serde_json::json!(7), attributes: None }], Invalid::EmbedNotObject),
        (vec![Op::Retain { length: 1, attributes: Some([].into_iter().collect()) }], Invalid::EmptyAttributes),
    ];
    for (ops, expected) in cases {
        assert_eq!(Delta::from_normal(ops.clone()), Err(expected), "{ops:?}");
    }
    assert!(Delta::from_normal(Vec::new()).is_ok());
    assert!(Delta::from_normal(vec![insert("a"), delete(1)]).is_ok());
}

#[test]
fn limits_are_kept() {
    let with = |value| Op::Retain { length: 1, attributes: Some([("a".to_owned(), value)].into_iter().collect()) };
    let mut deep = serde_json::json!(1);
    for _ in 0..8 {
        deep = serde_json::json!([deep]);
    }
    assert_eq!(Delta::from_normal(vec![with(deep)]), Err(Invalid::AttributeTooLarge));
    assert_eq!(Delta::from_normal(vec![with("x".repeat(5000).into())]), Err(Invalid::AttributeTooLarge));
    // Four values of 4 KiB, their names and quotes are more than 16 KiB.
    let wide = |count| {
        let one = |index: usize| (format!("{index}"), "x".repeat(MAX_ATTRIBUTE_BYTES - 2).into());
        vec![Op::Retain { length: 1, attributes: Some((0..count).map(one).collect()) }]
    };
    assert!(Delta::from_normal(wide(3)).is_ok());
    assert_eq!(Delta::from_normal(wide(4)), Err(Invalid::AttributesTooLarge));
    assert!(Delta::from_stored(wide(4)).is_ok(), "in a document the attributes of many edits come together");
    let many = (0..10_001).map(|index| Op::Insert {
        text: "x".to_owned(),
        attributes: Some([("a".to_owned(), index.into())].into_iter().collect()),
    });
    assert_eq!(Delta::from_normal(many.collect()), Err(Invalid::TooManyComponents));
}

#[test]
fn numbers_have_one_form() {
    let with = |json: &str| {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        Op::Insert { text: "x".to_owned(), attributes: Some([("size".to_owned(), value)].into_iter().collect()) }
    };
    assert_eq!(Delta::from_normal(vec![with("12.0"), with("12")]), Err(Invalid::Unmerged));
}

#[test]
fn places_are_where_characters_begin() {
    assert_eq!(places(&Delta::new().insert("a😀", None)), [0, 1, 3]);
}
