//! A pod: the product's document, and what it has asked of the store.
//!
//! In: commands of the document. Out: jobs that the schedule carries out when it likes, and replies on their way back.

use std::{collections::VecDeque, sync::Arc};

use document::{Batch, ConnectionId, Document, Input, Logged, Point, Snapshot, Version};

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

/// How a pod stands to the document.
#[derive(Debug)]
pub(crate) enum Copy {
    Open,
    /// Nobody has asked this pod for it; `Pod::document` means nothing.
    None,
    /// Somebody has; `Pod::document` means nothing yet.
    Opening(Opening),
    /// The pod's document has given up, and waits for what is read.
    Reopening(Opening),
}

/// What a pod has of a document that it opens.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// It hears what is published.
    pub(crate) subscribed: bool,
    pub(crate) read: Option<Read>,
    /// Another primary came meanwhile.
    pub(crate) met_new_primary: bool,
}

/// As much of a stored document as was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) snapshot: Snapshot,
    pub(crate) tail: Vec<Logged>,
    /// The log has more.
    pub(crate) more: bool,
}

impl Read {
    pub(crate) fn version(&self) -> Version {
        self.tail.last().map_or(self.snapshot.at.version, |last| last.at.version)
    }
}

impl Opening {
    pub(crate) fn is_read(&self) -> bool {
        self.read.as_ref().is_some_and(|read| !read.more)
    }
}

/// One pod and its copy of the document.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) copy: Copy,
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
    /// A publish never came, and nothing tells the pod.
    pub(crate) missed: bool,
}

impl Pod {
    /// A pod that has just opened the document.
    pub(crate) fn new(document: Document, era: u64) -> Self {
        Self {
            copy: Copy::Open,
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
            missed: false,
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

    /// Whether it has a copy of the document that goes on.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.copy, Copy::Open)
    }

    /// Whether it reads the document.
    pub(crate) fn is_opening(&self) -> bool {
        matches!(self.copy, Copy::Opening(_) | Copy::Reopening(_))
    }

    pub(crate) fn opening(&mut self) -> Option<&mut Opening> {
        match &mut self.copy {
            Copy::Opening(opening) | Copy::Reopening(opening) => Some(opening),
            Copy::Open | Copy::None => None,
        }
    }

    /// Whether it hears what is published.
    pub(crate) fn listens(&self) -> bool {
        match &self.copy {
            Copy::Open => true,
            Copy::None => false,
            Copy::Opening(opening) | Copy::Reopening(opening) => opening.subscribed,
        }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_opening() && self.jobs.is_empty() && self.replies.is_empty() && self.published.is_empty() && !self.away
    }
}
