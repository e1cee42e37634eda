//! Snapshots: when one is due here, and what becomes of it.
//!
//! In: how much came since the last one, the time, what became of a save. Out: at most one save at a time.

use std::sync::Arc;

use crate::{Command, Document, Version};

/// A pod that only reads stores a snapshot when the tail is so many times as long as is allowed.
const READER_SAVES_AFTER: usize = 2;
/// A snapshot that was not reported as stored after this long, in milliseconds, counts as failed.
const SAVE_AGAIN_MS: u64 = 30_000;

/// The save under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Saving {
    version: Version,
    tail: (usize, usize),
    since_ms: u64,
    /// Because the last client has left.
    last_left: bool,
}

impl Document {
    /// When a save that is not answered counts as failed.
    pub(crate) fn saving_deadline_ms(&self) -> Option<u64> {
        self.saving.map(|saving| saving.since_ms.saturating_add(SAVE_AGAIN_MS))
    }

    /// Stores a snapshot when opening would be slow, and once when the last client has left. Others may go on typing on
    /// other pods, which take theirs.
    pub(crate) fn save(&mut self, now_ms: u64) {
        let tail = self.history.tail();
        let last_left = self.connections.is_empty() && self.draining.is_empty();
        if self.saving.is_some()
            || self.healing.is_some()
            || self.away_since_ms.is_some()
            || self.flight.is_some() && last_left
            || !self.history.is_storable(&self.settings)
        {
            return;
        }
        // Pods that only read leave it to those that write, unless those do not do it.
        let times = if self.wrote_since_save { 1 } else { READER_SAVES_AFTER };
        let is_due = if last_left {
            self.save_when_left && tail.0 > 0
        } else {
            self.history.snapshot_due(&self.settings, times)
        };
        if is_due {
            let snapshot = self.history.snapshot(self.settings.mutation);
            self.saving = Some(Saving { version: snapshot.at.version, tail, since_ms: now_ms, last_left });
            self.save_when_left &= !last_left;
            self.out.push(Command::Save(Arc::new(snapshot)));
        }
    }

    pub(crate) fn on_saved(&mut self, version: Version) {
        if let Some(saving) = self.saving.filter(|saving| saving.version <= version) {
            self.history.saved(saving.tail);
            self.saving = None;
            self.wrote_since_save = false;
        }
    }

    /// Its answer is not waited for any more.
    pub(crate) fn forget_saving(&mut self) {
        self.save_when_left |= self.saving.take().is_some_and(|saving| saving.last_left);
    }
}
