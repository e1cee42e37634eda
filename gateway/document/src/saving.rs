//! Snapshots: whose turn it is to store one, and what becomes of it.
//!
//! In: entries and whose they are, snapshots that other pods tell of, the time, what became of a save. Out: at most one
//! save at a time, and word of it for the others.
//!
//! All pods count what came since the newest snapshot. When that is as much as is allowed it is the turn of the one pod
//! that committed the last of it; should it die or fail, then of the one that committed what made it twice as much, and so
//! on. No pod waits for another, or has to know who else is there.

use std::sync::Arc;

use crate::{Command, Document, Peer, Point, Version};

/// A pod whose turn it is not stores a snapshot when so many turns have passed without one.
const OTHERS_SAVE_AFTER: u32 = 4;
/// A snapshot that was not reported as stored after this long, in milliseconds, counts as failed.
const SAVE_AGAIN_MS: u64 = 30_000;

/// The save under way.
#[derive(Debug)]
pub(crate) struct Saving {
    at: Point,
    since_ms: u64,
    /// Because the last client has left.
    last_left: bool,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// How many times as much as is allowed had come, when that was looked at last.
    level: u64,
    /// The entry that made it more.
    at: Version,
    /// This pod committed that one.
    is_here: bool,
    /// Turns since the last snapshot. One large entry is many levels, and one turn.
    count: u32,
}

impl Document {
    /// An entry became the head.
    pub(crate) fn count_for_snapshot(&mut self) {
        let level = self.history.tail_level(&self.settings);
        if level > self.turn.level {
            self.turn.at = self.head().version;
            self.turn.is_here = false;
            self.turn.count = self.turn.count.saturating_add(1);
        }
        self.turn.level = level;
    }

    /// This pod committed the entry of this version.
    pub(crate) fn committed_here(&mut self, version: Version) {
        self.turn.is_here |= version == self.turn.at;
    }

    /// When a save that is not answered counts as failed.
    pub(crate) fn saving_deadline_ms(&self) -> Option<u64> {
        self.saving.as_ref().map(|saving| saving.since_ms.saturating_add(SAVE_AGAIN_MS))
    }

    /// Stores a snapshot when opening would be slow and it is this pod's turn, and once when the last client has left.
    /// Others may go on typing on other pods.
    pub(crate) fn save(&mut self, now_ms: u64) {
        let last_left = self.connections.is_empty() && self.draining.is_empty();
        if self.saving.is_some()
            || self.healing.is_some()
            || self.away_since_ms.is_some()
            || self.flight.is_some() && last_left
            || !self.history.is_storable(&self.settings)
        {
            return;
        }
        let is_due = if last_left {
            self.save_when_left && self.history.tail_entries() > 0
        } else {
            let is_turn = self.turn.is_here || self.turn.count >= OTHERS_SAVE_AFTER;
            is_turn && self.history.tail_level(&self.settings) > 0
        };
        if is_due {
            let snapshot = self.history.snapshot(self.settings.mutation);
            self.saving = Some(Saving { at: snapshot.at.clone(), since_ms: now_ms, last_left });
            self.save_when_left &= !last_left;
            self.out.push(Command::Save(Arc::new(snapshot)));
        }
    }

    /// A save of this pod is stored, or a newer one.
    pub(crate) fn on_saved(&mut self, version: Version) {
        if let Some(saving) = self.saving.take_if(|saving| saving.at.version <= version) {
            self.out.push(Command::Publish(Peer::Saved { at: saving.at }));
            self.snapshot_at(version);
        }
    }

    /// Another pod has stored one.
    pub(crate) fn on_saved_elsewhere(&mut self, at: &Point) {
        // One of another history says nothing of this one's; of one that is ahead nothing shows that it is of this one.
        let is_known = self.history.hash(at.version).is_none_or(|hash| *hash == at.hash);
        if is_known && at.version <= self.heard.max(self.head().version) {
            self.snapshot_at(at.version);
        }
    }

    fn snapshot_at(&mut self, version: Version) {
        self.history.saved(version);
        // Where more than is allowed has come meanwhile, whoever commits the next entry has the turn.
        self.turn = Turn::default();
    }

    /// Its answer is not waited for any more.
    pub(crate) fn forget_saving(&mut self) {
        self.save_when_left |= self.saving.take().is_some_and(|saving| saving.last_left);
    }
}
