//! What a document's task hears of seldom.
//!
//! In: watches and the time. Out: one [`Rare`] after the other. Each is looked at only when it has something to say: as
//! branches beside mail and notices they would be waited for anew with every edit.

use std::time::Duration;

use futures_util::{
    StreamExt,
    stream::{BoxStream, SelectAll, unfold},
};
use tokio::{
    sync::watch,
    time::{Instant, interval_at},
};

use super::access::READ_AGAIN;
use crate::lease::Living;

/// Accesses are read again so many times before the presence hash is renewed, hourly; it lives for a day after that.
const READS_PER_RENEWAL: u32 = 60;

/// Something that happens seldom.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rare {
    /// Another pod came, died or is watched from now on.
    PodsChanged,
    /// The pod drains.
    Drains,
    /// Documents may have lost entries.
    HistoryChanged,
    /// Without a word of a change it is time to read the accesses again.
    ReadAccesses,
    /// The same, and to let the presence hash live on.
    RenewPresence,
}

/// All of it.
pub(super) struct RareEvents {
    all: SelectAll<BoxStream<'static, Rare>>,
}

impl RareEvents {
    /// What the watches have shown already is nothing new.
    pub(super) fn new(
        living: watch::Receiver<Living>,
        draining: watch::Receiver<bool>,
        history: watch::Receiver<u64>,
    ) -> RareEvents {
        let all = [
            changes(living, Rare::PodsChanged),
            changes(draining, Rare::Drains),
            changes(history, Rare::HistoryChanged),
            minutes(READ_AGAIN),
        ];
        RareEvents { all: all.into_iter().collect() }
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Option<Rare> {
        self.all.next().await
    }
}

fn changes<T: Send + Sync + 'static>(watch: watch::Receiver<T>, what: Rare) -> BoxStream<'static, Rare> {
    unfold(watch, move |mut watch| async move { watch.changed().await.ok().map(|()| (what, watch)) }).boxed()
}

fn minutes(every: Duration) -> BoxStream<'static, Rare> {
    let ticks = interval_at(Instant::now() + every, every);
    unfold((ticks, 1), |(mut ticks, number)| async move {
        ticks.tick().await;
        let is_renewal = number == READS_PER_RENEWAL;
        let (what, next) = if is_renewal { (Rare::RenewPresence, 1) } else { (Rare::ReadAccesses, number + 1) };
        Some((what, (ticks, next)))
    })
    .boxed()
}
