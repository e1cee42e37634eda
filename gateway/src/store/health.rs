//! Whether the store takes changes, by what became of the latest ones: commits, and the lease that every pod renews.
//!
//! In: outcomes of calls. Out: since when there was none that succeeded, and why the last one failed. Reading alone says
//! little: a server that is full, read-only or without followers still answers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::StoreError;

/// Clones share what is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    away: Arc<Mutex<Option<(Instant, String)>>>,
}

/// The store takes no changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Since the first failure.
    pub since: Duration,
    /// Of the latest one, for operators.
    pub why: String,
}

impl Health {
    /// Takes in what became of a call that changes something.
    pub(crate) fn saw<T>(&self, outcome: &Result<T, StoreError>) {
        let mut away = self.away();
        match outcome {
            Err(error) if error.is_passing() => {
                let since = away.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                *away = Some((since, error.to_string()));
            }
            // Whatever else it says, it can be spoken to.
            Ok(_) | Err(_) => *away = None,
        }
    }

    /// `None`: it takes changes, as far as anybody knows.
    pub(crate) fn told(&self) -> Option<Away> {
        self.away().as_ref().map(|(since, why)| Away { since: since.elapsed(), why: why.clone() })
    }

    fn away(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        // Nothing can panic while it is held.
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts_until_something_succeeds() {
        let health = Health::default();
        assert_eq!(health.told(), None);
        let failed = |why: &str| Err::<(), _>(StoreError::Unavailable(why.into()));
        health.saw(&failed("one"));
        let first = health.away().as_ref().map(|(since, _)| *since);
        health.saw(&failed("two"));
        assert_eq!(health.away().as_ref().map(|(since, _)| *since), first);
        assert!(health.told().is_some_and(|away| away.why.contains("two")));
        health.saw(&Err::<(), _>(StoreError::Damaged("answered".into())));
        assert_eq!(health.told(), None);
    }
}
