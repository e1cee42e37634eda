//! What may enter from outside.
//!
//! In: components as somebody sent them. Out: a [`Delta`] in normal form within the limits, or what is wrong with it.
//! Nothing is repaired: two parties that repair differently would part ways.

use serde_json::Value;

use crate::{
    attributes::{Attributes, unify_numbers},
    delta::{Delta, Op, value_weight_bytes},
};

/// Most components of one edit.
pub const MAX_COMPONENTS: usize = 10_000;
/// Most bytes of one attribute's value, as JSON.
pub const MAX_ATTRIBUTE_BYTES: usize = 4 * 1024;
/// Most bytes of all attributes of one component, as JSON: a component may come to stand in many pieces, each with them.
pub const MAX_COMPONENT_ATTRIBUTES_BYTES: usize = 16 * 1024;
/// Deepest nesting of one attribute's value; a plain value has depth 1.
pub const MAX_ATTRIBUTE_DEPTH: usize = 8;
/// Longest length, in UTF-16 units: the largest whole number that JavaScript counts exactly.
pub const MAX_LENGTH: usize = (1 << 53) - 1;

/// Why components are no edit, or an edit does not fit a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A component of length zero.
    #[error("a component has length 0")]
    ZeroLength,
    /// Lengths that add up to more than can be counted.
    #[error("the lengths are too large")]
    Overflow,
    /// Neighbours that `Delta.push` would have merged.
    #[error("neighbouring components of one kind and formatting must be one component")]
    Unmerged,
    /// A delete before an insert at the same place.
    #[error("an insert must stand before a delete at the same place")]
    DeleteBeforeInsert,
    /// A retain at the end that changes nothing.
    #[error("the last component must not be a retain without attributes")]
    TrailingRetain,
    /// `attributes: {}`.
    #[error("attributes must not be empty; leave them out")]
    EmptyAttributes,
    /// More than [`MAX_COMPONENTS`].
    #[error("more than {MAX_COMPONENTS} components")]
    TooManyComponents,
    /// An attribute's value larger than [`MAX_ATTRIBUTE_BYTES`] or deeper than [`MAX_ATTRIBUTE_DEPTH`].
    #[error("an attribute's value is larger than {MAX_ATTRIBUTE_BYTES} bytes or deeper than {MAX_ATTRIBUTE_DEPTH}")]
    AttributeTooLarge,
    /// The attributes of one component are together larger than [`MAX_COMPONENT_ATTRIBUTES_BYTES`].
    #[error("the attributes of one component are larger than {MAX_COMPONENT_ATTRIBUTES_BYTES} bytes")]
    AttributesTooLarge,
    /// An embed that is not a JSON object.
    #[error("an embed must be an object")]
    EmbedNotObject,
    /// The edit reaches past the end of the document.
    #[error("the edit reaches past the end of the document")]
    PastEnd,
    /// A position between the two halves of a surrogate pair.
    #[error("a position lies inside a surrogate pair")]
    InsidePair,
    /// Retains or deletes where a document is expected.
    #[error("a document has inserts only")]
    NotADocument,
}

impl Delta {
    /// Components as they came from outside, if they are in the normal form that quill-delta's `push` makes and within
    /// the limits. Numbers in attributes and embeds are brought to one form (`1.0` is `1`, as in JavaScript).
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn from_normal(ops: Vec<Op>) -> Result<Delta, Invalid> {
        if ops.len() > MAX_COMPONENTS {
            return Err(Invalid::TooManyComponents);
        }
        let weigh = |op: &Op| op.attributes().map_or(0, Attributes::weight_bytes);
        if ops.iter().any(|op| weigh(op) > MAX_COMPONENT_ATTRIBUTES_BYTES) {
            return Err(Invalid::AttributesTooLarge);
        }
        Self::from_stored(ops)
    }

    /// The same without a limit on the number of components and on the attributes of one together, for documents, in
    /// which the attributes of many edits come together, and for what this side wrote.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn from_stored(mut ops: Vec<Op>) -> Result<Delta, Invalid> {
        let mut sum = 0_usize;
        for op in &mut ops {
            let length = op.length();
            if length == 0 {
                return Err(Invalid::ZeroLength);
            }
            sum = sum.checked_add(length).filter(|sum| *sum <= MAX_LENGTH).ok_or(Invalid::Overflow)?;
            check_values(op)?;
        }
        for pair in ops.windows(2) {
            match pair {
                [Op::Delete { .. }, Op::Delete { .. }] => return Err(Invalid::Unmerged),
                [Op::Delete { .. }, Op::Insert { .. } | Op::Embed { .. }] => return Err(Invalid::DeleteBeforeInsert),
                [Op::Insert { attributes: a, .. }, Op::Insert { attributes: b, .. }]
                | [Op::Retain { attributes: a, .. }, Op::Retain { attributes: b, .. }]
                    if a == b =>
                {
                    return Err(Invalid::Unmerged);
                }
                _ => {}
            }
        }
        if let Some(Op::Retain { attributes: None, .. }) = ops.last() {
            return Err(Invalid::TrailingRetain);
        }
        Ok(Delta { ops })
    }
}

fn check_values(op: &mut Op) -> Result<(), Invalid> {
    if let Op::Embed { value, .. } = op {
        if !value.is_object() {
            return Err(Invalid::EmbedNotObject);
        }
        unify_numbers(value);
    }
    let Some(attributes) = op.attributes() else { return Ok(()) };
    if attributes.is_empty() {
        return Err(Invalid::EmptyAttributes);
    }
    for (_, value) in attributes.iter() {
        if !within_depth(value, MAX_ATTRIBUTE_DEPTH) || value_weight_bytes(value) > MAX_ATTRIBUTE_BYTES {
            return Err(Invalid::AttributeTooLarge);
        }
    }
    Ok(())
}

fn within_depth(value: &Value, depth: usize) -> bool {
    let Some(inner) = depth.checked_sub(1) else { return false };
    match value {
        Value::Array(values) => values.iter().all(|value| within_depth(value, inner)),
        Value::Object(map) => map.values().all(|value| within_depth(value, inner)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}
