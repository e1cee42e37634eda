//! A pod: the product's document, and what it has asked of the store.
//!
//! In: commands of the document. Out: jobs that the schedule carries out when it likes, and replies on their way back.

use std::{collections::VecDeque, sync::Arc};

use document::{Batch, ConnectionId, Document, Input, Point, Snapshot};

/// Something the store is to do for a pod.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// For a join.
    Lookup { connection: ConnectionId, clients: Vec<Arc<str>>, after: Point },
    /// The commit script.
    Commit(Batch),
    /// The log after this point.
    Fetch { after: Point },
    /// A snapshot.
    Save(Arc<Snapshot>),
}

/// One pod and its copy of the document.
#[derive(Debug)]
pub(crate) struct Pod {
    /// The product.
    pub(crate) document: Document,
    /// Not carried out yet.
    pub(crate) jobs: VecDeque<Job>,
    /// Carried out; what the document is told is on its way.
    pub(crate) replies: VecDeque<Vec<Input>>,
    /// Publishes on their way.
    pub(crate) published: VecDeque<Input>,
    /// It cannot reach the store.
    pub(crate) away: bool,
    /// The primary that it has met last.
    pub(crate) era: u64,
    /// It stands still.
    pub(crate) paused: bool,
}

impl Pod {
    /// A pod that has just opened the document.
    pub(crate) fn new(document: Document, era: u64) -> Self {
        Self {
            document,
            jobs: VecDeque::new(),
            replies: VecDeque::new(),
            published: VecDeque::new(),
            away: false,
            era,
            paused: false,
        }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.jobs.is_empty() && self.replies.is_empty() && self.published.is_empty() && !self.away
    }
}
