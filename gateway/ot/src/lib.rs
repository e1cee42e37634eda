//! Quill Delta: the algebra of edits.
//!
//! In: operations in UTF-16 code units. Out: new operations, new documents, or [`Invalid`]. No I/O, no clock, no
//! randomness. Semantics equal npm `quill-delta` 5, ties included: `x.transform(&e, Side::Left)` etc. see [`Delta::transform`].

use serde_json::{Map, Value};

/// Formatting of an insert or a retain; ordered by key so that runs repeat. `null` removes an attribute.
pub type Attributes = Map<String, Value>;

/// One component of a [`Delta`]. Lengths are UTF-16 code units and never zero.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Text, never empty.
    Insert { text: String, attributes: Option<Box<Attributes>> },
    /// An embed of length 1.
    Embed { value: Value, attributes: Option<Box<Attributes>> },
    /// Keep `length` units, changing their attributes where given.
    Retain { length: usize, attributes: Option<Box<Attributes>> },
    /// Remove `length` units.
    Delete { length: usize },
}

/// A change, or (inserts only) a document, in the normal form that `Delta.push` makes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    ops: Vec<Op>,
}
