//! Quill Delta: the algebra of edits.
//!
//! In: operations in UTF-16 code units. Out: new operations, new documents, or [`Invalid`]. No I/O, no clock, no
//! randomness. Semantics equal npm `quill-delta` 5, ties and attributes with `null` included; the differences are that
//! nothing here ever splits a surrogate pair (a Rust string cannot hold half of one) and that edits are refused where
//! they reach past the end of a document.
//!
//! The rule of this project for two edits at one place is **the later committed one stands first**: an edit `e` that
//! has yet to be committed is carried over a committed `x` with `x.transform(&e, Side::Other)`, and [`cross`] does both
//! directions at once. Histories are carried entry by entry: transforming against a *composed* history diverges.

mod attributes;
mod compose;
mod cursor;
mod delta;
mod diff;
mod invert;
mod iter;
mod leaf;
mod memory;
mod normal;
mod rope;
mod size;
mod transform;
mod tree;

pub use attributes::Attributes;
pub use delta::{Delta, Op};
pub use normal::{
    Invalid, MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTE_DEPTH, MAX_COMPONENT_ATTRIBUTES_BYTES, MAX_COMPONENTS, MAX_LENGTH,
};
pub use rope::Rope;
pub use size::Growth;
pub use transform::{Bias, Side, cross};

/// What an embed counts as in plain text: U+FFFC, one UTF-16 unit, as long as the embed itself.
pub const EMBED_CHARACTER: char = '\u{FFFC}';

/// The length of a text in UTF-16 code units.
#[inline]
pub fn utf16_length(text: &str) -> usize {
    // The common case, and far quicker than decoding.
    if text.is_ascii() { text.len() } else { text.chars().map(char::len_utf16).sum() }
}

/// The byte index of UTF-16 position `units` of `text`; none past the end or inside a surrogate pair.
pub(crate) fn byte_index(text: &str, units: usize) -> Option<usize> {
    if text.is_ascii() {
        return (units <= text.len()).then_some(units);
    }
    let mut left = units;
    for (byte, character) in text.char_indices() {
        if left == 0 {
            return Some(byte);
        }
        left = left.checked_sub(character.len_utf16())?;
    }
    (left == 0).then_some(text.len())
}
