//! The laws on every small case: all documents of up to four characters, all changes of them, all pairs, and all triples
//! of shorter ones.
//!
//! A change keeps, deletes, makes bold or makes plain (`null`) each character, and inserts. Where "anything" is inserted,
//! it is a letter, a bold letter, an embed or a pair of surrogates, and the document has characters of either width.
//! - single changes: a letter at any places of up to four characters; anything at two places of up to three.
//! - pairs: a letter at any places of up to three characters, of four without `null`, at one place of four with it;
//!   anything at two places of up to two characters, at one place of three.
//! - chains, three sites, two unconfirmed: a letter in up to two or three characters; anything in one or two.
//!
//! Not covered: two unlike inserts at one place of one change, more than one attribute.
//!
//! What two changes do together does not depend on the letters of the document but on their widths, so pairs and triples
//! are compared as changes (`a` then `b'` against `b` then `a'`), which says it for all documents of these widths at once.

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

const ALL: &[Fate] = &[Keep, Delete, Bold, Plain];
const ANYWHERE: usize = usize::MAX;

/// A set of changes: what may happen to each character, what may be inserted, and at how many places at most.
#[derive(Clone, Copy)]
struct Changes<'a> {
    fates: &'a [Fate],
    inserts: &'a [Op],
    places_max: usize,
}

/// What one writer may insert, unlike the others' inserts.
struct Writer([Op; 4]);

impl Writer {
    fn new(text: &str, pair: &str) -> Self {
        Self([letter(text, None), letter(text, bold(json!(true))), embed(text), letter(pair, None)])
    }

    fn letter(&self) -> &[Op] {
        &self.0[..1]
    }

    fn anything(&self) -> &[Op] {
        &self.0
    }
}

#[test]
fn every_change_of_every_document_applies_and_inverts() {
    let mut cases = 0_u64;
    let writer = Writer::new("x", "😁");
    let units = [letter("a", None), letter("a", bold(json!(true))), embed("a"), letter("😀", None)];
    for length in 0..=4 {
        for document in documents(length, &units) {
            let mut sets = vec![Changes { fates: ALL, inserts: writer.letter(), places_max: ANYWHERE }];
            if length < 4 {
                sets.push(Changes { fates: ALL, inserts: writer.anything(), places_max: 2 });
            }
            for change in sets.iter().flat_map(|set| set.of(&widths(&document))) {
                let after = document.compose(&change).unwrap();
                let mut rope = Rope::from_delta(&document).unwrap();
                rope.apply(&change).unwrap();
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
    }
    println!("{cases} changes of documents");
    assert!(cases > 1_500_000);
}

#[test]
fn every_change_moves_every_position() {
    let mut cases = 0_u64;
    let writer = Writer::new("x", "😁");
    for widths in (0..=3).flat_map(all_widths) {
        for change in (Changes { fates: ALL, inserts: writer.anything(), places_max: 2 }).of(&widths) {
            for index in 0..=widths.iter().sum() {
                for bias in [Bias::Before, Bias::After] {
                    let moved = change.transform_position(index, bias);
                    assert_eq!(moved, counted_position(&change, index, bias), "{change:?} {index} {bias:?}");
                    cases += 1;
                }
            }
        }
    }
    println!("{cases} positions");
    assert!(cases > 100_000);
}

#[test]
fn every_pair_of_changes_ends_in_one_document() {
    let mut cases = 0_u64;
    let mut check = |widths: &[usize], fates: &[Fate], inserts: fn(&Writer) -> &[Op], places_max: usize| {
        let [pending, committed] = [Writer::new("x", "😁"), Writer::new("y", "😂")]
            .map(|writer| Changes { fates, inserts: inserts(&writer), places_max }.of(widths));
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
                assert_normal(&p.compose(&p.transform(c, Side::This)).unwrap());
            }
        }
    };
    for length in 0..=3 {
        check(&vec![1; length], ALL, Writer::letter, ANYWHERE);
    }
    check(&[1; 4], &[Keep, Delete, Bold], Writer::letter, ANYWHERE);
    check(&[1; 4], ALL, Writer::letter, 1);
    for widths in (0..=2).flat_map(all_widths) {
        check(&widths, ALL, Writer::anything, 2);
    }
    check(&[1; 3], ALL, Writer::anything, 1);
    println!("{cases} pairs");
    assert!(cases > 6_000_000);
}

#[test]
fn every_chain_of_three_composes_in_any_order() {
    let mut cases = 0_u64;
    let [x, y, z] = [Writer::new("x", "😁"), Writer::new("y", "😂"), Writer::new("z", "😃")];
    let mut check = |widths: &[usize], inserts: fn(&Writer) -> &[Op]| {
        let [xs, ys, zs] =
            [(&x, Bold), (&y, Plain), (&z, Bold)].map(|(writer, fate)| ([Keep, Delete, fate], inserts(writer)));
        let set = |(fates, inserts): &([Fate; 3], &[Op]), widths: &[usize]| {
            Changes { fates, inserts, places_max: 1 }.of(widths)
        };
        for a in &set(&xs, widths) {
            let after_a = widths_after(widths, a);
            for b in &set(&ys, &after_a) {
                let ab = a.compose(b).unwrap();
                for c in &set(&zs, &widths_after(&after_a, b)) {
                    let left = ab.compose(c).unwrap();
                    let right = a.compose(&b.compose(c).unwrap()).unwrap();
                    assert_eq!(left, right, "{a:?} {b:?} {c:?}");
                    cases += 1;
                }
            }
        }
    };
    for length in 0..=2 {
        check(&vec![1; length], Writer::letter);
    }
    for widths in (0..=1).flat_map(all_widths) {
        check(&widths, Writer::anything);
    }
    println!("{cases} chains of three");
    assert!(cases > 900_000);
}

/// The classic puzzle of three sites: all three change one document at once. The log has them in the order `x`, `y`,
/// `z`; each site has applied its own first and takes the others' entries one by one, as the log has them.
#[test]
fn every_three_sites_end_in_one_document() {
    let mut cases = 0_u64;
    let mut check = |widths: &[usize], inserts: fn(&Writer) -> &[Op], places_max: usize| {
        let [xs, ys, zs] = [Writer::new("x", "😁"), Writer::new("y", "😂"), Writer::new("z", "😃")]
            .map(|writer| Changes { fates: &[Keep, Delete, Bold], inserts: inserts(&writer), places_max }.of(widths));
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
    };
    for length in 0..=2 {
        check(&vec![1; length], Writer::letter, ANYWHERE);
    }
    check(&[1; 3], Writer::letter, 1);
    for widths in (0..=1).flat_map(all_widths) {
        check(&widths, Writer::anything, 2);
    }
    check(&[1; 2], Writer::anything, 1);
    println!("{cases} sites of three");
    assert!(cases > 2_500_000);
}

/// One writer is two edits ahead when somebody else's is committed.
#[test]
fn every_remote_change_crosses_two_unconfirmed_ones() {
    let mut cases = 0_u64;
    let [p, q, r] = [Writer::new("p", "😁"), Writer::new("q", "😂"), Writer::new("r", "😃")];
    let mut check = |widths: &[usize], inserts: fn(&Writer) -> &[Op]| {
        let firsts = Changes { fates: &[Keep, Delete, Bold], inserts: inserts(&p), places_max: 1 };
        let seconds = Changes { fates: &[Keep, Delete, Plain], inserts: inserts(&q), places_max: 1 };
        let remotes = Changes { fates: ALL, inserts: inserts(&r), places_max: 2 }.of(widths);
        for first in &firsts.of(widths) {
            for second in &seconds.of(&widths_after(widths, first)) {
                let shown = first.compose(second).unwrap();
                for remote in &remotes {
                    let (first_logged, remote_behind) = cross(first, remote);
                    let (second_logged, remote_shown) = cross(second, &remote_behind);
                    let log = remote.compose(&first_logged).unwrap().compose(&second_logged).unwrap();
                    assert_eq!(shown.compose(&remote_shown).unwrap(), log, "{first:?} {second:?} {remote:?}");
                    cases += 1;
                }
            }
        }
    };
    for length in 0..=2 {
        check(&vec![1; length], Writer::letter);
    }
    for widths in (0..=1).flat_map(all_widths) {
        check(&widths, Writer::anything);
    }
    println!("{cases} remote changes over two unconfirmed");
    assert!(cases > 400_000);
}

impl Changes<'_> {
    /// Every change of a document whose characters are so wide, each once, in normal form.
    fn of(self, widths: &[usize]) -> Vec<Delta> {
        let mut out = Vec::new();
        self.extend(Delta::new(), widths, self.places_max, &mut out);
        out
    }

    fn extend(self, so_far: Delta, widths: &[usize], places: usize, out: &mut Vec<Delta>) {
        let deletes_last = matches!(so_far.ops().last(), Some(Op::Delete { .. }));
        let mut ways = vec![(so_far.clone(), places)];
        // Behind a deletion an insert would be the same as before it.
        if places > 0 && !deletes_last {
            ways.extend(self.inserts.iter().map(|insert| {
                let mut way = so_far.clone();
                way.push(insert.clone());
                (way, places - 1)
            }));
        }
        for (way, places) in ways {
            let Some((width, rest)) = widths.split_first() else {
                out.push(way.chop());
                continue;
            };
            for fate in self.fates {
                let next = match fate {
                    Keep => way.clone().retain(*width, None),
                    Delete => way.clone().delete(*width),
                    Bold => way.clone().retain(*width, bold(json!(true))),
                    Plain => way.clone().retain(*width, bold(Value::Null)),
                };
                self.extend(next, rest, places, out);
            }
        }
    }
}

/// All rows of so many characters, each one unit wide or two.
fn all_widths(length: usize) -> Vec<Vec<usize>> {
    (0..1_usize << length).map(|bits| (0..length).map(|index| 1 + (bits >> index & 1)).collect()).collect()
}

/// How wide a document's characters are.
fn widths(document: &Delta) -> Vec<usize> {
    document.plain_text().chars().map(char::len_utf16).collect()
}

/// How wide they are after a change.
fn widths_after(widths: &[usize], change: &Delta) -> Vec<usize> {
    let document = widths.iter().fold(Delta::new(), |out, width| out.insert(["a", "😀"][width - 1], None));
    self::widths(&document.compose(change).expect("it fits"))
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

fn assert_normal(delta: &Delta) {
    assert_eq!(Delta::from_normal(delta.ops().to_vec()).as_ref(), Ok(delta));
}

fn letter(text: &str, attributes: Option<Attributes>) -> Op {
    Op::Insert { text: text.to_owned(), attributes }
}

fn embed(name: &str) -> Op {
    Op::Embed { value: json!({ "image": name }), attributes: None }
}

fn bold(value: Value) -> Option<Attributes> {
    Some([("bold".to_owned(), value)].into_iter().collect())
}
