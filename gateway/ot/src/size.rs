//! How large a document is, and how much larger an edit makes it.
//!
//! In: a document, and an edit of it. Out: bytes. A document's size is about what it takes stored: its text as UTF-8, and
//! for each embed and each run of formatted text their JSON beside the text. It depends on the content alone, not on
//! how a rope has cut it into pieces: a piece counts for itself, less what it shares with the one before it where both are
//! of one run. What an edit changes is counted on the runs that it hits, without applying it.

use std::borrow::Cow;

use crate::{
    Attributes, Delta, Invalid, Op, Rope,
    attributes::compose,
    cursor::{Cursor, Part},
    delta::{FRAME_BYTES, value_weight_bytes},
    normal::MAX_COMPONENTS,
};

/// What an edit does to the size of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Growth {
    /// By how much the document becomes larger.
    pub bytes: isize,
    /// What it adds, whatever others that are made on the same document take away.
    pub added_bytes: usize,
    /// In how many places it may cut what others format.
    pub cuts: usize,
    /// What each cut by others in what it formats adds, at most.
    pub cut_bytes: usize,
    /// What its formatting would add where everything that it formats stood in pieces, as many as one edit can make.
    pub spread_bytes: usize,
}

impl Growth {
    /// Of several edits that are made on one document, each of which will be carried over those before it.
    #[must_use]
    pub fn and(self, other: Growth) -> Growth {
        Growth {
            bytes: self.bytes.saturating_add(other.bytes),
            added_bytes: self.added_bytes.saturating_add(other.added_bytes),
            cuts: self.cuts.saturating_add(other.cuts),
            cut_bytes: self.cut_bytes.saturating_add(other.cut_bytes),
            spread_bytes: self.spread_bytes.saturating_add(other.spread_bytes),
        }
    }

    /// By how much such edits make the document larger together, at most.
    pub fn most_bytes(&self) -> usize {
        self.added_bytes.saturating_add(self.cuts.saturating_mul(self.cut_bytes))
    }
}

impl Rope {
    /// What [`Self::apply`] would do to [`Self::bytes`].
    ///
    /// # Errors
    /// Those of [`Self::apply`].
    pub fn growth(&self, edit: &Delta) -> Result<Growth, Invalid> {
        let mut measure = Measure { cursor: Cursor::new(self), growth: Growth::default(), edge: None };
        for op in &edit.ops {
            match op {
                Op::Insert { .. } | Op::Embed { .. } => measure.insert(op),
                Op::Retain { length, attributes: None } => measure.keep(*length)?,
                Op::Retain { length, attributes: Some(change) } => measure.format(*length, change)?,
                Op::Delete { length } => measure.delete(*length)?,
            }
        }
        measure.close();
        Ok(measure.growth)
    }
}

/// The size of a document.
pub(crate) fn document_bytes(content: &Delta) -> usize {
    let mut before = None;
    let mut bytes = 0;
    for op in &content.ops {
        let run = Run::of(op);
        bytes += content_bytes(op) + run.frame_bytes() - run.shared_bytes(before.as_deref());
        before = run.formatting();
    }
    bytes
}

/// The formatting of text that stands somewhere; none of plain text and where there is no text.
pub(crate) type Formatting<'a> = Option<Cow<'a, Attributes>>;

/// What a stretch of a document is, but for its length.
pub(crate) struct Run<'a> {
    pub(crate) is_embed: bool,
    pub(crate) attributes: Option<Cow<'a, Attributes>>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(is_embed: bool, attributes: Option<&'a Attributes>) -> Self {
        Self { is_embed, attributes: attributes.map(Cow::Borrowed) }
    }

    pub(crate) fn formatting(self) -> Formatting<'a> {
        self.attributes.filter(|_| !self.is_embed)
    }

    fn of(op: &'a Op) -> Self {
        Self::new(matches!(op, Op::Embed { .. }), op.attributes())
    }

    /// What it takes beside its text or value. Plain text counts as it is.
    fn frame_bytes(&self) -> usize {
        match &self.attributes {
            Some(attributes) => FRAME_BYTES + attributes.weight_bytes(),
            None if self.is_embed => FRAME_BYTES,
            None => 0,
        }
    }

    /// What of that the text before it has already, because both are one run.
    fn shared_bytes(&self, before: Option<&Attributes>) -> usize {
        match (&self.attributes, before) {
            (Some(attributes), Some(before)) if !self.is_embed && **attributes == *before => self.frame_bytes(),
            _ => 0,
        }
    }
}

struct Measure<'a> {
    cursor: Cursor<'a>,
    growth: Growth,
    /// Where the last component changed something.
    edge: Option<Edge<'a>>,
}

/// The text that stands before the cursor, and that which will stand there.
struct Edge<'a> {
    old: Formatting<'a>,
    new: Formatting<'a>,
}

impl<'a> Measure<'a> {
    fn insert(&mut self, op: &'a Op) {
        self.growth.cuts += 1;
        // Most edits type plain text into plain text, where nothing is shared.
        if self.edge.is_none()
            && let Op::Insert { text, attributes: None } = op
            && self.cursor.before().is_none()
        {
            self.growth.bytes += signed(text.len());
            self.growth.added_bytes += text.len();
            return;
        }
        let Edge { old, new } = self.edge();
        let run = Run::of(op);
        let size = content_bytes(op) + run.frame_bytes();
        let split = self.split_bytes(old.as_deref());
        self.growth.bytes += signed(size) - signed(run.shared_bytes(new.as_deref()));
        self.growth.added_bytes += size + split;
        self.edge = Some(Edge { old, new: run.formatting() });
    }

    fn keep(&mut self, length: usize) -> Result<(), Invalid> {
        self.close();
        self.cursor.skip(length)
    }

    fn format(&mut self, length: usize, change: &Attributes) -> Result<(), Invalid> {
        let Edge { mut old, mut new } = self.edge();
        let mut split = self.split_bytes(old.as_deref());
        // The first part may be of a run that began before.
        let (mut left, mut runs) = (length, 1_usize);
        // Pieces of one run come to the same.
        let mut last: Option<[Formatting<'a>; 2]> = None;
        while left > 0 {
            let Part { run, units, .. } = self.cursor.take(left)?;
            let attributes = match last.take() {
                Some([before, formatted]) if before == run.attributes => formatted,
                _ => compose(run.attributes.as_deref(), Some(change), false).map(Cow::Owned),
            };
            runs += usize::from(run.is_embed || left == length || run.attributes != old);
            last = Some([run.attributes.clone(), attributes.clone()]);
            left -= units;
            let formatted = Run { is_embed: run.is_embed, attributes };
            self.growth.bytes += signed(formatted.frame_bytes()) - signed(formatted.shared_bytes(new.as_deref()));
            self.growth.bytes -= signed(run.frame_bytes()) - signed(run.shared_bytes(old.as_deref()));
            (old, new) = (run.formatting(), formatted.formatting());
        }
        split += self.split_bytes(old.as_deref());
        self.edge = Some(Edge { old, new });
        let weight = FRAME_BYTES + change.weight_bytes();
        self.growth.added_bytes = self.growth.added_bytes.saturating_add(runs.saturating_mul(weight) + split);
        self.growth.cuts += 2;
        self.growth.cut_bytes = self.growth.cut_bytes.max(weight);
        let spread = length.min(MAX_COMPONENTS).saturating_mul(weight);
        self.growth.spread_bytes = self.growth.spread_bytes.saturating_add(spread);
        Ok(())
    }

    fn delete(&mut self, length: usize) -> Result<(), Invalid> {
        let Edge { mut old, new } = self.edge();
        let mut left = length;
        while left > 0 {
            let Part { run, units, bytes } = self.cursor.take(left)?;
            left -= units;
            self.growth.bytes -= signed(bytes + run.frame_bytes()) - signed(run.shared_bytes(old.as_deref()));
            old = run.formatting();
        }
        self.edge = Some(Edge { old, new });
        Ok(())
    }

    fn edge(&mut self) -> Edge<'a> {
        self.edge.take().unwrap_or_else(|| {
            let before = self.cursor.before();
            Edge { old: before.clone(), new: before }
        })
    }

    /// What stands behind the cursor meets what will stand before it.
    #[inline]
    fn close(&mut self) {
        if let Some(edge) = self.edge.take() {
            self.join(edge);
        }
    }

    fn join(&mut self, Edge { old, new }: Edge<'a>) {
        if (old.is_some() || new.is_some())
            && let Some(next) = self.cursor.after()
        {
            self.growth.bytes += signed(next.shared_bytes(old.as_deref())) - signed(next.shared_bytes(new.as_deref()));
        }
    }

    /// What a cut at the cursor adds, before which this text stands.
    fn split_bytes(&mut self, before: Option<&Attributes>) -> usize {
        let next = before.and_then(|_| self.cursor.after());
        next.map_or(0, |next| next.shared_bytes(before))
    }
}

fn content_bytes(op: &Op) -> usize {
    match op {
        Op::Insert { text, .. } => text.len(),
        Op::Embed { value, .. } => value_weight_bytes(value),
        Op::Retain { .. } | Op::Delete { .. } => 0,
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}
