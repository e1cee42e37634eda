//! A document's content, as a pod keeps it.
//!
//! In: a document, then edits. Out: the document after them, its length and its text. Text lies in pieces of about a
//! kilobyte, pieces in leaves of a few dozen, leaves in a tree. So the cost of an edit depends on its own size, not on the
//! size of the document.

use crate::{
    Attributes, Delta, Invalid, Op,
    attributes::{Held, compose},
    leaf::{Leaf, Piece},
    size::document_bytes,
    tree::Node,
};

/// A document's content, indexed by UTF-16 units.
#[derive(Debug, Clone, Default)]
pub struct Rope {
    pub(crate) root: Node,
    bytes: usize,
}

impl Rope {
    /// The document that these inserts make.
    ///
    /// # Errors
    /// [`Invalid::NotADocument`] if there are retains or deletes.
    pub fn from_delta(content: &Delta) -> Result<Self, Invalid> {
        if !content.is_document() {
            return Err(Invalid::NotADocument);
        }
        Ok(Self { root: Node::of(content.ops.iter().flat_map(Piece::of)), bytes: document_bytes(content) })
    }

    /// Applies an edit, or changes nothing.
    ///
    /// # Errors
    /// [`Invalid::PastEnd`] if it reaches past the end of the document, [`Invalid::InsidePair`] if a position lies
    /// between the two halves of a surrogate pair.
    pub fn apply(&mut self, edit: &Delta) -> Result<(), Invalid> {
        let growth = self.growth(edit)?;
        self.bytes = self.bytes.saturating_add_signed(growth.bytes);
        let mut at = 0;
        for op in &edit.ops {
            match op {
                Op::Insert { .. } | Op::Embed { .. } => at += self.insert(at, op),
                Op::Retain { length, attributes: None } => at += length,
                Op::Retain { length, attributes: Some(change) } => {
                    self.format(at, *length, change);
                    at += length;
                }
                Op::Delete { length } => self.delete(at, *length),
            }
        }
        Ok(())
    }

    /// The document as inserts, in normal form.
    pub fn to_delta(&self) -> Delta {
        let mut out = Delta::new();
        self.root.each_piece(&mut |piece| out.push(piece.to_op()));
        out
    }

    /// The document as text, an embed as U+FFFC.
    pub fn text(&self) -> String {
        let mut out = String::with_capacity(self.length_utf16());
        self.root.each_piece(&mut |piece| piece.write_text(&mut out));
        out
    }

    /// Its length in UTF-16 units.
    pub fn length_utf16(&self) -> usize {
        self.root.units()
    }

    /// Its size: text as UTF-8; embeds, and the attributes of each run of text that has some, as JSON. What the limit on
    /// documents counts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// About how many bytes it takes in memory; it looks at every piece.
    pub fn memory_bytes(&self) -> usize {
        self.root.memory_bytes()
    }

    /// Whether it ends in a newline, as Quill wants it.
    pub fn ends_with_newline(&self) -> bool {
        self.root.last_leaf().is_some_and(Leaf::ends_with_newline)
    }

    /// Inserts text or an embed; gives its length.
    fn insert(&mut self, at: usize, op: &Op) -> usize {
        let units = self.length_utf16();
        self.root.change(at, at, &mut |leaf, at, _| leaf.insert(at, op));
        self.length_utf16() - units
    }

    fn delete(&mut self, at: usize, length: usize) {
        self.root.change(at, at + length, &mut |leaf, from, to| leaf.delete(from, to - from));
    }

    fn format(&mut self, at: usize, length: usize, change: &Attributes) {
        // Pieces of one run share what comes of it.
        let mut last: Option<(Held, Held)> = None;
        let mut formatted = |old: Option<&Attributes>| match &last {
            Some((before, new)) if before.as_ref() == old => new.clone(),
            _ => last.insert((old.cloned(), compose(old, Some(change), false))).1.clone(),
        };
        self.root.change(at, at + length, &mut |leaf, from, to| leaf.format(from, to - from, &mut formatted));
    }
}
