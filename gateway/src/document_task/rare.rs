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

/// A presence hash lives for a day after the last renewal.
const RENEW_PRESENCE: Duration = Duration::from_secs(3600);

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
    /// It is time to let the presence hash live on.
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
            ticks(READ_AGAIN, Rare::ReadAccesses),
            ticks(RENEW_PRESENCE, Rare::RenewPresence),
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

fn ticks(every: Duration, what: Rare) -> BoxStream<'static, Rare> {
    let ticks = interval_at(Instant::now() + every, every);
    unfold(ticks, move |mut ticks| async move {
        ticks.tick().await;
        Some((what, ticks))
    })
    .boxed()
}
