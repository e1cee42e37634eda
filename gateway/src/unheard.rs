//! Peers that have connected and not become anything yet: no request, or one that ended without an upgrade.
//!
//! In: every accepted connection. Out: a [`Turn`] that ends by itself when too many are waiting. Then the one that has
//! waited longest goes, since honest peers are through within a few round trips: whoever holds thousands of silent
//! connections only drives out his own, and nobody waits for him.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::metrics::Metrics;

/// All of them; clones are the same.
#[derive(Clone)]
pub struct Unheard {
    inner: Arc<Inner>,
}

struct Inner {
    most: usize,
    table: Mutex<Table>,
    metrics: Metrics,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// In the order of their arrival. Dropping a sender ends the peer.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One peer's time to become something; dropping it gives the place back.
pub struct Turn {
    unheard: Unheard,
    number: u64,
    over: oneshot::Receiver<()>,
}

impl Unheard {
    /// At most so many wait at a time.
    pub fn new(most: usize, metrics: Metrics) -> Unheard {
        Unheard { inner: Arc::new(Inner { most, table: Mutex::default(), metrics }) }
    }

    /// A place for one more, if need be that of the one who has waited longest.
    pub fn arrive(&self) -> Turn {
        let (ends, over) = oneshot::channel();
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        if table.waiting.len() >= self.inner.most && table.waiting.pop_first().is_some() {
            self.inner.metrics.refuse("unheard");
        }
        table.waiting.insert(number, ends);
        self.count(&table);
        drop(table);
        Turn { unheard: self.clone(), number, over }
    }

    fn count(&self, table: &Table) {
        self.inner.metrics.connections_unheard.set(i64::try_from(table.waiting.len()).unwrap_or(i64::MAX));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits until somebody else needs the place.
    pub async fn over(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.over).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.unheard.table();
        table.waiting.remove(&self.number);
        self.unheard.count(&table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_who_has_waited_longest_gives_way() {
        let metrics = Metrics::default();
        let unheard = Unheard::new(2, metrics.clone());
        let [mut one, mut two] = [unheard.arrive(), unheard.arrive()];
        let mut three = unheard.arrive();
        one.over().await;
        drop(one);
        drop(three);
        three = unheard.arrive();
        for turn in [&mut two, &mut three] {
            let waits = tokio::time::timeout(std::time::Duration::from_secs(3600), turn.over()).await;
            assert!(waits.is_err(), "there was room");
        }
        assert_eq!(metrics.connections_unheard.get(), 2);
        drop((two, three));
        assert_eq!(metrics.connections_unheard.get(), 0);
        assert!(metrics.text().contains("refused_total{reason=\"unheard\"} 1"));
    }
}
