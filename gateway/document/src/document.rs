//! The open document itself: takes inputs, keeps the parts together.

use std::sync::Arc;

use crate::{Command, Input, Logged, OpenError, Point, Settings, Snapshot};

/// One open document on one pod.
#[derive(Debug)]
pub struct Document {
    head: Point,
}

impl Document {
    /// Opens a document from what the store holds.
    ///
    /// # Errors
    /// What the store holds cannot be read; see [`OpenError`].
    pub fn open(
        settings: Settings,
        pod: Arc<str>,
        snapshot: Snapshot,
        tail: Vec<Logged>,
        now_ms: u64,
    ) -> Result<Self, OpenError> {
        let _ = (settings, pod, tail, now_ms);
        Ok(Self { head: snapshot.at })
    }

    /// Takes in what happened at `now_ms` (any clock that does not run backwards, in milliseconds); what is to be done
    /// comes back in order.
    pub fn handle(&mut self, input: Input, now_ms: u64) -> Vec<Command> {
        let _ = (input, now_ms);
        Vec::new()
    }

    /// When [`Input::Tick`] is due, on the clock of `now_ms`.
    pub fn deadline_ms(&self) -> Option<u64> {
        None
    }

    /// The point that this pod has reached.
    pub fn head(&self) -> &Point {
        &self.head
    }

    /// Whether nobody is connected and nothing is under way, so that the document may be closed.
    pub fn is_idle(&self) -> bool {
        true
    }
}
