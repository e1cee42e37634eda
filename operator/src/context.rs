//! What every reconcile shares: the client, the operator's own settings, metrics, and small memories of what was last
//! seen. The memories only save work: losing them (a restart) costs a few calls and no write.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{Client, runtime::events::Recorder};

use crate::{
    health::Metrics,
    kinds::Kind,
    validate::{Images, Platform},
};

/// How long a Secret that was there counts as there: each look is a request.
const SECRET_SEEN_FOR: Duration = Duration::from_secs(300);
/// More entries than 1,000 clusters need; a memory that is full starts anew.
const MEMORY_ENTRIES_MAX: usize = 20_000;

/// What every reconcile shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Images that new clusters get.
    pub images: Images,
    /// Where pods run.
    pub platform: Platform,
    /// CRs with this value of `collabcluster.io/class` are ours; empty = those without.
    pub class: String,
    /// Who we are, in `status.managedBy`.
    pub id: String,
    /// Publishes Events.
    pub recorder: Recorder,
    /// What `/metrics` tells.
    pub metrics: Metrics,
    settled: Mutex<HashMap<ChildKey, Settled>>,
    secrets_seen: Mutex<HashMap<(String, String), Instant>>,
    counts_written: Mutex<HashMap<(String, String), Instant>>,
}

/// Namespace, kind and name of a child.
pub type ChildKey = (String, Kind, String);

/// What the API server made of an object that we applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Hash of what was applied.
    pub hash: String,
    /// `metadata.generation`, or the resource version of kinds that have none.
    pub revision: String,
}

impl Context {
    /// A context without memories.
    pub fn new(
        client: Client,
        images: Images,
        platform: Platform,
        class: String,
        id: String,
        recorder: Recorder,
    ) -> Self {
        Self {
            client,
            images,
            platform,
            class,
            id,
            recorder,
            metrics: Metrics::default(),
            settled: Mutex::default(),
            secrets_seen: Mutex::default(),
            counts_written: Mutex::default(),
        }
    }

    /// Whether the object is just as it was right after our last apply.
    pub fn is_settled(&self, key: &ChildKey, now: &Settled) -> bool {
        lock(&self.settled).get(key) == Some(now)
    }

    /// Remembers what the API server made of an object.
    pub fn settle(&self, key: ChildKey, settled: Settled) {
        insert_bounded(&self.settled, key, settled);
    }

    /// Whether the Secret was there not long ago.
    pub fn saw_secret(&self, namespace: &str, name: &str) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        lock(&self.secrets_seen).get(&key).is_some_and(|seen| seen.elapsed() < SECRET_SEEN_FOR)
    }

    /// Remembers that the Secret is there.
    pub fn see_secret(&self, namespace: &str, name: &str) {
        insert_bounded(&self.secrets_seen, (namespace.to_owned(), name.to_owned()), Instant::now());
    }

    /// Forgets that the Secret is there, because pods say otherwise.
    pub fn forget_secret(&self, namespace: &str, name: &str) {
        lock(&self.secrets_seen).remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Time since this cluster's counts were written.
    pub fn counts_age(&self, namespace: &str, name: &str) -> Option<Duration> {
        lock(&self.counts_written).get(&(namespace.to_owned(), name.to_owned())).map(Instant::elapsed)
    }

    /// Remembers that this cluster's counts are being written.
    pub fn write_counts(&self, namespace: &str, name: &str) {
        insert_bounded(&self.counts_written, (namespace.to_owned(), name.to_owned()), Instant::now());
    }
}

fn insert_bounded<K: std::hash::Hash + Eq, V>(memory: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut memory = lock(memory);
    if memory.len() >= MEMORY_ENTRIES_MAX {
        memory.clear();
    }
    memory.insert(key, value);
}

/// A memory that a panicking task left is still a memory.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
