//! Who of the pods lives: one lease per pod incarnation, and the leases of the pods that documents have seen.
//!
//! In: the store; the pods that open documents take an interest in. Out: a [`Living`] that changes when one of them dies
//! or comes. A pod that has no lease does not count in any document's presence, so a dead pod's people vanish in one
//! step and nothing is written per document while nothing changes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::store::{Store, StoreError};

/// A pod that does not renew for this long is dead.
pub const LEASE_LIFE_S: u64 = 15;
/// Three attempts per life.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often the leases of pods of interest are looked at: a dead pod's people are gone after the lease's life and this,
/// seconds before the twenty that are promised.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After an attempt that failed.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
/// When the store was away everybody's lease may have run out: for this long nobody is declared dead.
const GRACE: Duration = Duration::from_secs(10);
/// A pod that ends leaves its people this long, in seconds, to appear elsewhere.
const LAST_LEASE_S: u64 = 10;

/// This pod's lease; clones share it.
#[derive(Debug, Clone)]
pub struct Lease {
    shared: Arc<Shared>,
}

/// What is known of the pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Living {
    /// The pods of interest that live, this one always.
    pub pods: BTreeSet<Arc<str>>,
    /// How often this pod's lease ran out: others may have removed its rows since.
    pub lapses: u64,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    pod: Arc<str>,
    living: watch::Sender<Living>,
    // Pods and how many documents see them. Bounded by the pods that write presence rows.
    interest: Mutex<HashMap<Arc<str>, usize>>,
    grace_until: Mutex<Option<Instant>>,
    asked: Notify,
    stop: CancellationToken,
}

impl Lease {
    /// Takes a lease for a new incarnation and renews it until [`Lease::end`].
    pub fn start(store: Store) -> Self {
        // A pod that comes back is another one: what its predecessor held is gone.
        let pod: Arc<str> = format!("{:016x}", rand::random::<u64>()).into();
        let living = Living { pods: BTreeSet::from([Arc::clone(&pod)]), lapses: 0 };
        let shared = Arc::new(Shared {
            store,
            pod,
            living: watch::Sender::new(living),
            interest: Mutex::default(),
            grace_until: Mutex::default(),
            asked: Notify::new(),
            stop: CancellationToken::new(),
        });
        tokio::spawn(renew(Arc::clone(&shared)));
        Self { shared }
    }

    /// The incarnation: 16 hex digits, never used twice.
    pub fn pod(&self) -> &Arc<str> {
        &self.shared.pod
    }

    /// Hears of changes.
    pub fn living(&self) -> watch::Receiver<Living> {
        self.shared.living.subscribe()
    }

    /// Takes an interest in these pods; their first check comes at once.
    pub fn watch(&self, pods: impl IntoIterator<Item = Arc<str>>) {
        let mut interest = self.shared.interest();
        for pod in pods {
            *interest.entry(pod).or_default() += 1;
        }
        self.shared.asked.notify_one();
    }

    /// Ends an interest.
    pub fn unwatch<'a>(&self, pods: impl IntoIterator<Item = &'a Arc<str>>) {
        let mut interest = self.shared.interest();
        for pod in pods {
            if let Some(count) = interest.get_mut(pod) {
                *count -= 1;
                if *count == 0 {
                    interest.remove(pod);
                }
            }
        }
    }

    /// Which of these pods live: from what is known, asking for the others.
    ///
    /// # Errors
    /// When the store has to be asked and cannot be.
    pub async fn check(&self, pods: &BTreeSet<Arc<str>>) -> Result<BTreeSet<Arc<str>>, StoreError> {
        let mut living = self.shared.living.borrow().pods.clone();
        if self.shared.is_grace() {
            living.extend(pods.iter().cloned());
        }
        let unknown: Vec<Arc<str>> = pods.difference(&living).cloned().collect();
        if !unknown.is_empty() {
            let asked: Vec<_> = unknown.iter().chain([self.pod()]).cloned().collect();
            let answers = self.shared.store.living(&asked).await?;
            // Where this pod's own lease is gone, the store forgot them all, and nobody is to be declared dead.
            let is_forgetful = answers.last() != Some(&true);
            let lives = unknown.into_iter().zip(answers).filter(|(_, lives)| is_forgetful || *lives);
            living.extend(lives.map(|(pod, _)| pod));
        }
        Ok(living)
    }

    /// Renews no more: the people of this pod who do not appear elsewhere are gone soon.
    pub async fn end(&self) {
        self.shared.stop.cancel();
        if let Err(error) = self.shared.store.hold_lease(&self.shared.pod, LAST_LEASE_S).await {
            tracing::debug!(%error, "the lease runs out by itself");
        }
    }
}

impl Shared {
    fn interest(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        // Nothing can panic while it is held.
        self.interest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_grace(&self) -> bool {
        let grace_until = *self.grace_until.lock().unwrap_or_else(PoisonError::into_inner);
        grace_until.is_some_and(|until| until > Instant::now())
    }

    /// One round; an error changes nothing: whoever cannot see the others does not declare them dead. `was_away`: the
    /// round before this one failed.
    async fn round(&self, is_first: bool, was_away: bool) -> Result<(), StoreError> {
        let has_lapsed = !self.store.hold_lease(&self.pod, LEASE_LIFE_S).await? && !is_first;
        if has_lapsed || was_away {
            *self.grace_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + GRACE);
        }
        let mut pods = self.others();
        if !self.is_grace() {
            let mut answers = self.store.living(&pods).await?.into_iter();
            pods.retain(|_| answers.next() == Some(true));
        }
        self.know(pods, has_lapsed);
        Ok(())
    }

    /// Sees which pods of interest live, without renewing; whether this pod's own lease is there. Where it is not, the
    /// others' may be gone for the same reason, and nothing is concluded.
    async fn look(&self) -> Result<bool, StoreError> {
        let others = self.others();
        let asked: Vec<_> = std::iter::once(&self.pod).chain(&others).cloned().collect();
        let answers = self.store.living(&asked).await?;
        let [own, answers @ ..] = &answers[..] else { return Ok(false) };
        if *own {
            let is_grace = self.is_grace();
            let pods = others.into_iter().zip(answers).filter(|(_, lives)| is_grace || **lives).map(|(pod, _)| pod);
            self.know(pods.collect(), false);
        }
        Ok(*own)
    }

    fn others(&self) -> Vec<Arc<str>> {
        self.interest().keys().filter(|pod| **pod != self.pod).cloned().collect()
    }

    fn know(&self, pods: Vec<Arc<str>>, has_lapsed: bool) {
        let living: BTreeSet<_> = pods.into_iter().chain([Arc::clone(&self.pod)]).collect();
        self.living.send_if_modified(|known| {
            let new = Living { pods: living, lapses: known.lapses + u64::from(has_lapsed) };
            let is_new = *known != new;
            *known = new;
            is_new
        });
    }
}

async fn renew(shared: Arc<Shared>) {
    let (mut is_first, mut was_away) = (true, false);
    let mut renewal = Instant::now();
    let mut look;
    loop {
        let is_renewal = renewal <= Instant::now();
        let round =
            if is_renewal { shared.round(is_first, was_away).await.map(|()| true) } else { shared.look().await };
        let now = Instant::now();
        match round {
            Ok(false) => {
                // Gone before its time: renew now.
                renewal = now;
                look = now;
            }
            Ok(true) => {
                is_first &= !is_renewal;
                was_away &= !is_renewal;
                look = now + LOOK_EVERY;
                if is_renewal {
                    renewal = now + RENEW_EVERY;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the lease could not be renewed, or the others' not be seen");
                was_away = true;
                renewal = now + RENEW_AGAIN;
                look = renewal;
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep_until(renewal.min(look).into()) => {}
            () = shared.asked.notified() => {}
        }
    }
}
