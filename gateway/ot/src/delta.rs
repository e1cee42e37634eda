//! The type of edits and documents, and how it is built.
//!
//! In: components one at a time. Out: a list in the normal form that quill-delta's `push` makes: inserts stand before
//! deletes at the same place, neighbours of one kind and one formatting are one component.

use serde_json::Value;

use crate::{
    EMBED_CHARACTER,
    attributes::{Attributes, held},
    utf16_length,
};

/// One component of a [`Delta`]. Lengths are UTF-16 code units and never zero; empty attributes are absent.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the fields are said by their names")]
pub enum Op {
    /// Text, never empty.
    Insert { text: String, attributes: Option<Attributes> },
    /// An embed of length 1.
    Embed { value: Value, attributes: Option<Attributes> },
    /// Keep `length` units, changing their attributes where given.
    Retain { length: usize, attributes: Option<Attributes> },
    /// Remove `length` units.
    Delete { length: usize },
}

/// `{"insert":""}` and its like, with a comma.
pub(crate) const FRAME_BYTES: usize = 14;

impl Op {
    /// Its length in UTF-16 units.
    #[inline]
    pub fn length(&self) -> usize {
        match self {
            Op::Insert { text, .. } => utf16_length(text),
            Op::Embed { .. } => 1,
            Op::Retain { length, .. } | Op::Delete { length } => *length,
        }
    }

    /// Its formatting.
    pub fn attributes(&self) -> Option<&Attributes> {
        match self {
            Op::Insert { attributes, .. } | Op::Embed { attributes, .. } | Op::Retain { attributes, .. } => {
                attributes.as_ref()
            }
            Op::Delete { .. } => None,
        }
    }

    /// Bytes that it takes in JSON, roughly; see [`Delta::weight_bytes`].
    pub fn weight_bytes(&self) -> usize {
        let value = match self {
            Op::Insert { text, .. } => text.len(),
            Op::Embed { value, .. } => value_weight_bytes(value),
            Op::Retain { .. } | Op::Delete { .. } => 4,
        };
        FRAME_BYTES + value + self.attributes().map_or(0, Attributes::weight_bytes)
    }

    /// Whether its length is zero; counting a text is not needed to know that.
    fn is_void(&self) -> bool {
        match self {
            Op::Insert { text, .. } => text.is_empty(),
            Op::Embed { .. } => false,
            Op::Retain { length, .. } | Op::Delete { length } => *length == 0,
        }
    }

    /// Whether it adds something.
    pub fn is_insert(&self) -> bool {
        matches!(self, Op::Insert { .. } | Op::Embed { .. })
    }
}

/// A change, or (inserts only) a document, in the normal form that `Delta.push` makes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    pub(crate) ops: Vec<Op>,
}

impl Delta {
    /// The empty change, which is also the empty document.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends text; an empty one is ignored.
    #[must_use]
    pub fn insert(mut self, text: &str, attributes: Option<Attributes>) -> Self {
        if !text.is_empty() {
            self.push(Op::Insert { text: text.to_owned(), attributes: attributes.and_then(held) });
        }
        self
    }

    /// Appends an embed.
    #[must_use]
    pub fn embed(mut self, value: Value, attributes: Option<Attributes>) -> Self {
        self.push(Op::Embed { value, attributes: attributes.and_then(held) });
        self
    }

    /// Keeps `length` UTF-16 units; zero is ignored.
    #[must_use]
    pub fn retain(mut self, length: usize, attributes: Option<Attributes>) -> Self {
        self.push(Op::Retain { length, attributes: attributes.and_then(held) });
        self
    }

    /// Deletes `length` UTF-16 units; zero is ignored.
    #[must_use]
    pub fn delete(mut self, length: usize) -> Self {
        self.push(Op::Delete { length });
        self
    }

    /// Removes a trailing retain that changes nothing.
    #[must_use]
    pub fn chop(mut self) -> Self {
        self.chop_in_place();
        self
    }

    /// Its components, in normal form.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether it has no components: the edit that does nothing, or the empty document.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The sum of its components' lengths; for a document its length in UTF-16 units.
    pub fn length(&self) -> usize {
        self.ops.iter().map(Op::length).sum()
    }

    /// How many UTF-16 units of the document it applies to it touches: what it retains and deletes.
    pub fn base_length(&self) -> usize {
        self.ops.iter().filter(|op| !op.is_insert()).map(Op::length).sum()
    }

    /// Whether it has inserts only.
    pub fn is_document(&self) -> bool {
        self.ops.iter().all(Op::is_insert)
    }

    /// The text of its inserts, an embed as U+FFFC.
    pub fn plain_text(&self) -> String {
        let mut out = String::new();
        for op in &self.ops {
            match op {
                Op::Insert { text, .. } => out.push_str(text),
                Op::Embed { .. } => out.push(EMBED_CHARACTER),
                Op::Retain { .. } | Op::Delete { .. } => {}
            }
        }
        out
    }

    /// Bytes that its components take in JSON, roughly (texts and embeds but for escapes): what size limits of messages are
    /// counted in.
    pub fn weight_bytes(&self) -> usize {
        self.ops.iter().map(Op::weight_bytes).sum::<usize>() + 2
    }

    /// The same, but formatting that components share is counted once: what size limits of memory are counted in.
    pub fn held_bytes(&self) -> usize {
        let mut last: Option<&Attributes> = None;
        let mut shared = 0;
        for attributes in self.ops.iter().filter_map(Op::attributes) {
            if last.replace(attributes).is_some_and(|last| last.is_shared_with(attributes)) {
                shared += attributes.weight_bytes();
            }
        }
        self.weight_bytes() - shared
    }

    /// Appends one component as quill-delta's `push` does. Components of length zero are ignored.
    pub fn push(&mut self, op: Op) {
        if op.is_void() {
            return;
        }
        let mut at = self.ops.len();
        if let (Op::Delete { length: more }, Some(Op::Delete { length })) = (&op, self.ops.last_mut()) {
            *length = length.saturating_add(*more);
            return;
        }
        // It makes no difference whether one inserts before or after deleting at a place: always before.
        if op.is_insert() && matches!(self.ops.last(), Some(Op::Delete { .. })) {
            at -= 1;
        }
        let at_end = at == self.ops.len();
        let last = at.checked_sub(1).and_then(|index| self.ops.get_mut(index));
        match (last, &op) {
            (Some(Op::Insert { text, attributes }), Op::Insert { text: more, attributes: same })
                if attributes == same =>
            {
                text.push_str(more);
            }
            (Some(Op::Retain { length, attributes }), Op::Retain { length: more, attributes: same })
                if attributes == same =>
            {
                *length = length.saturating_add(*more);
            }
            _ if at_end => self.ops.push(op),
            _ => self.ops.insert(at, op),
        }
    }

    /// The same for a retain that changes nothing, the most frequent component of transformed edits.
    pub(crate) fn push_plain_retain(&mut self, more: usize) {
        match self.ops.last_mut() {
            Some(Op::Retain { length, attributes: None }) => *length = length.saturating_add(more),
            _ if more > 0 => self.ops.push(Op::Retain { length: more, attributes: None }),
            _ => {}
        }
    }

    pub(crate) fn chop_in_place(&mut self) {
        if let Some(Op::Retain { attributes: None, .. }) = self.ops.last() {
            self.ops.pop();
        }
    }
}

/// Bytes of a value in JSON, but for escapes.
pub(crate) fn value_weight_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) => number.to_string().len(),
        Value::String(text) => text.len() + 2,
        Value::Array(values) => 2 + values.iter().map(|v| value_weight_bytes(v) + 1).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(k, v)| k.len() + 4 + value_weight_bytes(v)).sum::<usize>(),
    }
}

/// What escapes add to a value in JSON.
pub(crate) fn escape_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text_escape_bytes(text),
        Value::Array(values) => values.iter().map(escape_bytes).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| text_escape_bytes(key) + escape_bytes(value)).sum(),
    }
}

pub(crate) fn text_escape_bytes(text: &str) -> usize {
    let added = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        // `\u0000`
        0..0x20 => 5,
        _ => 0,
    });
    added.sum()
}
