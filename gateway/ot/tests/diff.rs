//! The difference of two documents: it leads from one to the other, is in normal form, and is short.

mod common;

use common::{attributes, change, document, random, seed};
use ot::{Attributes, Delta, Invalid, Op};
use rand::Rng;
use serde_json::json;

const CASES: u64 = 20_000;

#[test]
fn the_difference_leads_from_one_document_to_the_other() {
    let seed = seed();
    for case in 0..CASES {
        let mut random = random(seed ^ case);
        let from = document(&mut random, 6);
        // Half of them are relatives, as after a reconnect, half are strangers.
        let to =
            if case % 2 == 0 { from.compose(&change(&mut random, &from)).unwrap() } else { document(&mut random, 6) };
        check(&from, &to);
        assert_eq!(from.diff(&from).unwrap(), Delta::new(), "case {case}");
    }
}

#[test]
fn nothing_shorter_leads_there() {
    let seed = seed();
    for case in 0..CASES {
        let mut random = random(seed ^ case);
        let (from, to) = (plain(&mut random), plain(&mut random));
        let change = check(&from, &to);
        let (a, b): (Vec<char>, Vec<char>) = (from.plain_text().chars().collect(), to.plain_text().chars().collect());
        assert_eq!(
            moved(&change),
            a.len() + b.len() - 2 * longest_common_subsequence(&a, &b),
            "case {case}: {from:?} {to:?}"
        );
    }
}

#[test]
fn formatting_is_changed_where_text_stays() {
    let bold = json!({ "bold": true }).as_object().cloned().map(Attributes::from);
    let red = json!({ "color": "red" }).as_object().cloned().map(Attributes::from);
    let from = Delta::new().insert("ab😀", bold.clone());
    let to = Delta::new().insert("a", None).insert("b", bold).insert("😀", red);
    let off = json!({ "bold": null }).as_object().cloned().map(Attributes::from);
    let swap = json!({ "bold": null, "color": "red" }).as_object().cloned().map(Attributes::from);
    assert_eq!(from.diff(&to).unwrap(), Delta::new().retain(1, off).retain(1, None).retain(2, swap));
}

#[test]
fn a_null_that_stands_in_a_document_is_led_to_as_well() {
    let null = json!({ "bold": null }).as_object().cloned().map(Attributes::from);
    let (without, with) = (Delta::new().insert("ab", None), Delta::new().insert("ab", null));
    check(&without, &with);
    check(&with, &without);
}

#[test]
fn pairs_that_share_a_half_are_not_cut() {
    // U+1F600 and U+1F601 begin with the same unit, U+1F600 and U+1FA00 end with the same.
    for (from, to) in [("😀", "😁"), ("\u{1F600}", "\u{1FA00}"), ("a😀😀b", "a😀b"), ("😀😁", "😁😀")]
    {
        check(&Delta::new().insert(from, None), &Delta::new().insert(to, None));
    }
}

#[test]
fn large_documents_take_bounded_work() {
    let mut random = random(seed());
    let words = |random: &mut rand::rngs::StdRng| -> Delta {
        let text: String = (0..1 << 19).map(|_| char::from(random.random_range(b'a'..=b'e'))).collect();
        Delta::new().insert(&text, None)
    };
    let from = words(&mut random);
    // Strangers: the search gives up and what is left is replaced.
    check(&from, &words(&mut random));
    // One long document with a few scattered changes: each is found.
    let mut to = from.clone();
    for at in [500_000, 300_000, 100_000, 7] {
        to = to.compose(&Delta::new().retain(at, None).insert("XY", None).delete(1)).unwrap();
    }
    assert_eq!(moved(&check(&from, &to)), 4 * 3);
}

#[test]
fn only_documents_have_a_difference() {
    let document = Delta::new().insert("a", None);
    assert_eq!(document.diff(&Delta::new().delete(1)), Err(Invalid::NotADocument));
    assert_eq!(Delta::new().delete(1).diff(&document), Err(Invalid::NotADocument));
}

fn check(from: &Delta, to: &Delta) -> Delta {
    let change = from.diff(to).expect("a document has a difference from every other");
    assert_eq!(from.compose(&change).as_ref(), Ok(to), "{change:?}");
    assert_eq!(Delta::from_stored(change.ops().to_vec()).as_ref(), Ok(&change), "normal form");
    change
}

/// Units that are inserted and deleted.
fn moved(change: &Delta) -> usize {
    change.ops().iter().filter(|op| !matches!(op, Op::Retain { .. })).map(Op::length).sum()
}

/// A short text of few letters, partly formatted: what changes of it counts in characters.
fn plain(random: &mut rand::rngs::StdRng) -> Delta {
    (0..random.random_range(0..12)).fold(Delta::new(), |delta, _| {
        let letter = ["a", "b", "c"][random.random_range(0..3)];
        let formatting = attributes(random, false);
        delta.insert(letter, formatting)
    })
}

fn longest_common_subsequence(a: &[char], b: &[char]) -> usize {
    let mut row = vec![0_usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (at, y) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if x == y { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row[b.len()]
}
