//! A document's content.
//!
//! In: a document and edits. Out: the document after them.

use crate::{Delta, Invalid};

/// A document's content, indexed by UTF-16 units. (First cut; see below.)
#[derive(Debug, Clone, Default)]
pub struct Rope {
    content: Delta,
}

impl Rope {
    /// The document that these inserts make.
    ///
    /// # Errors
    /// [`Invalid::NotADocument`] if there are retains or deletes.
    pub fn from_delta(content: &Delta) -> Result<Self, Invalid> {
        if content.is_document() { Ok(Self { content: content.clone() }) } else { Err(Invalid::NotADocument) }
    }

    /// Whether [`Self::apply`] would succeed.
    ///
    /// # Errors
    /// [`Invalid::PastEnd`] and [`Invalid::InsidePair`].
    pub fn check(&self, edit: &Delta) -> Result<(), Invalid> {
        self.clone().apply(edit)
    }

    /// Applies an edit, or changes nothing.
    ///
    /// # Errors
    /// [`Invalid::PastEnd`] and [`Invalid::InsidePair`].
    pub fn apply(&mut self, edit: &Delta) -> Result<(), Invalid> {
        if edit.base_length() > self.content.length() {
            return Err(Invalid::PastEnd);
        }
        self.content = self.content.compose(edit)?;
        Ok(())
    }

    /// The document as inserts, in normal form.
    pub fn to_delta(&self) -> Delta {
        self.content.clone()
    }

    /// The document as text, an embed as U+FFFC.
    pub fn text(&self) -> String {
        self.content.plain_text()
    }

    /// Its length in UTF-16 units.
    pub fn length_utf16(&self) -> usize {
        self.content.length()
    }

    /// Its size in bytes, roughly as JSON: what the limit on documents counts.
    pub fn bytes(&self) -> usize {
        self.content.weight_bytes()
    }

    /// Whether it ends in a newline, as Quill wants it.
    pub fn ends_with_newline(&self) -> bool {
        matches!(self.content.ops.last(), Some(crate::Op::Insert { text, .. }) if text.ends_with('\n'))
    }
}
