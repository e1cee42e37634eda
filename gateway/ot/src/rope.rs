//! A document's content, as a pod keeps it.
//!
//! In: a document, then edits. Out: the document after them, its length and its text. Text lies in pieces of about a
//! kilobyte, pieces in leaves of a few dozen, leaves in one list; edits find their place from where the last one was. So
//! the cost of an edit depends on its own size and on how far it jumps (a few nanoseconds for each leaf that it passes),
//! not on the size of the document.

use crate::{
    Attributes, Delta, Invalid, Op,
    attributes::{Held, compose},
    leaf::{Leaf, Piece},
    size::document_bytes,
};

/// A document's content, indexed by UTF-16 units.
#[derive(Debug, Clone, Default)]
pub struct Rope {
    /// None of them empty.
    pub(crate) leaves: Vec<Leaf>,
    units: usize,
    bytes: usize,
    /// Where the last edit was.
    pub(crate) finger: Place,
}

/// A leaf and the position at which it begins.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) leaf: usize,
    pub(crate) start: usize,
}

impl Rope {
    /// The document that these inserts make.
    ///
    /// # Errors
    /// [`Invalid::NotADocument`] if there are retains or deletes.
    pub fn from_delta(content: &Delta) -> Result<Self, Invalid> {
        if !content.is_document() {
            return Err(Invalid::NotADocument);
        }
        let mut rope = Self { bytes: document_bytes(content), ..Self::default() };
        for op in &content.ops {
            for piece in Piece::of(op) {
                rope.units += piece.units();
                match rope.leaves.last_mut() {
                    Some(leaf) if leaf.has_room() => leaf.push(piece),
                    _ => rope.leaves.push(Leaf::new(vec![piece])),
                }
            }
        }
        Ok(rope)
    }

    /// Applies an edit, or changes nothing.
    ///
    /// # Errors
    /// [`Invalid::PastEnd`] if it reaches past the end of the document, [`Invalid::InsidePair`] if a position lies
    /// between the two halves of a surrogate pair.
    pub fn apply(&mut self, edit: &Delta) -> Result<(), Invalid> {
        let growth = self.growth(edit)?;
        self.bytes = self.bytes.saturating_add_signed(growth.bytes);
        let mut at = 0;
        for op in &edit.ops {
            match op {
                Op::Insert { .. } | Op::Embed { .. } => at += self.insert(at, op),
                Op::Retain { length, attributes: None } => at += length,
                Op::Retain { length, attributes: Some(change) } => {
                    self.format(at, *length, change);
                    at += length;
                }
                Op::Delete { length } => self.delete(at, *length),
            }
        }
        Ok(())
    }

    /// The document as inserts, in normal form.
    pub fn to_delta(&self) -> Delta {
        let mut out = Delta::new();
        for piece in self.pieces() {
            out.push(piece.to_op());
        }
        out
    }

    /// The document as text, an embed as U+FFFC.
    pub fn text(&self) -> String {
        let mut out = String::with_capacity(self.units);
        for piece in self.pieces() {
            piece.write_text(&mut out);
        }
        out
    }

    /// Its length in UTF-16 units.
    pub fn length_utf16(&self) -> usize {
        self.units
    }

    /// Its size: text as UTF-8; embeds, and the attributes of each run of text that has some, as JSON. What the limit on
    /// documents counts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// About how many bytes it takes in memory; it looks at every piece.
    pub fn memory_bytes(&self) -> usize {
        self.leaves.iter().map(Leaf::memory_bytes).sum()
    }

    /// Whether it ends in a newline, as Quill wants it.
    pub fn ends_with_newline(&self) -> bool {
        self.leaves.last().is_some_and(Leaf::ends_with_newline)
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.leaves.iter().flat_map(Leaf::pieces)
    }

    /// The first leaf that ends at or behind `at`.
    pub(crate) fn find(&self, from: Place, at: usize) -> Place {
        let mut place = if from.leaf < self.leaves.len() { from } else { Place::default() };
        while place.start >= at && place.leaf > 0 {
            place.leaf -= 1;
            place.start -= self.leaves.get(place.leaf).map_or(0, Leaf::units);
        }
        while let Some(leaf) = self.leaves.get(place.leaf) {
            if place.start + leaf.units() >= at || place.leaf + 1 >= self.leaves.len() {
                break;
            }
            place.start += leaf.units();
            place.leaf += 1;
        }
        place
    }

    /// Inserts text or an embed; gives its length.
    fn insert(&mut self, at: usize, op: &Op) -> usize {
        if self.leaves.is_empty() {
            self.leaves.push(Leaf::new(Vec::new()));
        }
        self.finger = self.find(self.finger, at);
        let place = self.finger;
        let Some(leaf) = self.leaves.get_mut(place.leaf) else { return 0 };
        let units = leaf.units();
        leaf.insert(at - place.start, op);
        let added = leaf.units() - units;
        self.units += added;
        if let Some(more) = leaf.split() {
            let next = place.leaf + 1;
            self.leaves.splice(next..next, more);
        }
        added
    }

    fn delete(&mut self, at: usize, length: usize) {
        self.each_leaf(at, length, |leaf, from, length| {
            leaf.delete(from, length);
        });
    }

    fn format(&mut self, at: usize, length: usize, change: &Attributes) {
        // Pieces of one run share what comes of it.
        let mut last: Option<(Held, Held)> = None;
        let mut formatted = |old: Option<&Attributes>| match &last {
            Some((before, new)) if before.as_ref() == old => new.clone(),
            _ => last.insert((old.cloned(), compose(old, Some(change), false))).1.clone(),
        };
        self.each_leaf(at, length, |leaf, from, length| leaf.format(from, length, &mut formatted));
    }

    /// Does something to a range, leaf by leaf; a leaf that it empties is dropped, one that it fills is split.
    fn each_leaf(&mut self, at: usize, length: usize, mut each: impl FnMut(&mut Leaf, usize, usize)) {
        let mut left = length;
        // A leaf that ends exactly here has no part in it.
        let mut place = self.find(self.finger, at);
        let mut at = at;
        while left > 0 {
            let Some(leaf) = self.leaves.get_mut(place.leaf) else { break };
            let units = leaf.units();
            let from = at - place.start;
            let part = left.min(units - from);
            if part > 0 {
                each(leaf, from, part);
            }
            left -= part;
            let kept = leaf.units();
            self.units = self.units + kept - units;
            // What was deleted is gone, what was formatted is passed.
            at += part - (units - kept);
            if kept == 0 {
                self.leaves.remove(place.leaf);
                continue;
            }
            let split = leaf.split();
            let added = split.as_ref().map_or(0, Vec::len);
            if let Some(more) = split {
                let next = place.leaf + 1;
                self.leaves.splice(next..next, more);
            }
            if left > 0 {
                place.start += kept;
                place.leaf += 1 + added;
            }
        }
        if place.leaf >= self.leaves.len() {
            place = Place::default();
        }
        self.finger = place;
        self.join_small(place);
    }

    /// Puts two neighbouring leaves together when both have become small, so that deletions leave no dust.
    fn join_small(&mut self, place: Place) {
        let small = |leaf: Option<&Leaf>| leaf.is_some_and(Leaf::is_small);
        if small(self.leaves.get(place.leaf)) && small(self.leaves.get(place.leaf + 1)) {
            let next = self.leaves.remove(place.leaf + 1);
            if let Some(leaf) = self.leaves.get_mut(place.leaf) {
                leaf.append(next);
            }
        }
    }
}
