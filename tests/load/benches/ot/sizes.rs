//! What an edit costs in documents of any size: typing at one place, at both ends by turns, and at random places.
//!
//! In: nothing. Out: a line for each document; rows of the table, the largest document beside the smallest. At random
//! places a large document also costs what lies outside the processor's caches, which no index helps against: these rows
//! have no target.

use std::cell::RefCell;

use anyhow::{Context, Result};
use load::{cpu, figures::Row};
use ot::{Delta, Rope};

const BYTES: [usize; 5] = [1 << 10, 10 << 10, 100 << 10, 1 << 20, 4 << 20];
/// The largest document beside the smallest.
const RATIO_MAX: f64 = 2.0;
const EDITS: usize = 1 << 14;
/// So many characters are inserted and then taken out again, the last one first: the document stays what it is.
const BURST: usize = 64;
/// Of a richly formatted document.
const FORMAT_EVERY: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Places {
    One,
    BothEnds,
    Random,
}

pub(crate) fn rows() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (kind, document) in [("plain", plain as fn(usize) -> Delta), ("formatted", formatted)] {
        for (place, places) in
            [("one place", Places::One), ("both ends", Places::BothEnds), ("random places", Places::Random)]
        {
            let costs_ns = BYTES.map(|bytes| cost_ns(&document(bytes), places));
            let costs_ns = costs_ns.into_iter().collect::<Result<Vec<f64>>>()?;
            for (bytes, cost_ns) in BYTES.iter().zip(&costs_ns) {
                println!("apply, {kind}, {place}, {} KB: {cost_ns:.0} ns", bytes >> 10);
            }
            let (smallest, largest) = costs_ns.first().zip(costs_ns.last()).context("there are sizes")?;
            let ratio = largest / smallest;
            let is_cached = !matches!(places, Places::Random);
            rows.push(Row {
                what: format!("OT apply at {place}, {kind}, 4 MB beside 1 KB"),
                figure: format!("{largest:.0} / {smallest:.0} ns = {ratio:.1}"),
                target: if is_cached { format!("≤ {RATIO_MAX}") } else { String::new() },
                peers: String::new(),
                is_met: is_cached.then_some(ratio <= RATIO_MAX),
            });
        }
    }
    Ok(rows)
}

fn cost_ns(document: &Delta, places: Places) -> Result<f64> {
    let edits = edits(document.length(), places);
    let rope = RefCell::new(Rope::from_delta(document)?);
    let round_ns = cpu::ns(|| {
        let mut rope = rope.borrow_mut();
        for edit in &edits {
            rope.apply(edit).expect("it fits");
        }
        rope.length_utf16()
    })?;
    assert_eq!(rope.borrow().to_delta(), *document, "a round ends where it began");
    Ok(round_ns / edits.len() as f64)
}

fn edits(length: usize, places: Places) -> Vec<Delta> {
    let mut random = Random(1);
    let mut out = Vec::with_capacity(EDITS);
    while out.len() < EDITS {
        let burst: Vec<usize> = (0..BURST)
            .map(|index| match places {
                Places::One => length / 2 + index,
                Places::BothEnds if index % 2 == 0 => 5,
                Places::BothEnds => length + index - 5,
                Places::Random => random.below(length),
            })
            .collect();
        out.extend(burst.iter().map(|at| Delta::new().retain(*at, None).insert("x", None)));
        out.extend(burst.iter().rev().map(|at| Delta::new().retain(*at, None).delete(1)));
    }
    out
}

fn plain(bytes: usize) -> Delta {
    let words = "Lorem ipsum dolor sit amet. ".repeat(bytes / 28 + 1);
    Delta::new().insert(&words[..bytes], None)
}

fn formatted(bytes: usize) -> Delta {
    let mut out = Delta::new();
    for index in 0..bytes / FORMAT_EVERY {
        let bold = (index % 2 == 0).then(|| [("bold".to_owned(), true.into())].into_iter().collect());
        out = out.insert("sit amet", bold);
    }
    out
}

/// Marsaglia's xorshift: the same places each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}
