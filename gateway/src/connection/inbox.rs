//! A message that is half here: how much of the pod's memory it holds, and for how long it may.
//!
//! In: what the decoder keeps after each read, and what it has inflated. Out: nothing, or the way the connection is to
//! end: when memory is used up and this one holds more than its fair share, or when the rest of the message does not come.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    budget::{Charge, INBOX_FAIR_BYTES, Use},
    connection::socket::READ_BYTES,
    outbox::{Ending, Outbox},
};

/// How long a message may take: the largest one over a slow phone's uplink takes about this.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same while half of the pod's memory is used, and how often it is looked at.
const PATIENCE_TIGHT: Duration = Duration::from_secs(10);
/// Of messages that were inflated by one read: as much as a read can bring uncompressed. Beyond the budget whoever has more
/// is closed.
const INFLATED_FAIR_BYTES: usize = READ_BYTES;

/// One connection's half message.
#[derive(Debug)]
pub(super) struct Inbox {
    charge: Charge,
    /// Of messages that were inflated, until they are handled.
    inflated: Charge,
    /// Since when a message is half here, and when to look again.
    since: Option<(Instant, Instant)>,
}

impl Inbox {
    pub(super) fn new(outbox: &Outbox) -> Inbox {
        let [charge, inflated] = [(); 2].map(|()| outbox.budget().charge(Use::Inbox));
        Inbox { charge, inflated, since: None }
    }

    /// Takes note of messages that are to be handled and were far smaller on the wire: nobody paid for their size.
    ///
    /// # Errors
    /// With the way the connection is to end.
    pub(super) fn inflated(&mut self, bytes: usize, outbox: &Outbox) -> Result<(), Ending> {
        self.inflated.set(bytes);
        fair(bytes, INFLATED_FAIR_BYTES, outbox)
    }

    /// They are handled.
    pub(super) fn handled(&mut self) {
        self.inflated.set(0);
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
        fair(bytes, INBOX_FAIR_BYTES, outbox)
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

/// Whether so much may be held now.
fn fair(bytes: usize, fair_bytes: usize, outbox: &Outbox) -> Result<(), Ending> {
    if bytes > fair_bytes && outbox.budget().is_over() {
        outbox.metrics().overload("inbox");
        return Err(Ending::Transport { code: 1013, reason: "no memory now, try again later" });
    }
    Ok(())
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
        assert!(matches!(other.inflated(INFLATED_FAIR_BYTES + 1, &outbox), Err(Ending::Transport { code: 1013, .. })));
        assert_eq!(other.inflated(INFLATED_FAIR_BYTES, &outbox), Ok(()));
        drop(inbox);
        other.handled();
        assert_eq!(other.keeps(INBOX_FAIR_BYTES + 1, &outbox), Ok(()));
        assert_eq!(outbox.budget().held(), INBOX_FAIR_BYTES + 1);
    }
}
