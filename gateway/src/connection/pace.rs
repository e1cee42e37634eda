//! How fast one connection may send.
//!
//! In: what a connection does, what its user's others do, the live settings. Out: for joins, cursors and typing whether they may, or a `RATE_LIMITED`
//! that says when; for everything that is read how long to read nothing more. Edits are never refused for their rate.

use std::time::Duration;

use document::{Code, Refusal};
use tokio::time::Instant;

use crate::{
    clock::milliseconds,
    live::Live,
    meter::{Meter, Rate},
    metrics::Metrics,
    registry::Seat,
};

/// What may come at once: everything that an editor kept while it was offline (256 edits a document) of a few documents,
/// and one message of the largest size that is read by default.
const MESSAGE_BURST: Duration = Duration::from_secs(5);
/// All documents that a connection may have at a time, which come together after a reconnect.
const JOIN_BURST: Duration = Duration::from_secs(8);
/// Joins of all connections that a user has on this pod, in those of one: people have a few tabs, and what joins cost the
/// store must not grow with the connections that one user may have.
const USER_JOINS: u32 = 4;
/// A pointer that was dragged.
const CURSOR_BURST: Duration = Duration::from_secs(2);
/// Joins that were refused together do not come again together: this much is added at most.
const JOIN_SPREAD_MS: u64 = 1000;

/// An event with a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paced {
    Join,
    Cursor,
    Typing,
}

/// The meters of one connection.
#[derive(Debug)]
pub(super) struct Pace {
    messages: Meter,
    bytes: Meter,
    joins: Meter,
    cursors: Meter,
    typing: Meter,
}

impl Pace {
    pub(super) fn new() -> Pace {
        let meter = Meter::new(Instant::now());
        Pace { messages: meter, bytes: meter, joins: meter, cursors: meter, typing: meter }
    }

    /// How long to read nothing more after this much was read.
    pub(super) fn was_read(&mut self, messages: usize, bytes: usize, live: &Live, metrics: &Metrics) -> Duration {
        let now = Instant::now();
        let rate = |per_second| Rate { per_second, burst: MESSAGE_BURST };
        let wait = self.messages.charge(messages, rate(live.message_rate), now);
        let wait = wait.max(self.bytes.charge(bytes, rate(live.message_bytes_rate), now));
        if !wait.is_zero() && bytes > 0 {
            metrics.reads_slowed.inc();
        }
        wait
    }

    /// Whether one more of these may come now.
    ///
    /// # Errors
    /// With the refusal that the client gets.
    pub(super) fn take(&mut self, paced: Paced, live: &Live, metrics: &Metrics) -> Result<(), Refusal> {
        let (meter, per_second, burst, event) = match paced {
            Paced::Join => (&mut self.joins, live.join_rate, JOIN_BURST, "join"),
            Paced::Cursor => (&mut self.cursors, live.cursor_rate, CURSOR_BURST, "cursor"),
            Paced::Typing => (&mut self.typing, live.cursor_rate, CURSOR_BURST, "typing"),
        };
        meter.take(Rate { per_second, burst }, Instant::now()).map_err(|wait| {
            metrics.limit(event);
            let spread_ms = if paced == Paced::Join { rand::random_range(0..=JOIN_SPREAD_MS) } else { 0 };
            refusal(per_second, "on one connection", milliseconds(wait).saturating_add(spread_ms))
        })
    }
}

/// Whether one more join of this connection's user may come now.
///
/// # Errors
/// With the refusal that the client gets.
pub(super) fn take_user_join(seat: &Seat, live: &Live, metrics: &Metrics) -> Result<(), Refusal> {
    let rate = Rate { per_second: live.join_rate.saturating_mul(USER_JOINS), burst: JOIN_BURST };
    seat.take_join(rate, Instant::now()).map_err(|wait| {
        metrics.limit("user_join");
        let spread_ms = rand::random_range(0..=JOIN_SPREAD_MS);
        refusal(rate.per_second, "of one user", milliseconds(wait).saturating_add(spread_ms))
    })
}

fn refusal(per_second: u32, whose: &str, wait_ms: u64) -> Refusal {
    let message = format!("more than {per_second} a second {whose}: send the latest one again later");
    let mut refusal = Refusal::new(Code::RateLimited, message);
    refusal.retry_after_ms = Some(wait_ms.saturating_add(1));
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Partial;

    #[tokio::test(start_paused = true)]
    async fn each_event_has_a_rate_of_its_own_and_says_when() {
        let live = Live::from(Partial { cursor_rate: Some(5), join_rate: Some(1), ..Partial::default() });
        let (mut pace, metrics) = (Pace::new(), Metrics::default());
        let mut taken = |paced| (0..100).take_while(|_| pace.take(paced, &live, &metrics).is_ok()).count();
        assert_eq!([taken(Paced::Cursor), taken(Paced::Typing), taken(Paced::Join)], [10, 10, 8]);
        let refusal = pace.take(Paced::Cursor, &live, &metrics).expect_err("empty");
        assert_eq!(refusal.code, Code::RateLimited);
        tokio::time::advance(Duration::from_millis(refusal.retry_after_ms.expect("said"))).await;
        assert_eq!(pace.take(Paced::Cursor, &live, &metrics), Ok(()));
        assert!(metrics.text().contains("collab_gateway_rate_limited_total{event=\"join\"} 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn reading_slows_down_for_many_messages_and_for_many_bytes() {
        let live = Live::from(Partial::default());
        for (messages, bytes) in [(100, 10), (1, 1 << 19)] {
            let (mut pace, metrics) = (Pace::new(), Metrics::default());
            let start = Instant::now();
            for _ in 0..30 {
                tokio::time::advance(pace.was_read(messages, bytes, &live, &metrics)).await;
            }
            let seconds = start.elapsed().as_secs();
            assert!((9..=15).contains(&seconds), "30 reads of half a second each, 5 s of them at once: {seconds} s");
            assert!(metrics.reads_slowed.get() > 0);
        }
    }
}
