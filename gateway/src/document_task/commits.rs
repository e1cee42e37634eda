//! The task's part in commits: one call, repeated until it is answered.
//!
//! In: batches, answers of the store. Out: replies for the document, and whether the store is away.

use std::{sync::Arc, time::Duration};

use document::{CommitReply, Document, Input, Verdict, Version};

use super::{Done, End, Flow, Sent, Task};
use crate::{
    document_io::{self as io, Trouble},
    store::Era,
    telemetry::{number, step, within},
};

/// A commit that was not answered is repeated after this time, twice as long each time, between these bounds.
const REPEAT_MIN: Duration = Duration::from_millis(50);
const REPEAT_MAX: Duration = Duration::from_millis(500);

impl Task {
    pub(super) fn commit(&self, batch: Arc<Sent>, repeats: u32) {
        let (parts, id) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id));
        self.start(async move {
            if let Some(exponent) = repeats.checked_sub(1) {
                tokio::time::sleep((REPEAT_MIN * 2u32.pow(exponent.min(8))).min(REPEAT_MAX)).await;
            }
            let span =
                step!(&batch.span, "store.commit", otel.kind = "client", attempt = number(repeats.saturating_add(1)));
            let result = within(span, io::commit(&parts, &id, &batch.head, batch.floor, &batch.entries)).await;
            Done::Committed { batch, result, repeats }
        });
    }

    pub(super) fn committed(
        &mut self,
        document: &mut Document,
        batch: Arc<Sent>,
        result: Result<(CommitReply, Era), Trouble>,
        repeats: u32,
    ) -> Flow {
        match result {
            Err(trouble) if trouble.is_passing() => {
                // It may have been carried out; the identities of its entries make the repetition harmless.
                if !self.away {
                    tracing::warn!(document = %self.id, %trouble, "a commit was not answered, repeating it");
                    self.away = true;
                    self.feed(document, Input::StoreAway(true))?;
                }
                self.commit(batch, repeats.saturating_add(1));
                Ok(())
            }
            Err(trouble) => {
                batch.span.record("attempts", number(repeats.saturating_add(1))).record("otel.status_code", "ERROR");
                Err(End::Broken(trouble))
            }
            Ok((reply, era)) => {
                self.committing = false;
                self.promises.committed_in(era);
                let metrics = &self.inner.parts.metrics;
                let is_new = |verdict: &&Verdict| is_appended(**verdict, batch.head.version, repeats);
                let appended = reply.verdicts.iter().filter(is_new).count();
                batch.span.record("attempts", number(repeats.saturating_add(1))).record("appended", number(appended));
                metrics.edits_committed.inc_by(appended as u64);
                let seconds = batch.since.elapsed().as_secs_f64();
                // Edits that share a call took as long as it each: quantiles are of edits, not of calls.
                (0..appended).for_each(|_| metrics.edit_commit_seconds.observe(seconds));
                if std::mem::take(&mut self.away) {
                    self.feed(document, Input::StoreAway(false))?;
                }
                self.feed(document, Input::Committed(reply))
            }
        }
    }
}

/// Whether this batch brought the entry into the log. An attempt whose answer was lost may have: then the repetition finds
/// it after the head that both were made on.
fn is_appended(verdict: Verdict, head: Version, repeats: u32) -> bool {
    match verdict {
        Verdict::Ok(_) => true,
        Verdict::Dup(version) => repeats > 0 && version > head,
        Verdict::Gap(_) | Verdict::Behind | Verdict::Overloaded => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_counts_with_the_answer_that_came_whichever_attempt_appended_it() {
        for (verdict, repeats, expected) in [
            (Verdict::Ok(8), 0, true),
            (Verdict::Ok(8), 3, true),
            (Verdict::Dup(8), 1, true),
            // Its client had sent it on another way before.
            (Verdict::Dup(8), 0, false),
            (Verdict::Dup(7), 1, false),
            (Verdict::Behind, 1, false),
            (Verdict::Gap(8), 1, false),
            (Verdict::Overloaded, 1, false),
        ] {
            assert_eq!(is_appended(verdict, 7, repeats), expected, "{verdict:?} after {repeats} repeats");
        }
    }
}
