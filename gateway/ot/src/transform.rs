//! Carrying a change, or a position, over another one that was made at the same time.
//!
//! In: two deltas on one document. Out: the second one, as it applies after the first.

use crate::{
    attributes::transform as transform_attributes,
    delta::{Delta, Op},
    iter::{Kind, Walk},
};

/// Whose insert stands first, and whose attribute value wins, where both deltas of [`Delta::transform`] want the same
/// place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `self` stands first and wins: quill-delta's `this.transform(other, true)`.
    This,
    /// `other`, the one being carried, stands first and wins: quill-delta's `this.transform(other, false)`. In this
    /// project the later committed edit stands first: `committed.transform(&later, Side::Other)`.
    Other,
}

/// Where a position goes when something is inserted exactly there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// It stays before the insert: quill-delta's `transformPosition(index, true)`.
    Before,
    /// It moves behind the insert: quill-delta's `transformPosition(index)`.
    After,
}

/// Carries a pending edit and a committed one over each other, both made on the same document: the pending one as it
/// applies after `committed`, and the committed one as it applies after `pending`. The pending one will be committed
/// later and so stands first.
pub fn cross(pending: &Delta, committed: &Delta) -> (Delta, Delta) {
    (committed.transform(pending, Side::Other), pending.transform(committed, Side::This))
}

impl Delta {
    /// `other` as it applies after `self`; both were made on the same document.
    #[must_use]
    pub fn transform(&self, other: &Delta, first: Side) -> Delta {
        let this_first = first == Side::This;
        let other_ops = other.ops.len();
        let mut this = Walk::new(self);
        let mut other = Walk::new(other);
        // Most edits have two or three components, of which one may be cut in two.
        let mut out = Delta { ops: Vec::with_capacity(other_ops + 1) };
        while this.has_next() || other.has_next() {
            if this.kind() == Kind::Insert && (this_first || other.kind() != Kind::Insert) {
                let length = this.left();
                out.push_plain_retain(length);
                this.skip(length);
            } else if other.kind() == Kind::Insert {
                let length = other.left();
                // A whole component is taken, so no pair can be cut.
                if let Ok(op) = other.take(length) {
                    out.push(op);
                }
            } else {
                let length = this.left().min(other.left());
                if this.kind() == Kind::Delete {
                    // Nothing of the other one is left here: deleting twice is deleting once.
                } else if other.kind() == Kind::Delete {
                    out.push(Op::Delete { length });
                } else {
                    let carried =
                        other.attributes().and_then(|more| transform_attributes(this.attributes(), more, this_first));
                    match carried {
                        None => out.push_plain_retain(length),
                        attributes => out.push(Op::Retain { length, attributes }),
                    }
                }
                this.skip(length);
                other.skip(length);
            }
        }
        out.chop_in_place();
        out
    }

    /// Where `index` is after `self`.
    #[must_use]
    pub fn transform_position(&self, index: usize, bias: Bias) -> usize {
        let mut index = index;
        let mut offset = 0_usize;
        for op in &self.ops {
            if offset > index {
                break;
            }
            let length = op.length();
            match op {
                Op::Delete { .. } => {
                    index -= length.min(index - offset);
                    continue;
                }
                Op::Insert { .. } | Op::Embed { .. } => {
                    if offset < index || bias == Bias::After {
                        index = index.saturating_add(length);
                    }
                }
                Op::Retain { .. } => {}
            }
            offset = offset.saturating_add(length);
        }
        index
    }
}
