//! Whether the store takes changes, by what became of the latest ones: commits, and the lease that every pod renews.
//!
//! In: outcomes of calls, in Cluster mode by slot. Out: whether it ever answered; since when there was no call that
//! succeeded, and why the last one failed; of a cluster, whether that is so anywhere. Reading alone says little: a server
//! that is full, read-only or without followers still answers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::StoreError;

/// Whatever fails is tried again within half a second, or a call's few seconds where no answer comes. What was not tried
/// for so long nobody needs any more: a document that is closed, a slot of another name for the lease.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15);

/// Clones share what is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// By slot; `None` outside Cluster mode and before the servers are known. The cluster's slots bound it.
    away: Arc<Mutex<BTreeMap<Option<u16>, Trouble>>>,
    has_answered: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    latest: Instant,
    why: String,
}

/// The store takes no changes, or none of them becomes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Since the first failure.
    pub since: Duration,
    /// Of the latest one, for operators.
    pub why: String,
}

impl Health {
    /// Takes in what became of a call that changes something, in this slot or anywhere.
    pub(crate) fn saw<T>(&self, slot: Option<u16>, outcome: &Result<T, StoreError>, now: Instant) {
        let mut away = self.away();
        if let Err(error) = outcome
            && error.is_passing()
        {
            let since = away.get(&slot).map_or(now, |trouble| trouble.since);
            away.insert(slot, Trouble { since, latest: now, why: error.to_string() });
            return;
        }
        // Whatever else it says, it can be spoken to.
        self.heard();
        away.retain(|other, _| slot.is_some() && other.is_some() && *other != slot);
    }

    /// It answered something.
    pub(crate) fn heard(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// Whether it ever did.
    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// `None`: it takes changes, as far as anybody knows.
    pub(crate) fn told(&self, now: Instant) -> Option<Away> {
        let mut away = self.away();
        away.retain(|_, trouble| now.saturating_duration_since(trouble.latest) < FORGOTTEN_AFTER);
        let since = away.values().map(|trouble| trouble.since).min()?;
        let latest = away.values().max_by_key(|trouble| trouble.latest)?;
        Some(Away { since: now.saturating_duration_since(since), why: latest.why.clone() })
    }

    fn away(&self) -> MutexGuard<'_, BTreeMap<Option<u16>, Trouble>> {
        // Nothing can panic while it is held.
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failed(why: &str) -> Result<(), StoreError> {
        Err(StoreError::Unavailable(why.into()))
    }

    fn away(since: Duration, why: &str) -> Option<Away> {
        Some(Away { since, why: failed(why).unwrap_err().to_string() })
    }

    #[test]
    fn the_first_failure_counts_until_something_succeeds() {
        let (health, start) = (Health::default(), Instant::now());
        assert_eq!(health.told(start), None);
        health.saw(None, &failed("one"), start);
        assert!(!health.has_answered());
        health.saw(None, &failed("two"), start + SECOND);
        assert_eq!(health.told(start + 2 * SECOND), away(2 * SECOND, "two"));
        health.saw(None, &Err::<(), _>(StoreError::Damaged("answered".into())), start + 3 * SECOND);
        assert_eq!(health.told(start + 3 * SECOND), None);
        health.saw(None, &failed("three"), start + 4 * SECOND);
        assert!(health.has_answered(), "once is enough");
    }

    #[test]
    fn a_slot_that_fails_counts_though_others_succeed_until_it_does_or_nobody_tries_it() {
        let (health, start) = (Health::default(), Instant::now());
        health.saw(None, &failed("nobody is known"), start);
        health.saw(Some(1), &failed("full"), start + SECOND);
        health.saw(Some(2), &failed("gone"), start + SECOND);
        health.saw(Some(3), &Ok(()), start + 2 * SECOND);
        health.saw(Some(2), &Ok(()), start + 2 * SECOND);
        assert_eq!(health.told(start + 3 * SECOND), away(2 * SECOND, "full"));
        health.saw(Some(1), &failed("full"), start + 10 * SECOND);
        assert_eq!(health.told(start + 20 * SECOND), away(19 * SECOND, "full"));
        assert_eq!(health.told(start + 25 * SECOND), None);
    }
}
