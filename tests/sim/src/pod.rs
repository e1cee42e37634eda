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
    /// Wait until a follower has what is in the log.
    Wait { ticket: u64 },
}

/// What the document is told of a job.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The primary that said it.
    pub(crate) era: u64,
    pub(crate) inputs: Vec<Input>,
    /// The point after which the log was read.
    pub(crate) after: Option<Point>,
}

impl Reply {
    /// The point that this shows to be in the log.
    pub(crate) fn proves(&self) -> Option<Point> {
        let last = self
            .inputs
            .iter()
            .find_map(|input| if let Input::Learned(entries) = input { entries.last() } else { None });
        last.map(|last| last.at.clone()).or_else(|| self.after.clone())
    }
}

/// One pod and its copy of the document.
#[derive(Debug)]
pub(crate) struct Pod {
    /// The product.
    pub(crate) document: Document,
    /// Not carried out yet.
    pub(crate) jobs: VecDeque<Job>,
    /// Carried out; what the document is told is on its way.
    pub(crate) replies: VecDeque<Reply>,
    /// Publishes on their way.
    pub(crate) published: VecDeque<Input>,
    /// It cannot reach the store.
    pub(crate) away: bool,
    /// The primary that it has met last.
    pub(crate) era: u64,
    /// That primary's log is known to have what the document stands at.
    pub(crate) proven: bool,
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
            proven: true,
            paused: false,
        }
    }

    /// Something comes back from the primary that the pod has met last.
    pub(crate) fn answer(&mut self, inputs: Vec<Input>) {
        self.replies.push_back(Reply { era: self.era, inputs, after: None });
    }

    /// Makes sure that it becomes known whether the head is in the log.
    pub(crate) fn prove_head(&mut self) {
        let is_asked = self.jobs.iter().any(|job| matches!(job, Job::Fetch { .. }));
        let is_answered = self.replies.iter().any(|reply| reply.after.is_some());
        if !self.proven && !is_asked && !is_answered {
            self.check_head();
        }
    }

    /// Takes note of a reply that the document has been told.
    pub(crate) fn told(&mut self, era: u64, proves: Option<&Point>) {
        if era < self.era {
            // What a lost primary said came after the head was checked against the log of the new one.
            self.check_head();
        } else if proves == Some(self.document.head()) {
            self.proven = true;
        }
    }

    /// Asks whether what the document stands at is a point of the log.
    pub(crate) fn check_head(&mut self) {
        self.proven = false;
        let after = self.document.head().clone();
        self.jobs.push_front(Job::Fetch { after });
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.jobs.is_empty() && self.replies.is_empty() && self.published.is_empty() && !self.away
    }
}
