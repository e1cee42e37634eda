//! The task's part in the memory that all open documents share; what happens beyond it is told in `documents.rs`.
//!
//! In: the document as it grows and shrinks, edits. Out: its account, and a refusal for an edit that would let a large
//! document grow while there is no memory: its client keeps it and comes again.

use document::{Document, Edit};
use ot::Op;

use super::{DOCUMENT_BYTES, Task};
use crate::{document_io::no_room, resting::Rest};

impl Task {
    /// Accounts for the document as it is now.
    pub(super) fn weigh(&mut self, document: &Document) {
        let (before, bytes) = (self.memory.bytes(), DOCUMENT_BYTES + document.memory_bytes());
        self.memory.set(bytes);
        if bytes > before {
            // Where that is not enough, joins and edits see it.
            let _ = self.inner.make_room();
        }
    }

    /// Nobody uses the document: others may have its memory.
    pub(super) fn rest(&self) -> Rest {
        self.inner.resting.rest(&self.id, self.memory.bytes())
    }

    /// Lets the document refuse an edit for which there is no memory, in the order of its session.
    pub(super) fn hold_down(&self, edit: &mut Edit) {
        let is_refused = edit.unreadable.is_none()
            && self.inner.parts.document_memory.is_over()
            && grows(edit)
            && self.inner.is_beyond_its_share(self.memory.bytes())
            && !self.inner.make_room();
        if is_refused {
            self.inner.parts.metrics.overload("growth");
            edit.unreadable = Some(Box::new(no_room()));
        }
    }
}

/// Whether there is more after it than before.
fn grows(edit: &Edit) -> bool {
    let (mut added, mut removed) = (0, 0);
    for op in edit.ops.ops() {
        match op {
            Op::Insert { .. } | Op::Embed { .. } | Op::Retain { attributes: Some(_), .. } => added += op.weight_bytes(),
            Op::Delete { length } => removed += length,
            Op::Retain { attributes: None, .. } => {}
        }
    }
    added > removed
}
