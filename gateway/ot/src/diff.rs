//! What changed between two documents.
//!
//! In: two documents. Out: a change that leads from the first to the second. It is the shortest one in characters
//! while the documents are much alike (Myers' greedy search), and keeps at least their common beginning and end where
//! they are not. Formatting does not count as a difference of text: text that stays is kept, and formatted anew.

use serde_json::Value;

use crate::{
    Invalid, Op,
    attributes::{Attributes, compose, diff as diff_attributes, held},
    delta::Delta,
};

/// After so many inserted and deleted characters the search ends with what it has: the memory it takes grows with the
/// square of this (2 MiB here).
const EDITS_MAX: usize = 1024;
/// And after so many comparisons, which are some tens of milliseconds.
const COMPARISONS_MAX: usize = 1 << 23;

/// A character or an embed, which a change never cuts.
#[derive(Clone, Copy)]
struct Unit<'a> {
    content: Content<'a>,
    attributes: Option<&'a Attributes>,
}

#[derive(Clone, Copy, PartialEq)]
enum Content<'a> {
    Character(char),
    Embed(&'a Value),
}

impl Delta {
    /// The change from the document `self` to the document `target`: `self.compose(change) == target`. The same purpose
    /// as quill-delta's `diff`, not always the same change.
    ///
    /// # Errors
    /// [`Invalid::NotADocument`] if one of them has retains or deletes.
    pub fn diff(&self, target: &Delta) -> Result<Delta, Invalid> {
        let (from, to) = (units(self)?, units(target)?);
        let start = common(from.iter().zip(&to));
        let (from_rest, to_rest) = (from.get(start..).unwrap_or_default(), to.get(start..).unwrap_or_default());
        let end = common(from_rest.iter().rev().zip(to_rest.iter().rev()));
        let middle_from = from_rest.get(..from_rest.len() - end).unwrap_or_default();
        let middle_to = to_rest.get(..to_rest.len() - end).unwrap_or_default();

        let mut out = Delta::new();
        keep(&mut out, from.iter().zip(&to).take(start));
        let (mut x, mut y) = (0, 0);
        for run in kept_runs(middle_from, middle_to) {
            replace(&mut out, middle_from.get(x..run.from), middle_to.get(y..run.to));
            (x, y) = (run.from + run.length, run.to + run.length);
            let kept = middle_from.iter().skip(run.from).zip(middle_to.iter().skip(run.to));
            keep(&mut out, kept.take(run.length));
        }
        replace(&mut out, middle_from.get(x..), middle_to.get(y..));
        keep(&mut out, from.iter().skip(from.len() - end).zip(to.iter().skip(to.len() - end)));
        out.chop_in_place();
        Ok(out)
    }
}

/// A stretch that both have.
struct Run {
    from: usize,
    to: usize,
    length: usize,
}

/// The stretches that stay, in order. `furthest[d][k]` is how far one gets in `from` with `d` edits on the diagonal on
/// which `2k - d` more characters have been deleted than inserted.
fn kept_runs(from: &[Unit<'_>], to: &[Unit<'_>]) -> Vec<Run> {
    if from.is_empty() || to.is_empty() {
        return Vec::new();
    }
    let mut furthest: Vec<Vec<u32>> = Vec::new();
    let mut comparisons = 0_usize;
    for edits in 0..=EDITS_MAX.min(from.len() + to.len()) {
        let mut row = vec![0_u32; edits + 1];
        // The nearest to both ends, should the search have to stop here.
        let mut best = (0, 0);
        for (k, slot) in row.iter_mut().enumerate() {
            let x = entered(furthest.last().map(Vec::as_slice), k, edits).1;
            let Some(y) = (x + edits).checked_sub(2 * k).filter(|y| *y <= to.len() && x <= from.len()) else {
                // Outside of the two texts; whoever comes from here is too.
                *slot = x as u32;
                continue;
            };
            let run = common(from.iter().skip(x).zip(to.iter().skip(y)));
            comparisons += run + 1;
            *slot = (x + run) as u32;
            if x + run == from.len() && y + run == to.len() {
                furthest.push(row);
                return walk_back(&furthest, k, from.len(), to.len());
            }
            best = best.max((x + y + 2 * run, k));
            if comparisons > COMPARISONS_MAX {
                break;
            }
        }
        furthest.push(row);
        if edits == EDITS_MAX || comparisons > COMPARISONS_MAX {
            let k = best.1;
            let x = at(furthest.last().map(Vec::as_slice), k).unwrap_or(0);
            return walk_back(&furthest, k, x, (x + edits).saturating_sub(2 * k));
        }
    }
    Vec::new()
}

/// How a diagonal is best entered from the row before: by a deletion (from `k - 1`) or an insertion (from `k`).
fn entered(before: Option<&[u32]>, k: usize, edits: usize) -> (bool, usize) {
    if edits == 0 {
        return (false, 0);
    }
    let deleting = k.checked_sub(1).and_then(|k| at(before, k)).map(|x| x + 1);
    let inserting = at(before, k).filter(|_| k < edits);
    match (deleting, inserting) {
        (Some(deleting), Some(inserting)) if deleting > inserting => (true, deleting),
        (Some(deleting), None) => (true, deleting),
        (_, inserting) => (false, inserting.unwrap_or(0)),
    }
}

fn at(row: Option<&[u32]>, k: usize) -> Option<usize> {
    row.and_then(|row| row.get(k)).map(|x| *x as usize)
}

/// Collects the runs along the way that led to `(x, y)`.
fn walk_back(furthest: &[Vec<u32>], k: usize, x: usize, y: usize) -> Vec<Run> {
    let (mut k, mut x, mut y) = (k, x, y);
    let mut runs = Vec::new();
    for edits in (0..furthest.len()).rev() {
        let before = edits.checked_sub(1).and_then(|row| furthest.get(row)).map(Vec::as_slice);
        let (by_deletion, start) = entered(before, k, edits);
        let length = x - start;
        if length > 0 {
            runs.push(Run { from: start, to: y - length, length });
        }
        (x, y) = (start, y - length);
        if edits > 0 {
            (k, x, y) = if by_deletion { (k - 1, x - 1, y) } else { (k, x, y - 1) };
        }
    }
    runs.reverse();
    runs
}

/// How many pairs from the start are alike.
fn common<'a>(pairs: impl Iterator<Item = (&'a Unit<'a>, &'a Unit<'a>)>) -> usize {
    pairs.take_while(|(a, b)| a.content == b.content).count()
}

/// The same text, with the formatting of the second.
fn keep<'a>(out: &mut Delta, pairs: impl Iterator<Item = (&'a Unit<'a>, &'a Unit<'a>)>) {
    for (from, to) in pairs {
        let change = diff_attributes(from.attributes, to.attributes);
        let reached = compose(from.attributes, change.as_ref(), false);
        if reached.as_ref() == to.attributes {
            out.push(Op::Retain { length: from.length(), attributes: change });
        } else {
            // A `null` that stands in a document cannot be set, only inserted.
            out.push(to.to_op());
            out.push(Op::Delete { length: from.length() });
        }
    }
}

fn replace(out: &mut Delta, from: Option<&[Unit<'_>]>, to: Option<&[Unit<'_>]>) {
    for unit in to.unwrap_or_default() {
        out.push(unit.to_op());
    }
    out.push(Op::Delete { length: from.unwrap_or_default().iter().map(Unit::length).sum() });
}

impl Unit<'_> {
    fn length(&self) -> usize {
        match self.content {
            Content::Character(character) => character.len_utf16(),
            Content::Embed(_) => 1,
        }
    }

    fn to_op(self) -> Op {
        let attributes = self.attributes.cloned().and_then(held);
        match self.content {
            Content::Character(character) => Op::Insert { text: character.to_string(), attributes },
            Content::Embed(value) => Op::Embed { value: value.clone(), attributes },
        }
    }
}

fn units(document: &Delta) -> Result<Vec<Unit<'_>>, Invalid> {
    let mut out = Vec::new();
    for op in document.ops() {
        let attributes = op.attributes();
        match op {
            Op::Insert { text, .. } => {
                out.extend(text.chars().map(|character| Unit { content: Content::Character(character), attributes }));
            }
            Op::Embed { value, .. } => out.push(Unit { content: Content::Embed(value), attributes }),
            Op::Retain { .. } | Op::Delete { .. } => return Err(Invalid::NotADocument),
        }
    }
    Ok(out)
}
