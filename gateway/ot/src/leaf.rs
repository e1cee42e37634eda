//! A stretch of a document: a few dozen pieces of text with one formatting each, and embeds.
//!
//! In: changes at positions inside the stretch. Out: the stretch after them. Positions and lengths have been checked by
//! the rope: they lie inside, and never inside a surrogate pair.

use serde_json::Value;

use crate::{
    Attributes, EMBED_CHARACTER, Op,
    attributes::Held,
    byte_index,
    delta::value_weight_bytes,
    memory::{Formatting, beside_value},
    size::Run,
    utf16_length,
};

/// A text longer than this is cut: moving its tail would cost more than finding a second piece.
const PIECE_BYTES: usize = 1024;
/// New pieces leave room for typing.
const NEW_PIECE_BYTES: usize = 768;
/// A leaf with more pieces than this is cut.
const LEAF_PIECES: usize = 32;
/// Two neighbouring leaves of at most this many pieces become one.
const SMALL_LEAF_PIECES: usize = 8;

/// Text with one formatting, or an embed.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    content: Content,
    attributes: Held,
    units: usize,
}

#[derive(Debug, Clone)]
enum Content {
    Text(String),
    Embed(Box<Value>),
}

/// A run of pieces.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pieces: Vec<Piece>,
    units: usize,
}

impl Piece {
    /// The pieces that an insert makes.
    pub(crate) fn of(op: &Op) -> Vec<Piece> {
        match op {
            Op::Embed { value, attributes } => vec![Piece {
                content: Content::Embed(Box::new(value.clone())),
                attributes: attributes.clone(),
                units: 1,
            }],
            Op::Insert { text, attributes } => {
                let mut out = Vec::new();
                let mut rest = text.as_str();
                while !rest.is_empty() {
                    let (part, tail) = rest.split_at(cut_near(rest, NEW_PIECE_BYTES));
                    out.push(Piece::text(part.to_owned(), attributes.clone()));
                    rest = tail;
                }
                out
            }
            Op::Retain { .. } | Op::Delete { .. } => Vec::new(),
        }
    }

    pub(crate) fn units(&self) -> usize {
        self.units
    }

    /// What the content between two positions takes; none where one of them is inside a surrogate pair.
    pub(crate) fn content_bytes(&self, from: usize, to: usize) -> Option<usize> {
        match &self.content {
            Content::Text(_) => Some(self.byte(to)? - self.byte(from)?),
            Content::Embed(value) => Some(value_weight_bytes(value)),
        }
    }

    pub(crate) fn run(&self) -> Run<'_> {
        Run::new(matches!(self.content, Content::Embed(_)), self.attributes.as_ref())
    }

    /// What it takes in memory, but for its formatting.
    fn memory_bytes(&self) -> usize {
        let content = match &self.content {
            Content::Text(text) => text.capacity(),
            Content::Embed(value) => size_of::<Value>() + beside_value(value),
        };
        size_of::<Self>() + content
    }

    pub(crate) fn to_op(&self) -> Op {
        let attributes = self.attributes.clone();
        match &self.content {
            Content::Text(text) => Op::Insert { text: text.clone(), attributes },
            Content::Embed(value) => Op::Embed { value: Value::clone(value), attributes },
        }
    }

    pub(crate) fn write_text(&self, out: &mut String) {
        match &self.content {
            Content::Text(text) => out.push_str(text),
            Content::Embed(_) => out.push(EMBED_CHARACTER),
        }
    }

    fn text(text: String, attributes: Held) -> Self {
        Self { units: utf16_length(&text), content: Content::Text(text), attributes }
    }

    /// The byte index of a position; none inside a surrogate pair.
    pub(crate) fn byte(&self, at: usize) -> Option<usize> {
        match &self.content {
            Content::Text(text) if text.len() == self.units => (at <= self.units).then_some(at),
            Content::Text(text) => byte_index(text, at),
            Content::Embed(_) => (at <= 1).then_some(at),
        }
    }

    /// Puts text of the same formatting in, if there is room.
    fn try_insert(&mut self, at: usize, text: &str, units: usize, attributes: &Held) -> bool {
        let byte = self.byte(at);
        match (&mut self.content, byte) {
            (Content::Text(mine), Some(byte))
                if mine.len() + text.len() <= PIECE_BYTES && self.attributes == *attributes =>
            {
                mine.insert_str(byte, text);
                self.units += units;
                true
            }
            _ => false,
        }
    }

    /// Cuts it in two; none at its ends.
    fn split(&mut self, at: usize) -> Option<Piece> {
        if at == 0 || at >= self.units {
            return None;
        }
        let byte = self.byte(at)?;
        let Content::Text(text) = &mut self.content else { return None };
        let tail = text.split_off(byte);
        let tail = Piece { units: self.units - at, content: Content::Text(tail), attributes: self.attributes.clone() };
        self.units = at;
        Some(tail)
    }
}

impl Leaf {
    pub(crate) fn new(pieces: Vec<Piece>) -> Self {
        Self { units: pieces.iter().map(Piece::units).sum(), pieces }
    }

    pub(crate) fn units(&self) -> usize {
        self.units
    }

    pub(crate) fn pieces(&self) -> impl DoubleEndedIterator<Item = &Piece> {
        self.pieces.iter()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let mut formatting = Formatting::default();
        let pieces = self.pieces.iter();
        size_of::<Self>()
            + pieces
                .map(|piece| piece.memory_bytes() + formatting.memory_bytes(piece.attributes.as_ref()))
                .sum::<usize>()
    }

    pub(crate) fn piece(&self, index: usize) -> Option<&Piece> {
        self.pieces.get(index)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.pieces.len() < LEAF_PIECES / 2
    }

    pub(crate) fn is_small(&self) -> bool {
        self.pieces.len() <= SMALL_LEAF_PIECES
    }

    /// How many pieces it has.
    pub(crate) fn width(&self) -> usize {
        self.pieces.len()
    }

    /// Whether it is neither small nor too large.
    pub(crate) fn is_sound(&self) -> bool {
        (SMALL_LEAF_PIECES + 1..=LEAF_PIECES).contains(&self.pieces.len())
    }

    pub(crate) fn ends_with_newline(&self) -> bool {
        matches!(self.pieces.last().map(|piece| &piece.content), Some(Content::Text(text)) if text.ends_with('\n'))
    }

    pub(crate) fn push(&mut self, piece: Piece) {
        self.units += piece.units;
        self.pieces.push(piece);
    }

    pub(crate) fn append(&mut self, other: Leaf) {
        self.units += other.units;
        let seam = self.pieces.len();
        self.pieces.extend(other.pieces);
        self.join(seam);
    }

    /// Inserts text or an embed.
    pub(crate) fn insert(&mut self, at: usize, op: &Op) {
        let (index, inside) = self.find(at);
        if let Op::Insert { text, attributes } = op {
            let units = utf16_length(text);
            let next = self.pieces.get(index).is_some_and(|piece| piece.units == inside).then_some(index + 1);
            for (index, inside) in [(index, inside), (next.unwrap_or(usize::MAX), 0)] {
                if self.pieces.get_mut(index).is_some_and(|piece| piece.try_insert(inside, text, units, attributes)) {
                    self.units += units;
                    return;
                }
            }
        }
        let new = Piece::of(op);
        self.units += new.iter().map(Piece::units).sum::<usize>();
        let seam = self.cut(at);
        self.pieces.splice(seam..seam, new);
    }

    /// Deletes a range.
    pub(crate) fn delete(&mut self, at: usize, length: usize) {
        let (index, inside) = self.find(at);
        // Most deletions lie inside one piece.
        if let Some(piece) = self.pieces.get_mut(index)
            && inside + length <= piece.units
            && length < piece.units
            && let (Some(from), Some(to)) = (piece.byte(inside), piece.byte(inside + length))
            && let Content::Text(text) = &mut piece.content
        {
            text.replace_range(from..to, "");
            piece.units -= length;
            self.units -= length;
            return;
        }
        let from = self.cut(at);
        let to = self.cut(at + length);
        for piece in self.pieces.drain(from..to) {
            self.units -= piece.units;
        }
        self.join(from);
    }

    /// Changes the formatting of a range.
    pub(crate) fn format(&mut self, at: usize, length: usize, mut change: impl FnMut(Option<&Attributes>) -> Held) {
        let from = self.cut(at);
        let to = self.cut(at + length);
        for piece in self.pieces.get_mut(from..to).into_iter().flatten() {
            piece.attributes = change(piece.attributes.as_ref());
        }
        for seam in (from..=to).rev() {
            self.join(seam);
        }
    }

    /// What does not fit any more, as leaves behind this one.
    pub(crate) fn split(&mut self) -> Option<Vec<Leaf>> {
        if self.pieces.len() <= LEAF_PIECES {
            return None;
        }
        let mut more = Vec::new();
        while self.pieces.len() > LEAF_PIECES {
            let keep = self.pieces.len() - LEAF_PIECES / 2;
            more.push(Leaf::new(self.pieces.split_off(keep)));
        }
        more.reverse();
        // A large insert leaves no empty room behind.
        self.pieces.shrink_to(LEAF_PIECES);
        self.units = self.pieces.iter().map(Piece::units).sum();
        Some(more)
    }

    /// The first piece that ends at or behind a position, and the position inside it.
    pub(crate) fn find(&self, at: usize) -> (usize, usize) {
        let mut left = at;
        for (index, piece) in self.pieces.iter().enumerate() {
            if left <= piece.units {
                return (index, left);
            }
            left -= piece.units;
        }
        (self.pieces.len(), 0)
    }

    /// Makes a piece begin at a position; gives its index.
    fn cut(&mut self, at: usize) -> usize {
        let (index, inside) = self.find(at);
        let Some(piece) = self.pieces.get_mut(index) else { return self.pieces.len() };
        if inside == 0 {
            return index;
        }
        if let Some(tail) = piece.split(inside) {
            self.pieces.insert(index + 1, tail);
        }
        index + 1
    }

    /// Puts the pieces on both sides of a seam together if they are alike and small.
    fn join(&mut self, seam: usize) {
        let Some(before) = seam.checked_sub(1) else { return };
        let (Some(left), Some(right)) = (self.pieces.get(before), self.pieces.get(seam)) else { return };
        let (Content::Text(left_text), Content::Text(right_text)) = (&left.content, &right.content) else { return };
        if left.attributes != right.attributes || left_text.len() + right_text.len() > NEW_PIECE_BYTES {
            return;
        }
        let right = self.pieces.remove(seam);
        if let Some(left) = self.pieces.get_mut(before)
            && let (Content::Text(text), Content::Text(more)) = (&mut left.content, &right.content)
        {
            text.push_str(more);
            left.units += right.units;
        }
    }
}

/// A place to cut a text at most `bytes` in, between characters.
fn cut_near(text: &str, bytes: usize) -> usize {
    if text.len() <= bytes {
        return text.len();
    }
    (1..=bytes).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(text.len())
}
