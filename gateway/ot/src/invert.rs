//! Undoing a change.
//!
//! In: a change and the document it was made on. Out: the change that leads back.

use crate::{
    Invalid,
    attributes::invert as invert_attributes,
    delta::{Delta, Op},
    iter::Walk,
};

impl Delta {
    /// The change that undoes `self`, which applied to `base`: `base.compose(self).compose(inverse) == base`.
    ///
    /// # Errors
    /// [`Invalid::PastEnd`] if `self` reaches past the end of `base`, [`Invalid::InsidePair`] if it cuts a pair of it.
    pub fn invert(&self, base: &Delta) -> Result<Delta, Invalid> {
        let mut from = Walk::new(base);
        let mut out = Delta::new();
        for op in &self.ops {
            match op {
                Op::Insert { .. } | Op::Embed { .. } => out.push(Op::Delete { length: op.length() }),
                Op::Retain { length, attributes: None } => {
                    slice(&mut from, *length, |_| {})?;
                    out.push(Op::Retain { length: *length, attributes: None });
                }
                Op::Retain { length, attributes: Some(change) } => slice(&mut from, *length, |part| {
                    let attributes = invert_attributes(change, part.attributes());
                    out.push(Op::Retain { length: part.length(), attributes });
                })?,
                Op::Delete { length } => slice(&mut from, *length, |part| out.push(part))?,
            }
        }
        out.chop_in_place();
        Ok(out)
    }
}

/// Hands the next `length` units of a document to `each`, component by component.
fn slice(from: &mut Walk<'_>, length: usize, mut each: impl FnMut(Op)) -> Result<(), Invalid> {
    let mut left = length;
    while left > 0 {
        if !from.has_next() {
            return Err(Invalid::PastEnd);
        }
        let part = left.min(from.left());
        each(from.take(part)?);
        left -= part;
    }
    Ok(())
}
