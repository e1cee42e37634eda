//! The task's part in histories that change: who notices, and how the document goes on.
//!
//! In: another primary, answers that belong to the one before, a copy that gave up. Out: questions to the log, and the
//! same document over what the store holds now; which edits are put back is the document's to say.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use document::{Document, Input, Point, Reopened, Version};

use super::{Done, LINGER, Task, now_ms};
use crate::{
    bus::Subscription,
    document_io::{self as io, Trouble},
    store::Store,
};

/// A document stays open for this long after its newest entry: if a failover loses that, somebody still has it.
const REMEMBER: Duration = Duration::from_secs(30);
/// After a failover the log is asked once more: an answer that the old primary gave before it was lost may come late.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Between attempts to read the store, twice as long each time, between these bounds.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

impl Task {
    /// Until when the document is kept that nobody has used since then. Only a store with followers loses entries, and
    /// those who go on elsewhere remember what came after that.
    pub(super) fn kept_until(&self, unused_since: Instant) -> Instant {
        let remembered = match self.inner.parts.store {
            Store::Redis(_) => self.grew.map(|grew| grew.min(unused_since) + REMEMBER),
            Store::Memory(_) => None,
        };
        (unused_since + LINGER).max(remembered.unwrap_or(unused_since))
    }

    /// Another server is the primary, or it was restarted: the head may not be a point of the log any more.
    pub(super) fn history_changed(&mut self, document: &Document) {
        self.ask_the_log(document);
        self.start(async {
            tokio::time::sleep(ASK_AGAIN).await;
            Done::AskAgain
        });
    }

    /// Reads the document anew for a copy that gave up, however long the store is away: this copy may be the only one of
    /// what it has. Mail is taken meanwhile: who joins waits for the new copy, with its role and its numbers, until that
    /// takes too long, and who leaves is not in it.
    pub(super) async fn open_again(&mut self, document: &mut Document) -> Result<Subscription, Trouble> {
        let mut pause = Duration::ZERO;
        loop {
            let (parts, id, channel) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id), self.channel.clone());
            let known = self.seen.clone();
            let reading = async move {
                // Not all documents of all pods at once.
                tokio::time::sleep(pause.mul_f64(rand::random_range(1.0..1.5))).await;
                // First the ear, then the eye: what is committed in between is heard.
                let subscription = parts.bus.subscribe(&channel).await?;
                // It is open already, and in use: it is not asked whether there is room for it.
                let loading = io::load(&parts, &id, |_| true);
                let (loaded, people) = tokio::join!(loading, io::people(&parts, &id, &known));
                Ok((subscription, loaded?, people?))
            };
            tokio::pin!(reading);
            let read: Result<_, Trouble> = loop {
                tokio::select! {
                    read = &mut reading => break read,
                    Some(mail) = self.mail.recv() => { let _ = self.take(document, *mail); }
                }
            };
            // What that asked for is asked for anew.
            self.forget();
            match read {
                Ok((subscription, loaded, (members, live))) => {
                    let reopened = document
                        .open_again(loaded.snapshot, loaded.tail, now_ms())
                        .map_err(|error| Trouble::Unreadable(error.to_string()))?;
                    self.tell(&reopened);
                    self.deliveries.start_at(document.head().version);
                    let flow = self.feed(document, Input::Presence { members, live });
                    debug_assert!(flow.is_ok(), "a copy that was just opened does not give up");
                    return Ok(subscription);
                }
                Err(trouble) if trouble.is_passing() => {
                    tracing::debug!(document = %self.id, %trouble, "the document cannot be read yet");
                    pause = (pause * 2).clamp(RETRY_MIN, RETRY_MAX);
                    for input in [Input::StoreAway(true), Input::Tick] {
                        let flow = self.feed(document, input);
                        debug_assert!(flow.is_ok(), "a copy that gave up does not do so again");
                    }
                }
                Err(trouble) => {
                    tracing::error!(
                        document = %self.id,
                        edits = document.recent().count(),
                        "what this pod remembers of the document can be put back no more"
                    );
                    return Err(trouble);
                }
            }
        }
    }

    fn tell(&self, reopened: &Reopened) {
        let Reopened { common, found, missing, given_up } = reopened;
        let common = common.as_ref().map(|point| point.version);
        let metrics = &self.inner.parts.metrics;
        metrics.edits_put_back.inc_by(*missing as u64);
        if *given_up > 0 {
            tracing::error!(document = %self.id, given_up, "the history changed further back than this pod remembers");
        } else {
            tracing::info!(document = %self.id, common, found, missing, "the document was opened anew");
        }
    }

    /// Edits that a failover lost, and that the log does not take or the document cannot hold any more.
    pub(super) fn gave_up(&self, edits: usize) {
        self.inner.parts.metrics.edits_given_up.inc_by(edits as u64);
        tracing::error!(document = %self.id, edits, "edits that a failover lost cannot be put back");
    }

    /// What came after the head, if the head is still a point of the log.
    pub(super) fn ask_the_log(&self, document: &Document) {
        self.fetch(document.head().clone());
    }

    pub(super) fn fetch(&self, after: Point) {
        let (parts, id) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id));
        let asked_ms = now_ms();
        self.start(async move { Done::Fetched { asked_ms, result: io::fetch(&parts, &id, &after).await } });
    }

    /// Copies of the document with one history and two contents.
    pub(super) fn diverged(&self, version: Version) {
        self.inner.parts.metrics.divergence.inc();
        tracing::error!(document = %self.id, version, "copies of the document differ");
    }
}
