//! Walks the components of a delta in pieces.
//!
//! In: a delta. Out: its components, whole or cut to a length; behind the end stands an endless retain, as in
//! quill-delta's iterator.

use crate::{
    Invalid,
    attributes::Attributes,
    byte_index,
    delta::{Delta, Op},
};

/// What kind of component comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert,
    Retain,
    Delete,
}

/// A place in a delta.
pub(crate) struct Walk<'a> {
    ops: &'a [Op],
    index: usize,
    /// How many units of the component at `index` have been taken.
    taken: usize,
    /// The length of the component at `index`, counted once; endless behind the last one.
    length: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(delta: &'a Delta) -> Self {
        Self { ops: &delta.ops, index: 0, taken: 0, length: length_of(delta.ops.first()) }
    }

    pub(crate) fn has_next(&self) -> bool {
        self.index < self.ops.len()
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.ops.get(self.index) {
            Some(Op::Insert { .. } | Op::Embed { .. }) => Kind::Insert,
            Some(Op::Delete { .. }) => Kind::Delete,
            Some(Op::Retain { .. }) | None => Kind::Retain,
        }
    }

    /// What is left of the present component.
    pub(crate) fn left(&self) -> usize {
        self.length - self.taken
    }

    pub(crate) fn attributes(&self) -> Option<&'a Attributes> {
        self.ops.get(self.index).and_then(Op::attributes)
    }

    /// Goes on by `length` units, which must not be more than [`Self::left`].
    pub(crate) fn skip(&mut self, length: usize) {
        self.taken += length;
        if self.taken >= self.length && self.has_next() {
            self.index += 1;
            self.taken = 0;
            self.length = length_of(self.ops.get(self.index));
        }
    }

    /// The next `length` units of the present component (an insert, retain or delete) as a component of their own.
    pub(crate) fn take(&mut self, length: usize) -> Result<Op, Invalid> {
        let op = match self.ops.get(self.index) {
            None => Op::Retain { length, attributes: None },
            Some(Op::Retain { attributes, .. }) => Op::Retain { length, attributes: attributes.clone() },
            Some(Op::Delete { .. }) => Op::Delete { length },
            Some(embed @ Op::Embed { .. }) => embed.clone(),
            Some(Op::Insert { text, attributes }) if length == self.length => {
                Op::Insert { text: text.clone(), attributes: attributes.clone() }
            }
            Some(Op::Insert { text, attributes }) => {
                let from = byte_index(text, self.taken).ok_or(Invalid::InsidePair)?;
                let tail = text.get(from..).ok_or(Invalid::InsidePair)?;
                let cut = byte_index(tail, length).ok_or(Invalid::InsidePair)?;
                let part = tail.get(..cut).ok_or(Invalid::InsidePair)?;
                Op::Insert { text: part.to_owned(), attributes: attributes.clone() }
            }
        };
        self.skip(length);
        Ok(op)
    }
}

/// The length of a component; endless behind the last one.
fn length_of(op: Option<&Op>) -> usize {
    op.map_or(usize::MAX, Op::length)
}
