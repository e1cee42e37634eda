//! How long edits took from their commit, on any pod, to the sockets here.
//!
//! In: versions that were committed, with a time, and how far this copy is, which is written out as soon as it is known.
//! Out: one observation of each version, whichever way it came: in a notice, from the log because it was too large for
//! one or was missed, or in the answer to this pod's own commit.

use std::time::Duration;

use document::{Document, Version};

use super::{Task, now_ms};

/// What is observed, and what is known of what is not yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Deliveries {
    observed: Version,
    /// The newest version of which a time is known.
    told: Version,
    /// When the oldest of those that are not observed was committed, as far as is known, in Unix milliseconds.
    since_ms: u64,
}

impl Deliveries {
    /// What a copy is opened with is delivered by joins.
    pub(super) fn start_at(&mut self, version: Version) {
        *self = Deliveries { observed: version, told: version, since_ms: 0 };
    }

    /// Versions up to this one were committed, the last of them at that time.
    pub(super) fn told(&mut self, version: Version, at_ms: u64) {
        if version <= self.observed {
            return;
        }
        let is_first = self.told <= self.observed;
        self.since_ms = if is_first { at_ms } else { self.since_ms.min(at_ms) };
        self.told = self.told.max(version);
    }

    /// How many were delivered by this, of those whose time is known, and since when they were due.
    fn delivered(&mut self, head: Version) -> Option<(u64, u64)> {
        let until = head.min(self.told);
        let count = until.checked_sub(self.observed).filter(|count| *count > 0)?;
        self.observed = until;
        Some((count, self.since_ms))
    }
}

impl Task {
    /// What the document has is on the sockets.
    pub(super) fn observe_deliveries(&mut self, document: &Document) {
        let Some((count, since_ms)) = self.deliveries.delivered(document.head().version) else { return };
        // The store's clock and this pod's: in one cluster they differ by less than what is worth knowing.
        let seconds = Duration::from_millis(now_ms().saturating_sub(since_ms)).as_secs_f64();
        (0..count).for_each(|_| self.inner.parts.metrics.edit_delivery_seconds.observe(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_observed_once_whichever_way_it_came() {
        let mut deliveries = Deliveries::default();
        deliveries.start_at(10);
        // The answer to a commit is quicker than its notice.
        assert_eq!(deliveries.delivered(12), None);
        deliveries.told(12, 500);
        assert_eq!(deliveries.delivered(14), Some((2, 500)), "13 and 14 have notices of their own");
        // Told late, by a notice of its version alone and by the log.
        deliveries.told(14, 600);
        deliveries.told(20, 700);
        assert_eq!(deliveries.delivered(14), Some((2, 600)));
        deliveries.told(22, 900);
        deliveries.told(22, 950);
        assert_eq!(deliveries.delivered(14), None);
        assert_eq!(deliveries.delivered(20), Some((6, 600)), "what is known is a bound");
        assert_eq!(deliveries.delivered(22), Some((2, 600)));
        // Once more, and of an older one.
        deliveries.told(22, 1000);
        deliveries.told(9, 1);
        assert_eq!(deliveries.delivered(22), None);
        deliveries.told(23, 1100);
        assert_eq!(deliveries.delivered(23), Some((1, 1100)));
        deliveries.start_at(15);
        assert_eq!(deliveries.delivered(16), None, "a copy that was opened anew");
    }
}
