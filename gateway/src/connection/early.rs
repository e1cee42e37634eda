//! Edits that come before their join: stock clients flush what they emitted while they were disconnected, some of them
//! before their own `connect` handler runs.
//!
//! In: edits of documents that the connection has not joined. Out: the same, in order, for the join that follows; or
//! back to be refused when there are too many or no join comes. Once some were refused the later ones make no sense
//! either, until a join.

use std::{sync::Arc, time::Duration};

use document::Edit;
use tokio::time::Instant;

/// Edits that are kept.
const EDITS_MAX: usize = 64;
/// How long.
const WAIT: Duration = Duration::from_secs(10);
/// Documents whose later edits make no sense any more; beyond that no edit is kept at all.
const SPOILED_MAX: usize = 64;

/// What an edit takes besides its operations.
const EDIT_OVERHEAD_BYTES: usize = 256;

/// An edit of a document.
pub(super) type Kept = (Arc<str>, Edit);

/// The kept edits of one connection.
#[derive(Debug)]
pub(super) struct Early {
    edits: Vec<(Instant, Kept)>,
    bytes: usize,
    bytes_max: usize,
    spoiled: Vec<Arc<str>>,
}

impl Early {
    /// Nothing yet; `bytes_max` bounds all edits together, though one is always kept.
    pub(super) fn new(bytes_max: usize) -> Early {
        Early { edits: Vec::new(), bytes: 0, bytes_max, spoiled: Vec::new() }
    }

    /// Keeps an edit, or gives back what must be refused: it, and those that it followed.
    pub(super) fn keep(&mut self, document_id: Arc<str>, edit: Edit, now: Instant) -> Vec<Kept> {
        let weight = edit.ops.weight_bytes();
        let is_full = self.edits.len() >= EDITS_MAX
            || (!self.edits.is_empty() && self.bytes + weight > self.bytes_max)
            || self.spoiled.len() >= SPOILED_MAX
            || self.spoiled.contains(&document_id);
        if !is_full {
            self.bytes += weight;
            self.edits.push((now + WAIT, (document_id, edit)));
            return Vec::new();
        }
        let mut refused: Vec<Kept> =
            self.remove(&document_id).into_iter().map(|edit| (document_id.clone(), edit)).collect();
        self.spoil(&document_id);
        refused.push((document_id, edit));
        refused
    }

    /// What came before this join, in order.
    pub(super) fn take(&mut self, document_id: &str) -> Vec<Edit> {
        self.spoiled.retain(|spoiled| **spoiled != *document_id);
        self.remove(document_id)
    }

    /// What has waited too long.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Kept> {
        let mut refused = Vec::new();
        while let Some((_, (document_id, _))) = self.edits.first().filter(|(until, _)| *until <= now) {
            let document_id = document_id.clone();
            refused.extend(self.remove(&document_id).into_iter().map(|edit| (document_id.clone(), edit)));
            self.spoil(&document_id);
        }
        refused
    }

    /// When [`Early::expired`] has something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.edits.first().map(|(until, _)| *until)
    }

    /// What is kept, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.edits.len() * EDIT_OVERHEAD_BYTES
    }

    fn remove(&mut self, document_id: &str) -> Vec<Edit> {
        let (taken, left) = std::mem::take(&mut self.edits).into_iter().partition(|(_, (id, _))| **id == *document_id);
        self.edits = left;
        let taken: Vec<(Instant, Kept)> = taken;
        let edits: Vec<Edit> = taken.into_iter().map(|(_, (_, edit))| edit).collect();
        self.bytes -= edits.iter().map(|edit| edit.ops.weight_bytes()).sum::<usize>();
        edits
    }

    fn spoil(&mut self, document_id: &Arc<str>) {
        if self.spoiled.len() < SPOILED_MAX && !self.spoiled.contains(document_id) {
            self.spoiled.push(document_id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use document::ConnectionId;
    use ot::Delta;

    fn edit(text: &str) -> Edit {
        Edit {
            connection: ConnectionId(1),
            version: 0,
            ops: Delta::new().insert(text, None),
            unreadable: None,
            seq: None,
            session: None,
            reply: None,
        }
    }

    #[tokio::test]
    async fn a_join_takes_its_documents_edits_in_order() {
        let mut early = Early::new(1000);
        let now = Instant::now();
        for (id, text) in [("a", "1"), ("b", "2"), ("a", "3")] {
            assert!(early.keep(id.into(), edit(text), now).is_empty());
        }
        assert_eq!(early.take("a").iter().map(|edit| edit.ops.plain_text()).collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!((early.take("b").len(), early.take("b").len(), early.bytes), (1, 0, 0));
        assert_eq!(early.deadline(), None);
    }

    #[tokio::test]
    async fn what_is_refused_takes_its_neighbours_along_until_a_join() {
        let mut early = Early::new(1000);
        let now = Instant::now();
        assert!(early.keep("a".into(), edit(&"x".repeat(2000)), now).is_empty(), "one is always kept");
        assert_eq!(early.keep("a".into(), edit("y"), now).len(), 2);
        assert_eq!(early.keep("a".into(), edit("z"), now).len(), 1);
        assert!(early.take("a").is_empty());
        assert!(early.keep("a".into(), edit("z"), now).is_empty());
        assert!(early.expired(now).is_empty());
        assert_eq!(early.expired(now + WAIT).len(), 1);
        assert_eq!(early.keep("a".into(), edit("z"), now).len(), 1);
    }

    #[tokio::test]
    async fn no_more_than_the_contract_says_are_kept() {
        let mut early = Early::new(1_000_000);
        let now = Instant::now();
        for _ in 0..EDITS_MAX {
            assert!(early.keep("a".into(), edit("x"), now).is_empty());
        }
        assert_eq!(early.keep("a".into(), edit("x"), now).len(), EDITS_MAX + 1);
    }
}
