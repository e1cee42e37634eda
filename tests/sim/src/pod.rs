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
    /// Wait until a follower has the log up to a point.
    Wait(Question),
}

/// What a pod wants to be durable, asked as the gateway asks it: one question at a time, those that come meanwhile as one.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) ticket: u64,
    /// The log up to here.
    pub(crate) at: Point,
    /// The primary whose log is known to have it; none: the log must be asked.
    pub(crate) era: Option<u64>,
}

/// What the document is told of a job.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The primary that said it.
    pub(crate) era: u64,
    pub(crate) inputs: Vec<Input>,
    /// It ends the question that is asked.
    pub(crate) ends_question: bool,
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
    /// The primary that said the newest reply to a commit.
    committed_era: Option<u64>,
    /// A question is under way.
    asks: bool,
    next_question: Option<Question>,
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
            committed_era: None,
            asks: false,
            next_question: None,
            paused: false,
        }
    }

    /// Something comes back from the primary that the pod has met last.
    pub(crate) fn answer(&mut self, inputs: Vec<Input>) {
        self.replies.push_back(Reply { era: self.era, inputs, ends_question: false });
    }

    /// The question that is asked is answered.
    pub(crate) fn answer_question(&mut self, input: Input) {
        self.replies.push_back(Reply { era: self.era, inputs: vec![input], ends_question: true });
    }

    /// The document wants the log up to here to be durable; `by_commit`: the reply that it handles shows it to be there.
    pub(crate) fn make_durable(&mut self, ticket: u64, at: Point, by_commit: bool) {
        let era = self.committed_era.filter(|_| by_commit);
        // What the older of two was known by must do for both.
        let era = if self.next_question.as_ref().is_some_and(|older| older.era != era) { None } else { era };
        self.next_question = Some(Question { ticket, at, era });
        self.ask_next();
    }

    fn ask_next(&mut self) {
        if !self.asks
            && let Some(question) = self.next_question.take()
        {
            self.asks = true;
            self.jobs.push_back(Job::Wait(question));
        }
    }

    /// Takes note of a reply that the document is about to be told.
    pub(crate) fn tells(&mut self, reply: &Reply) {
        if reply.inputs.iter().any(|input| matches!(input, Input::Committed(_))) {
            self.committed_era = Some(reply.era);
        }
        if reply.ends_question {
            self.asks = false;
            self.ask_next();
        }
    }

    /// Takes note of a reply that the document has been told.
    pub(crate) fn told(&mut self, era: u64) {
        if era < self.era {
            // What a lost primary said came after the head was checked against the log of the new one.
            self.check_head();
        }
    }

    /// Asks whether what the document stands at is a point of the log.
    pub(crate) fn check_head(&mut self) {
        let after = self.document.head().clone();
        self.jobs.push_front(Job::Fetch { after });
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.jobs.is_empty() && self.replies.is_empty() && self.published.is_empty() && !self.away
    }
}
