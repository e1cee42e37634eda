//! Waits until what a document acknowledges is as durable as the cluster promises.
//!
//! In: tickets, each for the log up to a point. Out: `Durable`. One question at a time, beside the document's other work:
//! no commit waits for a follower. Tickets that come meanwhile are one question, asked when this one is answered.

use std::{sync::Arc, time::Duration};

use document::{Document, Input, Point};
use futures_util::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;

use super::{Flow, Task};
use crate::{
    document_io::Trouble,
    documents::Parts,
    store::{Era, Store},
};

/// Before the log is asked again whether it still has what is to be durable.
const AGAIN: Duration = Duration::from_millis(100);

/// The questions of one document.
#[derive(Default)]
pub(super) struct Promises {
    asking: Option<BoxFuture<'static, Answered>>,
    next: Option<Question>,
    /// Of the newest reply to a commit.
    era: Option<Era>,
}

/// How many acknowledgements of one document wait, as a part of the pod's.
pub(super) struct Owed {
    gauge: Gauge,
    count: usize,
}

impl Owed {
    pub(super) fn new(gauge: Gauge) -> Owed {
        Owed { gauge, count: 0 }
    }

    pub(super) fn set(&mut self, count: usize) {
        // Bounded by the document.
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.gauge.inc_by(signed(count) - signed(self.count));
        self.count = count;
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A question's answer.
pub(super) struct Answered {
    ticket: u64,
    result: Result<(), Trouble>,
}

struct Question {
    ticket: u64,
    at: Point,
    /// The era in which the log is known to have it; none: the log must be asked.
    era: Option<Era>,
}

impl Promises {
    /// A commit was answered in this era.
    pub(super) fn committed_in(&mut self, era: Era) {
        self.era = Some(era);
    }

    /// Completes when the question under way is answered.
    pub(super) async fn answered(&mut self) -> Answered {
        match &mut self.asking {
            Some(asking) => {
                let answered = asking.await;
                self.asking = None;
                answered
            }
            None => std::future::pending().await,
        }
    }
}

impl Task {
    pub(super) fn make_durable(&mut self, ticket: u64, at: Point, by_commit: bool) {
        let era = self.promises.era.filter(|_| by_commit);
        // What the older of two was known by must do for both.
        let era = match &self.promises.next {
            Some(older) if older.era != era => None,
            _ => era,
        };
        self.promises.next = Some(Question { ticket, at, era });
        self.ask_next();
    }

    pub(super) fn answered(&mut self, document: &mut Document, answered: Answered) -> Flow {
        self.ask_next();
        match answered.result {
            Ok(()) => self.feed(document, Input::Durable { ticket: answered.ticket }),
            Err(trouble) => self.trouble(document, trouble),
        }
    }

    fn ask_next(&mut self) {
        if self.promises.asking.is_some() {
            return;
        }
        if let Some(question) = self.promises.next.take() {
            let (parts, id) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id));
            self.promises.asking = Some(Box::pin(async move {
                let ticket = question.ticket;
                Answered { ticket, result: until_durable(&parts, &id, question).await }
            }));
        }
    }
}

/// Asks as often as it takes. An era that is over says nothing of what was committed in it: then the log is asked, and
/// if it has the point it has everything before it, in the era of that answer.
async fn until_durable(parts: &Parts, document_id: &str, question: Question) -> Result<(), Trouble> {
    let mut known = question.era;
    loop {
        let era = match known.take() {
            Some(era) => Ok(era),
            None => has(&parts.store, document_id, &question.at).await,
        };
        let outcome = match era {
            Ok(era) => parts.store.make_durable(era).await.map_err(Trouble::from),
            Err(trouble) => Err(trouble),
        };
        match outcome {
            Err(Trouble::Store(error)) if error.is_passing() => {
                tracing::debug!(document = document_id, %error, "it is not known to be durable");
                tokio::time::sleep(AGAIN).await;
            }
            outcome => return outcome,
        }
    }
}

/// In which era the log has this point.
async fn has(store: &Store, document_id: &str, at: &Point) -> Result<Era, Trouble> {
    let found = store.lookup(document_id, &[], at).await?;
    if found.tail.forked { Err(Trouble::Forked) } else { Ok(found.era) }
}
