//! A message that is half here: how much of the pod's memory it holds, and for how long it may.
//!
//! In: what the decoder keeps after each read. Out: nothing, or the way the connection is to end: when memory is used up
//! and this one holds more than its fair share, or when the rest of the message does not come.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    budget::{Charge, INBOX_FAIR_BYTES, Use},
    outbox::{Ending, Outbox},
};

/// How long a message may take: the largest one over a slow phone's uplink takes about this.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same while half of the pod's memory is used, and how often it is looked at.
const PATIENCE_TIGHT: Duration = Duration::from_secs(10);

/// One connection's half message.
#[derive(Debug)]
pub(super) struct Inbox {
    charge: Charge,
    /// Since when a message is half here, and when to look again.
    since: Option<(Instant, Instant)>,
}

impl Inbox {
    pub(super) fn new(outbox: &Outbox) -> Inbox {
        Inbox { charge: outbox.budget().charge(Use::Inbox), since: None }
    }

    /// Takes note of what the decoder keeps.
    ///
    /// # Errors
    /// With the way the connection is to end.
    pub(super) fn keeps(&mut self, bytes: usize, outbox: &Outbox) -> Result<(), Ending> {
        self.charge.set(bytes);
        if bytes == 0 {
            self.since = None;
            return Ok(());
        }
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some((now, now + PATIENCE_TIGHT));
        }
        if bytes > INBOX_FAIR_BYTES && outbox.budget().is_over() {
            outbox.metrics().overload("inbox");
            return Err(Ending::Transport { code: 1013, reason: "no memory now, try again later" });
        }
        Ok(())
    }

    /// When [`Inbox::passed`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.map(|(_, look)| look)
    }

    /// Ends a connection whose message takes too long.
    ///
    /// # Errors
    /// With the way the connection is to end.
    pub(super) fn passed(&mut self, outbox: &Outbox) -> Result<(), Ending> {
        let now = Instant::now();
        let Some((since, look)) = self.since.as_mut().filter(|(_, look)| *look <= now) else { return Ok(()) };
        let patience = if outbox.budget().is_tight() { PATIENCE_TIGHT } else { PATIENCE };
        if now.saturating_duration_since(*since) >= patience {
            outbox.metrics().overload("inbox");
            return Err(Ending::Transport { code: 1008, reason: "a message took too long" });
        }
        *look = now + PATIENCE_TIGHT;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{budget::Budget, metrics::Metrics, outbox::Common};
    use document::ConnectionId;

    fn inbox(most: usize) -> (Inbox, Outbox) {
        let metrics = Metrics::default();
        let outbox = Outbox::new(ConnectionId(1), Common::new(Budget::new(most, &metrics), metrics));
        (Inbox::new(&outbox), outbox)
    }

    /// How long it may go on keeping so much.
    async fn patience(inbox: &mut Inbox, outbox: &Outbox, bytes: usize) -> Duration {
        let start = Instant::now();
        assert_eq!(inbox.keeps(bytes, outbox), Ok(()));
        while let Some(deadline) = inbox.deadline() {
            tokio::time::sleep_until(deadline).await;
            if inbox.passed(outbox).is_err() {
                break;
            }
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_message_has_two_minutes_and_ten_seconds_where_memory_is_short() {
        let (mut inbox, outbox) = inbox(1_000_000);
        assert_eq!(patience(&mut inbox, &outbox, 100_000).await, PATIENCE);
        inbox.keeps(0, &outbox).unwrap();
        assert_eq!((inbox.deadline(), outbox.budget().held()), (None, 0));
        assert_eq!(patience(&mut inbox, &outbox, 600_000).await, PATIENCE_TIGHT);
        drop(inbox);
        assert_eq!(outbox.budget().held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_budget_only_small_messages_come_through() {
        let (mut inbox, outbox) = inbox(10_000);
        let (mut other, _) = (Inbox::new(&outbox), ());
        assert_eq!(inbox.keeps(10_000, &outbox), Ok(()));
        assert_eq!(other.keeps(INBOX_FAIR_BYTES, &outbox), Ok(()));
        assert!(matches!(other.keeps(INBOX_FAIR_BYTES + 1, &outbox), Err(Ending::Transport { code: 1013, .. })));
        drop(inbox);
        assert_eq!(other.keeps(INBOX_FAIR_BYTES + 1, &outbox), Ok(()));
    }
}
