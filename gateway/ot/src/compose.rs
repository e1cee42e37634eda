//! One change after the other as one change; a document and a change as the next document.
//!
//! In: two deltas, the second relative to what the first leaves. Out: one delta.

use crate::{
    Invalid,
    attributes::compose as compose_attributes,
    delta::{Delta, Op},
    iter::{Kind, Walk},
};

impl Delta {
    /// `self`, then `other`: quill-delta's `this.compose(other)`. Like it, this does not know how long the document is,
    /// so that what reaches past the end of a document stays in the result ([`crate::Rope::apply`] is strict).
    ///
    /// # Errors
    /// [`Invalid::InsidePair`] if `other` cuts a surrogate pair of an insert of `self` in two.
    pub fn compose(&self, other: &Delta) -> Result<Delta, Invalid> {
        let mut first = Walk::new(self);
        let mut second = Walk::new(other);
        let mut out = Delta { ops: Vec::with_capacity(self.ops.len() + other.ops.len()) };
        while first.has_next() || second.has_next() {
            if second.kind() == Kind::Insert {
                let length = second.left();
                out.push(second.take(length)?);
                continue;
            }
            if first.kind() == Kind::Delete {
                let length = first.left();
                out.push(first.take(length)?);
                continue;
            }
            let length = first.left().min(second.left());
            if second.kind() == Kind::Delete {
                // What the first one inserted and the second one deletes was never there.
                if first.kind() == Kind::Retain {
                    out.push(Op::Delete { length });
                }
                // A cut inside a pair must be noticed even where nothing is kept.
                first.take(length)?;
                second.skip(length);
                continue;
            }
            let changed = second.attributes();
            let mut op = first.take(length)?;
            match &mut op {
                Op::Insert { attributes, .. } | Op::Embed { attributes, .. } => {
                    if changed.is_some() {
                        *attributes = compose_attributes(attributes.as_ref(), changed, false);
                    }
                }
                Op::Retain { attributes, .. } => {
                    if changed.is_some() {
                        *attributes = compose_attributes(attributes.as_ref(), changed, true);
                    }
                }
                Op::Delete { .. } => {}
            }
            out.push(op);
            second.skip(length);
        }
        out.chop_in_place();
        Ok(out)
    }
}
