//! Edits of one connection that wait: for its join, or for a version that this pod does not have yet.
//!
//! In: edits in the order they came, with the time. Out: the same, and what they weigh, so that the socket is read no
//! further while too much waits.

use std::collections::VecDeque;

use crate::Edit;

/// An edit and when it came.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) edit: Edit,
    pub(crate) received_ms: u64,
}

/// First in, first out.
#[derive(Debug, Default)]
pub(crate) struct EditQueue {
    edits: VecDeque<Queued>,
    bytes: usize,
}

impl EditQueue {
    pub(crate) fn len(&self) -> usize {
        self.edits.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The one that waits longest.
    pub(crate) fn front(&self) -> Option<&Queued> {
        self.edits.front()
    }

    pub(crate) fn push(&mut self, edit: Edit, received_ms: u64) {
        self.bytes += edit.ops.weight_bytes();
        self.edits.push_back(Queued { edit, received_ms });
    }

    pub(crate) fn pop_if(&mut self, is_due: impl FnOnce(&Edit) -> bool) -> Option<Queued> {
        let popped = self.edits.pop_front_if(|queued| is_due(&queued.edit))?;
        self.bytes = self.bytes.saturating_sub(popped.edit.ops.weight_bytes());
        Some(popped)
    }

    /// Puts all of `later` behind what is here.
    pub(crate) fn append(&mut self, later: &mut EditQueue) {
        self.bytes += std::mem::take(&mut later.bytes);
        self.edits.append(&mut later.edits);
    }

    /// All of it, in order; the queue is empty afterwards.
    pub(crate) fn take(&mut self) -> VecDeque<Queued> {
        self.bytes = 0;
        std::mem::take(&mut self.edits)
    }
}
