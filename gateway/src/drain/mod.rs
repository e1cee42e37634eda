//! Going away politely.
//!
//! In: SIGTERM, or the agent's order, and a rate, a deadline, a wish to hurry. Out: nobody left, at the pace that the
//! rest of the cluster can take. Upgrades are refused first, then every client is told when its turn comes, then
//! transports are closed one by one (stock clients come back only from a closed transport). Before its turn a connection
//! is read no further, and it is closed when the edits that it has sent are committed and acknowledged.

mod line;
mod pace;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tracing::{Span, field::Empty};

use self::line::{Line, Terms};
use crate::{
    admin,
    clock::milliseconds,
    live::Live,
    outbox::Outbox,
    server::Server,
    telemetry::{number, root, step, within},
};

/// Of the deadline of a process that ends, what is kept for goodbyes and for closing documents.
const DOCUMENTS_TIME: Duration = Duration::from_secs(5);
/// What is left of it for those who are in a hurry: commits under way finish.
const DOCUMENTS_HURRIED: Duration = Duration::from_secs(2);
/// How long the last sockets may take to be closed on both sides.
const ENDED_TIME: Duration = Duration::from_secs(3);
/// How long a document may take to say whether it has edits that are not in the log.
const LAST_QUESTION: Duration = Duration::from_millis(200);
/// When all are closed, how often it is looked whether they are gone.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a drain keeps to. A later order changes a drain that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Connections that are closed a second, unless the deadline asks for more; without it the live setting.
    pub per_second: Option<u32>,
    /// When the last connection is to be closed.
    pub by: Instant,
}

/// Whether a pod that drains counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// `/readyz` says no at once.
    Off,
    /// Somebody else keeps new clients away; a pod that is not ready would use up the disruption budget.
    Stays,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// An order stands.
    pub draining: bool,
    /// The process ends when it is done.
    pub ending: bool,
    /// Connections that are open.
    pub connections: usize,
    /// Documents that are open.
    pub documents: usize,
    /// Closes a second, while draining.
    pub rate_per_second: Option<u32>,
    /// Until the last connection is to be closed, while draining.
    pub remaining_ms: Option<u64>,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Connections that did not end.
    pub connections_left: usize,
    /// Documents with edits that did not get into the log, or whose acknowledgement waits. Their clients send them again.
    pub documents_unsettled: usize,
}

impl Outcome {
    /// Nobody was cut off and nothing was given up.
    pub fn is_clean(&self) -> bool {
        *self == Outcome { connections_left: 0, documents_unsettled: 0 }
    }
}

/// The process is ending: that cannot be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process is ending")]
pub struct Ending;

/// The pod's way out; clones are the same.
#[derive(Clone)]
pub struct Drain {
    server: Arc<Server>,
    admin: admin::State,
    live: watch::Receiver<Live>,
    wish: Arc<watch::Sender<Wish>>,
    /// Nobody is left, and nobody comes.
    is_empty: Arc<watch::Sender<bool>>,
    /// From the first order to the end, or until it is called off.
    span: Arc<Mutex<Option<Span>>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wish {
    order: Option<Order>,
    /// Orders that came where none stood: for each of them everybody is told anew.
    begun: u64,
    hurry: bool,
    is_ending: bool,
}

impl Drain {
    /// Nothing happens before an order.
    pub fn new(server: Arc<Server>, admin: admin::State, live: watch::Receiver<Live>) -> Drain {
        Drain { server, admin, live, wish: Arc::default(), is_empty: Arc::default(), span: Arc::default() }
    }

    /// Begins, or changes the pace.
    ///
    /// # Errors
    /// When the process is ending, whose order stands, but an earlier end is taken.
    pub fn order(&self, order: Order, readiness: Readiness) -> Result<(), Ending> {
        let mut refused = Ok(());
        self.begin(readiness, |wish| match &mut wish.order {
            Some(standing) if wish.is_ending => {
                refused = Err(Ending);
                standing.by = standing.by.min(order.by);
            }
            standing => *standing = Some(order),
        });
        refused
    }

    /// An order, and what follows from it for those who come, is one step: whoever calls it off, or ends the process, at
    /// the same time comes before all of it or after.
    fn begin(&self, readiness: Readiness, set: impl FnOnce(&mut Wish)) {
        self.wish.send_modify(|wish| {
            wish.begun += u64::from(wish.order.is_none());
            set(wish);
            self.server.drain();
            self.admin.drain(readiness);
            self.is_empty.send_replace(false);
            self.begin_trace();
        });
    }

    /// Clients are welcome again; those who were about to be closed still are.
    ///
    /// # Errors
    /// When the process is ending.
    pub fn cancel(&self) -> Result<(), Ending> {
        let mut refused = Ok(());
        self.wish.send_modify(|wish| {
            if wish.is_ending {
                refused = Err(Ending);
                return;
            }
            wish.order = None;
            if let Some(span) = self.span().take() {
                span.record("outcome", "called off");
            }
            self.server.welcome();
            self.admin.welcome();
            tracing::info!("the drain was called off");
        });
        refused
    }

    /// Closes everything as soon as what is under way is done.
    pub fn hurry(&self) {
        tracing::info!("hurrying");
        self.wish.send_modify(|wish| wish.hurry = true);
    }

    /// What is going on.
    pub fn status(&self) -> Status {
        let Wish { order, is_ending, .. } = *self.wish.borrow();
        let pod = self.server.pod();
        let remaining = order.map(|order| order.by.saturating_duration_since(Instant::now()));
        Status {
            draining: order.is_some(),
            ending: is_ending,
            connections: pod.registry.count(),
            documents: pod.documents.count(),
            rate_per_second: order.map(|order| self.rate(&order)),
            remaining_ms: remaining.map(milliseconds),
        }
    }

    /// Closes connections whenever an order stands. Runs as long as the process.
    pub async fn run(self) {
        let mut wish = self.wish.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = wish.wait_for(|wish| wish.order.is_some()).await;
            self.empty().await;
        }
    }

    /// Ends: no connection within `deadline`, then the documents, which may take `closing` more of it. To be called once,
    /// beside [`Drain::run`].
    pub async fn end(&self, deadline: Duration, closing: Duration) -> Outcome {
        let now = Instant::now();
        let end = now + deadline;
        let by = end - DOCUMENTS_TIME.min(deadline / 2);
        self.begin(Readiness::Off, |wish| {
            wish.is_ending = true;
            wish.order = Some(Order {
                per_second: wish.order.and_then(|standing| standing.per_second),
                by: wish.order.map_or(by, |standing| standing.by.min(by)),
            });
        });
        let pod = self.server.pod();
        let mut is_empty = self.is_empty.subscribe();
        let span = self.span().take().unwrap_or_else(Span::none);
        // What was said of an order before this one may be late.
        let emptying = timeout_at(end, is_empty.wait_for(|is_empty| *is_empty && pod.registry.count() == 0));
        let _ = within(step!(&span, "drain.connections"), emptying).await;
        let connections_left = pod.registry.count();
        // Sockets that are being closed by the peer, requests that were being answered: nobody minds.
        let _ = timeout(ENDED_TIME, self.server.ended()).await;
        let closing = self.close_documents(end.min(Instant::now() + closing));
        within(step!(&span, "drain.documents"), closing).await;
        let documents_unsettled = pod.documents.unsettled(LAST_QUESTION).await;
        let outcome = Outcome { connections_left, documents_unsettled };
        span.record("outcome", if outcome.is_clean() { "clean" } else { "cut off" })
            .record("connections_left", number(connections_left))
            .record("documents_unsettled", number(documents_unsettled));
        outcome
    }

    fn begin_trace(&self) {
        let pod = self.server.pod();
        self.span().get_or_insert_with(|| {
            root!(
                "drain",
                connections = number(pod.registry.count()),
                documents = number(pod.documents.count()),
                outcome = Empty,
                connections_left = Empty,
                documents_unsettled = Empty
            )
        });
    }

    fn span(&self) -> MutexGuard<'_, Option<Span>> {
        // Nothing can panic while it is held.
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn close_documents(&self, until: Instant) {
        let mut wish = self.wish.subscribe();
        let hurried = async {
            let _ = wish.wait_for(|wish| wish.hurry).await;
            tokio::time::sleep(DOCUMENTS_HURRIED).await;
        };
        tokio::select! {
            // The store may be away: what is not committed by now its clients still have.
            _ = timeout_at(until, self.server.pod().documents.drain()) => {}
            () = hurried => {}
        }
    }

    /// Until the order is taken back, and whoever was asked to settle by then is gone.
    async fn empty(&self) {
        let pod = self.server.pod();
        let (settled, mut has_settled) = mpsc::unbounded_channel();
        let (mut wish, mut live) = (self.wish.subscribe(), self.live.clone());
        let mut line = Line::new(Instant::now(), settled);
        let mut told = None;
        loop {
            let now = Instant::now();
            let Wish { order, begun, hurry, .. } = *wish.borrow_and_update();
            if order.is_none() || told != Some(begun) {
                line.let_stay();
            }
            let terms = match order {
                Some(order) => {
                    let terms = Terms { per_second: self.rate(&order), by: order.by, hurry };
                    if told.replace(begun) != Some(begun) {
                        // Upgrades under way are among them: a seat is taken before.
                        let stays = |outbox: &Outbox| !outbox.is_closing() && !outbox.is_settling();
                        let everybody: Vec<_> = pod.registry.outboxes().into_iter().filter(stays).collect();
                        tracing::info!(connections = everybody.len(), per_second = terms.per_second, "draining");
                        line.enter(everybody, now);
                    }
                    terms
                }
                // Those who were asked to settle are read no more: they are closed.
                None if line.is_over() => break,
                None => Terms { per_second: self.live.borrow().drain_rate, by: now + DOCUMENTS_TIME, hurry },
            };
            let next = line.step(terms, now);
            let count = if order.is_some() { pod.registry.count() } else { 0 };
            pod.metrics.drain_connections_left.set(i64::try_from(count).unwrap_or(i64::MAX));
            let is_empty = order.is_some() && count == 0;
            self.is_empty.send_if_modified(|was_empty| std::mem::replace(was_empty, is_empty) != is_empty);
            let look = (line.left() == 0).then(|| now + LOOK_AGAIN);
            let wake = next.into_iter().chain(look).min().unwrap_or(now + LOOK_AGAIN);
            tokio::select! {
                Some(id) = has_settled.recv() => {
                    line.has_settled(id);
                    while let Ok(id) = has_settled.try_recv() {
                        line.has_settled(id);
                    }
                }
                _ = wish.changed() => {}
                // Without a file nobody changes it any more.
                Ok(()) = live.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
        pod.metrics.drain_connections_left.set(0);
    }

    fn rate(&self, order: &Order) -> u32 {
        order.per_second.unwrap_or_else(|| self.live.borrow().drain_rate).max(1)
    }
}

#[cfg(test)]
mod tests;
