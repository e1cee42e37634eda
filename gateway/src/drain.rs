//! Going away politely.
//!
//! In: a server with connections, a deadline, and a wish to hurry. Out: nobody left, at the pace that the rest of the
//! cluster can take. First readiness goes and upgrades are refused, then every client is told when its turn comes, then
//! transports are closed one by one (stock clients come back only from a closed transport). Shortly before its turn a
//! connection is read no further, so that the edits it has sent are answered before it ends.

use std::{sync::Arc, time::Duration};

use rand::{Rng, seq::SliceRandom};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    outbox::{DRAIN, Ending, Outbox},
    server::Server,
};

/// How long a connection is read no further before it is closed: a commit takes a few milliseconds.
const LAST_ANSWERS: Duration = Duration::from_millis(250);
/// Of the deadline, what is kept for closing documents.
const DOCUMENTS_TIME: Duration = Duration::from_secs(5);
/// How long the last closes may take: the pause before one, and a goodbye to a peer that does not answer.
const ENDED_TIME: Duration = Duration::from_secs(3);
/// Service restart, as RFC 6455's registry names it.
const RESTART: u16 = 1012;

/// How a drain is paced.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Transports that are closed a second, unless the deadline asks for more.
    pub per_second: u32,
    /// When all must be over.
    pub deadline: Duration,
    /// How long documents may take to close after the last connection: people whose transport was closed count as
    /// present for ten more seconds, so that nobody sees them leave and come back. Alone there is nobody to see it.
    pub closing: Duration,
}

/// Drains a server whose readiness is off already. After `hurry` it closes everything at once.
pub async fn drain(server: &Server, pace: Pace, hurry: &CancellationToken) {
    let end = Instant::now() + pace.deadline;
    server.drain();
    let outboxes = server.pod().registry.outboxes();
    tracing::info!(connections = outboxes.len(), ?pace, "draining");
    let turns = turns(outboxes, pace);
    for (outbox, turn) in &turns {
        let reconnect_after_ms = u64::try_from(turn.as_millis()).unwrap_or(u64::MAX);
        outbox.push_text(&protocol::draining(reconnect_after_ms));
    }
    let start = Instant::now();
    let paced = async {
        for (outbox, turn) in &turns {
            sleep_until(start + *turn).await;
            close_soon(outbox.clone());
        }
    };
    tokio::select! {
        () = paced => {}
        () = hurry.cancelled() => tracing::info!("hurrying"),
    }
    // Those whose turn did not come, and those who came in while the rest was told.
    for outbox in server.pod().registry.outboxes() {
        close_soon(outbox);
    }
    if timeout(ENDED_TIME, server.ended()).await.is_err() {
        tracing::debug!("some connections did not end in time");
    }
    let closing = end.min(Instant::now() + pace.closing);
    tokio::select! {
        // The store may be away: what is not committed by now its clients still have.
        closed = timeout_at(closing, server.pod().documents.drain()) => {
            if closed.is_err() {
                tracing::debug!("some documents were not closed in time");
            }
        }
        () = hurry.cancelled() => {}
    }
}

/// Each connection with the time of its turn: in random order, evenly spread, each moved a little within its slot.
fn turns(mut outboxes: Vec<Outbox>, pace: Pace) -> Vec<(Outbox, Duration)> {
    let mut random = rand::rng();
    outboxes.shuffle(&mut random);
    let available = pace.deadline.saturating_sub(DOCUMENTS_TIME.min(pace.deadline / 2));
    let slot = Duration::from_secs_f64(1.0 / f64::from(pace.per_second.max(1)));
    let most = u32::try_from(outboxes.len()).ok().and_then(|count| available.checked_div(count));
    let slot = most.map_or(slot, |most| slot.min(most));
    let spread = |(number, outbox): (usize, Outbox)| {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        (outbox, slot.saturating_mul(number) + slot.mul_f64(random.random_range(0.0..1.0)))
    };
    outboxes.into_iter().enumerate().map(spread).collect()
}

fn close_soon(outbox: Outbox) {
    if outbox.is_closing() {
        return;
    }
    outbox.pause_reading(&Arc::from(DRAIN), true);
    // Ends by itself within LAST_ANSWERS; the server waits for the connection that it closes.
    tokio::spawn(async move {
        tokio::time::sleep(LAST_ANSWERS).await;
        outbox.close(Ending::Transport { code: RESTART, reason: "draining" });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use document::ConnectionId;
    use prometheus_client::metrics::counter::Counter;

    fn turns_of(count: u64, per_second: u32, deadline_s: u64) -> Vec<Duration> {
        let outboxes = (0..count).map(|id| Outbox::new(ConnectionId(id), Counter::default())).collect();
        let pace = Pace { per_second, deadline: Duration::from_secs(deadline_s), closing: Duration::ZERO };
        turns(outboxes, pace).into_iter().map(|(_, turn)| turn).collect()
    }

    #[test]
    fn turns_keep_the_rate_and_the_order() {
        let turns = turns_of(1000, 100, 60);
        assert!(turns.is_sorted());
        for second in 0..10 {
            let within = |turn: &&Duration| turn.as_secs() == second;
            assert_eq!(turns.iter().filter(within).count(), 100, "second {second}");
        }
    }

    #[test]
    fn the_deadline_counts_more_than_the_rate() {
        let turns = turns_of(1000, 10, 20);
        assert!(turns.last().is_some_and(|last| last.as_secs() <= 15));
        assert!(turns_of(0, 10, 20).is_empty());
    }
}
