//! Undoing an edit that others have worked on since: its inverse, carried over what came after it.
//!
//! In: random documents in which every character is there once, an edit, and edits of others after it. Out: what the
//! edit inserted is gone as far as it was still there, what it deleted is back, and nothing else has changed.

#![allow(clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::collections::BTreeSet;

use ot::{Delta, cross};
use rand::{Rng, rngs::StdRng};

const CASES: u64 = 3_000;

/// Hands out characters, each once; every third is a surrogate pair.
struct Alphabet(u32);

impl Alphabet {
    fn text(&mut self, length: usize) -> String {
        let next = |_| {
            self.0 += 1;
            let first = if self.0.is_multiple_of(3) { 0x2_0000 } else { 0x4e00 };
            char::from_u32(first + self.0).expect("a character")
        };
        (0..length).map(next).collect()
    }

    /// A change of this text, with what it inserts and what it deletes.
    fn change(&mut self, random: &mut StdRng, text: &str) -> (Delta, BTreeSet<char>, BTreeSet<char>) {
        let (mut delta, mut inserted, mut deleted) = (Delta::new(), BTreeSet::new(), BTreeSet::new());
        for character in text.chars() {
            if random.random_bool(0.2) {
                let length = random.random_range(1..4);
                let fresh = self.text(length);
                delta = delta.insert(&fresh, None);
                inserted.extend(fresh.chars());
            }
            if random.random_bool(0.3) {
                delta = delta.delete(character.len_utf16());
                deleted.insert(character);
            } else {
                delta = delta.retain(character.len_utf16(), None);
            }
        }
        (delta.chop(), inserted, deleted)
    }
}

#[test]
fn an_edit_partly_deleted_by_others_is_undone_as_far_as_it_is_still_there() {
    let seed = common::seed();
    let mut met = 0;
    for case in 0..CASES {
        let mut random = common::random(seed ^ case);
        let mut alphabet = Alphabet(0);
        let base = alphabet.text(8);
        let document = Delta::new().insert(&base, None);
        let (edit, mine, _) = alphabet.change(&mut random, &base);
        let mut shown = document.compose(&edit).expect("it fits");
        let mut undo = edit.invert(&document).expect("it fits");
        let mut expected: BTreeSet<char> = base.chars().collect();
        for _ in 0..random.random_range(1..4) {
            let (theirs, inserted, deleted) = alphabet.change(&mut random, &shown.plain_text());
            met += deleted.intersection(&mine).count();
            expected.extend(inserted);
            expected.retain(|character| !deleted.contains(character));
            shown = shown.compose(&theirs).expect("it fits");
            (undo, _) = cross(&undo, &theirs);
        }
        let undone = shown.compose(&undo).unwrap_or_else(|why| panic!("case {case}: {why}"));
        let text = undone.plain_text();
        assert_eq!(text.chars().filter(|one| mine.contains(one)).count(), 0, "case {case}: {text}");
        assert_eq!(text.chars().count(), expected.len(), "case {case}: nothing is there twice");
        assert_eq!(text.chars().collect::<BTreeSet<_>>(), expected, "case {case}");
        let old: Vec<char> = text.chars().filter(|one| base.contains(*one)).collect();
        let in_order: Vec<char> = base.chars().filter(|one| expected.contains(one)).collect();
        assert_eq!(old, in_order, "case {case}: what is back is where it was");
        // To undo it once more brings back what it took, and no more.
        let redone = undone.compose(&undo.invert(&shown).expect("it fits")).expect("it fits");
        assert_eq!(redone, shown, "case {case}");
    }
    assert!(met > 1_000, "others deleted only {met} characters of the edits");
}
