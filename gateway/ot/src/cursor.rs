//! A place in a document that goes forward, for looking at what stands there.
//!
//! In: a document, and lengths. Out: what stands on both sides of the place, and what lies on the way. Where nothing is
//! looked at, nothing is searched for.

use crate::{
    Invalid, Rope,
    leaf::{Leaf, Piece},
    size::{Formatting, Run},
};

/// A place between two characters.
pub(crate) struct Cursor<'a> {
    rope: &'a Rope,
    at: usize,
    /// The first leaf that ends at or behind `at`, and where it begins; it may be an earlier one until it is looked for.
    leaf: Option<(&'a Leaf, usize)>,
    /// The first piece of the leaf that ends at or behind `at`, and how much of it lies before; none: not looked for yet.
    spot: Option<Spot>,
}

#[derive(Clone, Copy)]
struct Spot {
    piece: usize,
    inside: usize,
}

/// A part of a run, as long as it lies in one piece.
pub(crate) struct Part<'a> {
    pub(crate) run: Run<'a>,
    pub(crate) units: usize,
    /// Of its text or value.
    pub(crate) bytes: usize,
}

impl<'a> Cursor<'a> {
    /// The start of the document.
    pub(crate) fn new(rope: &'a Rope) -> Self {
        Self { rope, at: 0, leaf: None, spot: None }
    }

    /// Goes on by so many units.
    pub(crate) fn skip(&mut self, units: usize) -> Result<(), Invalid> {
        self.at = self.end_of(units)?;
        self.spot = None;
        let spot = self.spot();
        if self.piece(spot.piece).is_some_and(|piece| piece.byte(spot.inside).is_none()) {
            return Err(Invalid::InsidePair);
        }
        Ok(())
    }

    /// What comes next, at most so many units of it, and goes behind it.
    pub(crate) fn take(&mut self, most: usize) -> Result<Part<'a>, Invalid> {
        // All of it, so that nobody walks a document for nothing.
        self.end_of(most)?;
        let mut spot = self.spot();
        if self.piece(spot.piece).is_some_and(|piece| spot.inside >= piece.units()) {
            spot = Spot { piece: spot.piece + 1, inside: 0 };
        }
        if self.piece(spot.piece).is_none() {
            self.leaf = self.next_leaf();
            spot = Spot { piece: 0, inside: 0 };
        }
        let piece = self.piece(spot.piece).ok_or(Invalid::PastEnd)?;
        let units = most.min(piece.units() - spot.inside);
        let bytes = piece.content_bytes(spot.inside, spot.inside + units).ok_or(Invalid::InsidePair)?;
        let run = piece.run();
        self.at += units;
        self.spot = Some(Spot { inside: spot.inside + units, ..spot });
        Ok(Part { run, units, bytes })
    }

    /// The text that stands directly before it.
    #[inline]
    pub(crate) fn before(&mut self) -> Formatting<'a> {
        let spot = self.spot();
        let piece = if spot.inside > 0 {
            self.piece(spot.piece)
        } else {
            match spot.piece.checked_sub(1) {
                Some(before) => self.piece(before),
                None => self.leaf_before()?.pieces().last(),
            }
        };
        piece?.run().formatting()
    }

    /// What stands directly behind it.
    pub(crate) fn after(&mut self) -> Option<Run<'a>> {
        let spot = self.spot();
        let here = self.piece(spot.piece).filter(|piece| spot.inside < piece.units());
        let next = || self.next_leaf()?.0.piece(0);
        here.or_else(|| self.piece(spot.piece + 1)).or_else(next).map(Piece::run)
    }

    fn end_of(&self, units: usize) -> Result<usize, Invalid> {
        self.at.checked_add(units).filter(|end| *end <= self.rope.length_utf16()).ok_or(Invalid::PastEnd)
    }

    #[inline]
    fn spot(&mut self) -> Spot {
        if let Some(spot) = self.spot {
            return spot;
        }
        let is_here = |(leaf, start): &(&Leaf, usize)| *start < self.at && self.at <= start + leaf.units();
        self.leaf = self.leaf.filter(is_here).or_else(|| self.rope.root.leaf_at(self.at));
        let (piece, inside) = self.leaf.map_or((0, 0), |(leaf, start)| leaf.find(self.at - start));
        *self.spot.insert(Spot { piece, inside })
    }

    fn leaf_before(&self) -> Option<&'a Leaf> {
        let (_, start) = self.leaf.filter(|(_, start)| *start > 0)?;
        self.rope.root.leaf_at(start).map(|(leaf, _)| leaf)
    }

    fn next_leaf(&self) -> Option<(&'a Leaf, usize)> {
        let (leaf, start) = self.leaf?;
        let end = start + leaf.units();
        if end < self.rope.length_utf16() { self.rope.root.leaf_at(end + 1) } else { None }
    }

    fn piece(&self, index: usize) -> Option<&'a Piece> {
        self.leaf?.0.piece(index)
    }
}
