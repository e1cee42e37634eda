//! The embedded store: documents in this process, for a gateway alone and for tests. Nothing survives it.
//!
//! In and out: see [`super::Store`]. The rules are those of the scripts beside it, which the common test suite checks.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use document::{ClientRow, Point, Verdict, Version};
use tokio::sync::watch;

use super::{
    Committed, Creation, Era, LookedUp, NewEntry, Notice, Opened, Saved, StoreError, StoredEntry, TAIL_BYTES_MAX,
    TAIL_ENTRIES_MAX, Tail, rules,
};
use crate::bus::MemoryBus;

/// Documents of an embedded store; they are never given up, so there must be an end.
const DOCUMENTS_MAX: usize = 100_000;
/// The window: what entries may be based on. The last entry always belongs to it.
const WINDOW_ENTRIES_MAX: u64 = 512;
const WINDOW_BYTES_MAX: usize = 1 << 20;
/// A publish beyond this is only a version.
const PUBLISH_BYTES_MAX: usize = 32 << 10;
/// Rows of clients of a document, and of clients that the gateway numbers.
const CLIENTS_MAX: usize = 20_000;
const NUMBERED_MAX: usize = 1_000;
/// How long rows live.
const ROW_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
const NUMBERED_ROW_LIFE: Duration = Duration::from_secs(3600);
const NUMBERED_ROW_LIFE_WHEN_FULL: Duration = Duration::from_secs(600);
/// The log keeps what is younger.
const KEEP: Duration = Duration::from_secs(600);

/// Documents of one process; clones share them.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    bus: MemoryBus,
    // Never changes: this history ends with the process.
    history: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Inner {
    documents: HashMap<String, Stored>,
    values: HashMap<String, Bytes>,
    leases: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Stored {
    root: Point,
    head: Point,
    floor: Version,
    window_bytes: usize,
    snapshot_at: Point,
    snapshot: Option<Bytes>,
    log: VecDeque<(StoredEntry, SystemTime)>,
    clients: HashMap<String, Row>,
    presence: BTreeMap<String, Bytes>,
}

#[derive(Debug)]
struct Row {
    owner: Arc<str>,
    last: u64,
    version: Version,
    at: SystemTime,
    numbered: bool,
}

impl MemoryStore {
    /// An empty store that tells this bus what is committed.
    pub fn new(bus: MemoryBus) -> Self {
        Self { inner: Arc::default(), bus, history: Arc::default() }
    }

    /// Sets (or removes) a key of the application, such as `doc:<id>:content`.
    pub fn set(&self, key: &str, value: Option<&str>) {
        let mut inner = self.lock();
        match value {
            Some(value) => inner.values.insert(key.to_owned(), Bytes::copy_from_slice(value.as_bytes())),
            None => inner.values.remove(key),
        };
    }

    pub(super) fn application_value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.lock().values.get(key).cloned())
    }

    pub(super) fn application_value_start(&self, key: &str, bytes: usize) -> Result<Bytes, StoreError> {
        Ok(self.lock().values.get(key).map(|value| value.slice(..bytes.min(value.len()))).unwrap_or_default())
    }

    /// One pod alone has nobody to keep it for.
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the same as for the shared store")]
    pub(super) fn set_for_a_while(&self, _: &str, _: Option<&Bytes>, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    pub(super) fn open(&self, document: &str, creation: Option<&Creation>) -> Result<Option<Opened>, StoreError> {
        let mut inner = self.lock();
        if !inner.documents.contains_key(document) {
            let Some(creation) = creation else { return Ok(None) };
            if inner.documents.len() >= DOCUMENTS_MAX {
                return Err(StoreError::Unavailable(format!("the embedded store is full ({DOCUMENTS_MAX} documents)")));
            }
            inner.documents.insert(document.to_owned(), Stored::new(creation));
        }
        Ok(inner.documents.get(document).map(|stored| Opened {
            head: stored.head.clone(),
            snapshot_at: stored.snapshot_at.clone(),
            snapshot: stored.snapshot.clone(),
            tail: stored.tail(stored.snapshot_at.version),
        }))
    }

    pub(super) fn commit(
        &self,
        document: &str,
        head: &Point,
        floor: Version,
        batch: &[NewEntry],
    ) -> Result<Committed, StoreError> {
        rules::within_bounds(batch)?;
        let mut inner = self.lock();
        let forked =
            Committed { verdicts: Vec::new(), tail: Tail { forked: true, ..Tail::default() }, era: Era::default() };
        let Some(stored) = inner.documents.get_mut(document).filter(|stored| stored.has(head)) else {
            return Ok(forked);
        };
        let before = stored.head.version;
        let now = SystemTime::now();
        // No pod may be asked to carry an entry further back than it can.
        while stored.floor < floor.min(before.saturating_sub(1)) {
            stored.raise_floor();
        }
        let verdicts = batch.iter().map(|entry| stored.commit(entry, head.version, before, now)).collect();
        let tail = stored.tail(head.version);
        if stored.head.version > before {
            let fresh: Vec<StoredEntry> =
                stored.log.iter().map(|(entry, _)| entry).filter(|entry| entry.at.version > before).cloned().collect();
            let bytes: usize = fresh.iter().map(|entry| entry.bytes.len()).sum();
            let at_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let at_ms = u64::try_from(at_ms).unwrap_or(u64::MAX);
            let notice = if bytes <= PUBLISH_BYTES_MAX {
                Notice::Entries { entries: fresh, at_ms }
            } else {
                Notice::Version { version: stored.head.version, at_ms: Some(at_ms) }
            };
            self.bus.publish(&crate::bus::document_channel(document), &notice.encode());
        }
        Ok(Committed { verdicts, tail, era: Era::default() })
    }

    pub(super) fn lookup(&self, document: &str, clients: &[Arc<str>], after: &Point) -> Result<LookedUp, StoreError> {
        let inner = self.lock();
        let Some(stored) = inner.documents.get(document) else {
            return Ok(LookedUp {
                rows: Vec::new(),
                tail: Tail { forked: true, ..Tail::default() },
                era: Era::default(),
            });
        };
        let rows =
            clients.iter().filter_map(|client| stored.clients.get(&**client).map(|row| row.told(client))).collect();
        let tail =
            if stored.has(after) { stored.tail(after.version) } else { Tail { forked: true, ..Tail::default() } };
        Ok(LookedUp { rows, tail, era: Era::default() })
    }

    pub(super) fn history_changes(&self) -> watch::Receiver<u64> {
        self.history.subscribe()
    }

    pub(super) fn save(&self, document: &str, at: &Point, snapshot: &Bytes) -> Result<Saved, StoreError> {
        let mut inner = self.lock();
        let Some(stored) = inner.documents.get_mut(document) else { return Ok(Saved::Forked) };
        if at.version > stored.head.version {
            return Ok(Saved::Forked);
        }
        if at.version <= stored.snapshot_at.version {
            return Ok(Saved::Stale);
        }
        if !stored.has(at) {
            return Ok(Saved::Forked);
        }
        stored.snapshot_at = at.clone();
        stored.snapshot = Some(snapshot.clone());
        stored.trim(SystemTime::now());
        Ok(Saved::Stored)
    }

    pub(super) fn presence(&self, document: &str) -> Result<Vec<(String, Bytes)>, StoreError> {
        let inner = self.lock();
        let rows = inner.documents.get(document).map(|stored| &stored.presence);
        Ok(rows.into_iter().flatten().map(|(name, row)| (name.clone(), row.clone())).collect())
    }

    pub(super) fn forget_presence(&self, document: &str, rows: &[(String, Bytes)]) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let Some(stored) = inner.documents.get_mut(document) else { return Ok(()) };
        for (name, row) in rows {
            if stored.presence.get(name) == Some(row) {
                stored.presence.remove(name);
            }
        }
        Ok(())
    }

    pub(super) fn write_presence(&self, document: &str, rows: &[(String, Option<Bytes>)]) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let Some(stored) = inner.documents.get_mut(document) else { return Ok(()) };
        for (name, row) in rows {
            match row {
                Some(row) => stored.presence.insert(name.clone(), row.clone()),
                None => stored.presence.remove(name),
            };
        }
        Ok(())
    }

    pub(super) fn hold_lease(&self, pod: &str, life_s: u64) -> Result<bool, StoreError> {
        let mut inner = self.lock();
        let now = Instant::now();
        let before = match life_s {
            0 => inner.leases.remove(pod),
            _ => inner.leases.insert(pod.to_owned(), now + Duration::from_secs(life_s)),
        };
        Ok(before.is_some_and(|until| until > now))
    }

    pub(super) fn living(&self, pods: &[Arc<str>]) -> Result<Vec<bool>, StoreError> {
        let inner = self.lock();
        let now = Instant::now();
        Ok(pods.iter().map(|pod| inner.leases.get(&**pod).is_some_and(|until| *until > now)).collect())
    }

    pub(super) fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; a half-done change would be a bug, not a reason to stop everybody.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    fn new(creation: &Creation) -> Self {
        let root = Point { version: 0, hash: Arc::clone(&creation.root) };
        Self {
            root: root.clone(),
            head: root.clone(),
            floor: 0,
            window_bytes: 0,
            snapshot_at: root,
            snapshot: creation.snapshot.clone(),
            log: VecDeque::new(),
            clients: HashMap::new(),
            presence: BTreeMap::new(),
        }
    }

    /// Whether a point is in the log, its beginning included.
    fn has(&self, point: &Point) -> bool {
        if *point == self.head || *point == self.snapshot_at {
            return true;
        }
        if *point == self.root {
            return self.index(1).is_some();
        }
        self.index(point.version).is_some_and(|index| self.log[index].0.at == *point)
    }

    fn index(&self, version: Version) -> Option<usize> {
        let first = self.log.front()?.0.at.version;
        let index = usize::try_from(version.checked_sub(first)?).ok()?;
        (index < self.log.len()).then_some(index)
    }

    fn tail(&self, after: Version) -> Tail {
        let mut tail = Tail::default();
        let mut bytes = 0;
        let start = self.index(after + 1).unwrap_or(self.log.len());
        for (entry, _) in self.log.range(start..) {
            let is_full = tail.entries.len() == TAIL_ENTRIES_MAX
                || (!tail.entries.is_empty() && bytes + entry.bytes.len() > TAIL_BYTES_MAX);
            if is_full {
                tail.more = true;
                break;
            }
            bytes += entry.bytes.len();
            tail.entries.push(entry.clone());
        }
        tail
    }

    /// `head`: of the caller; `before`: the newest version when the call began.
    fn commit(&mut self, entry: &NewEntry, head: Version, before: Version, now: SystemTime) -> Verdict {
        let name = rules::row_name(&entry.identity);
        let seq = entry.identity.seq;
        let row = self.clients.get(&name);
        let last = row.map_or(0, |row| row.last);
        // Another user's client: the join that follows says so.
        if row.is_some_and(|row| row.owner != entry.owner) {
            return Verdict::Gap(last);
        }
        if let Some(row) = row.filter(|row| seq <= row.last) {
            return Verdict::Dup(row.version);
        }
        // Made on those before it in the batch: only where all of them, and nothing else, came after the head.
        if entry.base > head && (before > head || entry.base != self.head.version) {
            return Verdict::Behind;
        }
        if seq > last + 1 {
            return Verdict::Gap(last);
        }
        if entry.base < self.floor {
            return Verdict::Behind;
        }
        if row.is_none() && !self.has_room(entry.identity.by_gateway, now) {
            return Verdict::Overloaded;
        }
        let version = self.append(&entry.bytes, now);
        let numbered = entry.identity.by_gateway;
        self.clients.insert(name, Row { owner: Arc::clone(&entry.owner), last: seq, version, at: now, numbered });
        Verdict::Ok(version)
    }

    fn has_room(&mut self, numbered: bool, now: SystemTime) -> bool {
        if self.is_full(numbered) {
            self.forget_rows(NUMBERED_ROW_LIFE_WHEN_FULL, now);
        }
        !self.is_full(numbered)
    }

    fn is_full(&self, numbered: bool) -> bool {
        let is_crowded = || self.clients.values().filter(|row| row.numbered).count() >= NUMBERED_MAX;
        self.clients.len() >= CLIENTS_MAX || numbered && is_crowded()
    }

    fn forget_rows(&mut self, numbered_life: Duration, now: SystemTime) {
        self.clients.retain(|_, row| row.is_younger(if row.numbered { numbered_life } else { ROW_LIFE }, now));
    }

    fn append(&mut self, bytes: &Bytes, now: SystemTime) -> Version {
        let version = self.head.version + 1;
        self.head = Point { version, hash: rules::hash_after(&self.head.hash, bytes).into() };
        self.log.push_back((StoredEntry { at: self.head.clone(), bytes: bytes.clone() }, now));
        self.window_bytes += bytes.len();
        while version - self.floor > WINDOW_ENTRIES_MAX
            || (self.window_bytes > WINDOW_BYTES_MAX && version - self.floor > 1)
        {
            self.raise_floor();
        }
        version
    }

    fn raise_floor(&mut self) {
        self.floor += 1;
        let left = self.index(self.floor).map_or(0, |index| self.log[index].0.bytes.len());
        self.window_bytes = self.window_bytes.saturating_sub(left);
    }

    /// Lets go of entries that are older than the window, the snapshot and ten minutes. The entry *at* the end of what
    /// goes stays: its hash proves a pod's head.
    fn trim(&mut self, now: SystemTime) {
        let keep = self.floor.min(self.snapshot_at.version);
        let is_old = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age > KEEP);
        while self.log.front().is_some_and(|(entry, at)| entry.at.version < keep && is_old(*at)) {
            self.log.pop_front();
        }
        self.forget_rows(NUMBERED_ROW_LIFE, now);
    }
}

impl Row {
    fn is_younger(&self, than: Duration, now: SystemTime) -> bool {
        now.duration_since(self.at).map_or(true, |age| age < than)
    }

    fn told(&self, client: &Arc<str>) -> ClientRow {
        ClientRow {
            client_id: Arc::clone(client),
            owner: Arc::clone(&self.owner),
            last_seq: self.last,
            version: self.version,
        }
    }
}
