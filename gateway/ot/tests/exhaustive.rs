//! The laws on every small case: all documents of up to four characters, all changes of them, all pairs, and all triples
//! of shorter ones.
//!
//! What two changes do together does not depend on the letters of the document, so pairs and triples are compared as
//! changes (`a` then `b'` against `b` then `a'`), which says it for all documents of that length at once.

use ot::{Attributes, Bias, Delta, Op, Rope, Side, cross};
use serde_json::{Value, json};

/// What may happen to one character.
#[derive(Clone, Copy)]
enum Fate {
    Keep,
    Delete,
    Bold,
    Plain,
}
use Fate::{Bold, Delete, Keep, Plain};

#[test]
fn every_change_of_every_document_applies_inverts_and_moves_positions() {
    let mut cases = 0_u64;
    let units = [letter("a", None), letter("a", bold(json!(true))), embed()];
    for length in 0..=4 {
        let changes = changes(length, &[Keep, Delete, Bold, Plain], "x", if length < 4 { usize::MAX } else { 1 });
        for document in documents(length, &units) {
            for change in &changes {
                let after = document.compose(change).unwrap();
                let mut rope = Rope::from_delta(&document).unwrap();
                rope.apply(change).unwrap();
                assert_eq!(rope.to_delta(), after, "{document:?} {change:?}");
                let back = change.invert(&document).unwrap();
                assert_eq!(after.compose(&back).as_ref(), Ok(&document), "{document:?} {change:?} {back:?}");
                let difference = document.diff(&after).unwrap();
                assert_eq!(document.compose(&difference).as_ref(), Ok(&after), "{document:?} {after:?}");
                for result in [&after, &back, &difference] {
                    assert_normal(result);
                }
                cases += 1;
            }
        }
        for change in &changes {
            for index in 0..=length {
                for bias in [Bias::Before, Bias::After] {
                    let moved = change.transform_position(index, bias);
                    assert_eq!(moved, counted_position(change, index, bias), "{change:?} {index} {bias:?}");
                }
            }
        }
    }
    println!("{cases} changes of documents");
    assert!(cases > 100_000);
}

#[test]
fn every_pair_of_changes_ends_in_one_document() {
    let mut cases = 0_u64;
    for length in 0..=4 {
        let fates: &[Fate] = if length < 4 { &[Keep, Delete, Bold, Plain] } else { &[Keep, Delete, Bold] };
        let pending = changes(length, fates, "x", usize::MAX);
        let committed = changes(length, fates, "y", usize::MAX);
        for p in &pending {
            for c in &committed {
                let (p_moved, c_moved) = cross(p, c);
                let here = p.compose(&c_moved).unwrap();
                let there = c.compose(&p_moved).unwrap();
                assert_eq!(here, there, "{p:?} {c:?}");
                cases += 1;
            }
        }
        // Normal form where it is likely to break: at every pair of a smaller set.
        for p in pending.iter().step_by(7) {
            for c in committed.iter().step_by(5) {
                assert_normal(&p.transform(c, Side::This));
                assert_normal(&p.transform(c, Side::Other));
                assert_normal(&p.compose(&c.transform(p, Side::Other)).unwrap());
            }
        }
    }
    println!("{cases} pairs");
    assert!(cases > 1_000_000);
}

#[test]
fn every_chain_of_three_composes_in_any_order() {
    let mut cases = 0_u64;
    for length in 0..=2 {
        for a in &changes(length, &[Keep, Delete, Bold], "x", 1) {
            for b in &changes(length_after(length, a), &[Keep, Delete, Plain], "y", 1) {
                let ab = a.compose(b).unwrap();
                for c in &changes(length_after(length_after(length, a), b), &[Keep, Delete, Bold], "z", 1) {
                    let left = ab.compose(c).unwrap();
                    let right = a.compose(&b.compose(c).unwrap()).unwrap();
                    assert_eq!(left, right, "{a:?} {b:?} {c:?}");
                    cases += 1;
                }
            }
        }
    }
    println!("{cases} chains of three");
    assert!(cases > 200_000);
}

/// The classic puzzle of three sites: all three change one document at once. The log has them in the order `x`, `y`,
/// `z`; each site has applied its own first and takes the others' entries one by one, as the log has them.
#[test]
fn every_three_sites_end_in_one_document() {
    let mut cases = 0_u64;
    for length in 0..=3 {
        let inserts_max = if length < 3 { usize::MAX } else { 1 };
        let [xs, ys, zs] = ["x", "y", "z"].map(|text| changes(length, &[Keep, Delete, Bold], text, inserts_max));
        for x in &xs {
            for y in &ys {
                let (y_logged, x_at_y) = cross(y, x);
                let log = x.compose(&y_logged).unwrap();
                assert_eq!(y.compose(&x_at_y).unwrap(), log, "{x:?} {y:?}");
                for z in &zs {
                    let (z_over_x, x_at_z) = cross(z, x);
                    let (z_logged, y_at_z) = cross(&z_over_x, &y_logged);
                    let expected = log.compose(&z_logged).unwrap();
                    let site = z.compose(&x_at_z).unwrap().compose(&y_at_z).unwrap();
                    assert_eq!(site, expected, "{x:?} {y:?} {z:?}");
                    cases += 1;
                }
            }
        }
    }
    println!("{cases} sites of three");
    assert!(cases > 500_000);
}

/// One writer is two edits ahead when somebody else's is committed.
#[test]
fn every_remote_change_crosses_two_unconfirmed_ones() {
    let mut cases = 0_u64;
    for length in 0..=2 {
        for first in &changes(length, &[Keep, Delete, Bold], "p", 1) {
            for second in &changes(length_after(length, first), &[Keep, Delete, Plain], "q", 1) {
                let shown = first.compose(second).unwrap();
                for remote in &changes(length, &[Keep, Delete, Bold, Plain], "r", 2) {
                    let (first_logged, remote_behind) = cross(first, remote);
                    let (second_logged, remote_shown) = cross(second, &remote_behind);
                    let log = remote.compose(&first_logged).unwrap().compose(&second_logged).unwrap();
                    assert_eq!(shown.compose(&remote_shown).unwrap(), log, "{first:?} {second:?} {remote:?}");
                    cases += 1;
                }
            }
        }
    }
    println!("{cases} remote changes over two unconfirmed");
    assert!(cases > 100_000);
}

/// Every change of a document of `length` characters with at most so many places of insertion, each once, in normal form.
fn changes(length: usize, fates: &[Fate], text: &str, inserts_max: usize) -> Vec<Delta> {
    let mut out = Vec::new();
    extend(Delta::new(), length, fates, text, inserts_max, &mut out);
    out
}

fn extend(so_far: Delta, left: usize, fates: &[Fate], text: &str, inserts: usize, out: &mut Vec<Delta>) {
    let deletes_last = matches!(so_far.ops().last(), Some(Op::Delete { .. }));
    let mut ways = vec![(so_far.clone(), inserts)];
    // Behind a deletion an insert would be the same as before it.
    if inserts > 0 && !deletes_last {
        ways.push((so_far.insert(text, None), inserts - 1));
    }
    for (way, inserts) in ways {
        if left == 0 {
            out.push(way.chop());
            continue;
        }
        for fate in fates {
            let next = match fate {
                Keep => way.clone().retain(1, None),
                Delete => way.clone().delete(1),
                Bold => way.clone().retain(1, bold(json!(true))),
                Plain => way.clone().retain(1, bold(Value::Null)),
            };
            extend(next, left - 1, fates, text, inserts, out);
        }
    }
}

fn documents(length: usize, units: &[Op]) -> Vec<Delta> {
    let mut out = vec![Delta::new()];
    for _ in 0..length {
        let longer = |document: &Delta| {
            units
                .iter()
                .map(|unit| {
                    let mut longer = document.clone();
                    longer.push(unit.clone());
                    longer
                })
                .collect::<Vec<_>>()
        };
        out = out.iter().flat_map(longer).collect();
    }
    out
}

/// Where a position is, by counting what stands before it.
fn counted_position(change: &Delta, index: usize, bias: Bias) -> usize {
    let (mut base, mut moved) = (0, index);
    for op in change.ops() {
        match op {
            Op::Insert { .. } | Op::Embed { .. } => {
                if base < index || (base == index && bias == Bias::After) {
                    moved += op.length();
                }
            }
            Op::Retain { length, .. } => base += length,
            Op::Delete { length } => {
                moved -= (*length).min(index.saturating_sub(base));
                base += length;
            }
        }
    }
    moved
}

fn length_after(length: usize, change: &Delta) -> usize {
    let inserted: usize = change.ops().iter().filter(|op| op.is_insert()).map(Op::length).sum();
    let deleted: usize = change.ops().iter().filter(|op| matches!(op, Op::Delete { .. })).map(Op::length).sum();
    length + inserted - deleted
}

fn assert_normal(delta: &Delta) {
    assert_eq!(Delta::from_normal(delta.ops().to_vec()).as_ref(), Ok(delta));
}

fn letter(text: &str, attributes: Option<Attributes>) -> Op {
    Op::Insert { text: text.to_owned(), attributes }
}

fn embed() -> Op {
    Op::Embed { value: json!({ "image": 1 }), attributes: None }
}

fn bold(value: Value) -> Option<Attributes> {
    Some([("bold".to_owned(), value)].into_iter().collect())
}
