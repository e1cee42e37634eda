//! The store, as the commit script keeps it.
//!
//! In: calls of pods, each atomic. Out: verdicts, tails, snapshots. Beside what a real store holds it keeps the whole
//! log, for the checks at the end.

use std::{collections::BTreeMap, sync::Arc};

use document::{Batch, ClientRow, CommitReply, Entry, Logged, Lookup, Point, Role, Snapshot, Verdict, Version};

/// One document's keys.
#[derive(Debug)]
pub struct Store {
    /// All entries ever, the first one at version 1.
    pub all: Vec<Logged>,
    /// Where the log begins: entries at or below are trimmed.
    pub trimmed: Version,
    /// The newest stored snapshot.
    pub snapshot: Snapshot,
    /// What the document began with.
    pub seed: Snapshot,
    rows: BTreeMap<Arc<str>, Row>,
    floor: Version,
    window: u64,
    tail: usize,
    /// Whether duplicates are noticed; off for the simulation that must notice it.
    pub dedupe: bool,
}

#[derive(Debug, Clone)]
struct Row {
    owner: Arc<str>,
    last_seq: u64,
    version: Version,
}

impl Store {
    /// A document with this content. `window`: entries based further back are refused; `tail`: most entries in a reply.
    pub fn new(seed: Snapshot, window: u64, tail: usize) -> Self {
        Self {
            all: Vec::new(),
            trimmed: 0,
            snapshot: seed.clone(),
            seed,
            rows: BTreeMap::new(),
            floor: 0,
            window,
            tail,
            dedupe: true,
        }
    }

    /// The newest version.
    pub fn version(&self) -> Version {
        self.all.len() as Version
    }

    /// The point of this version.
    pub fn point(&self, version: Version) -> Option<&Point> {
        match version.checked_sub(1) {
            None => Some(&self.seed.at),
            Some(index) => self.all.get(usize::try_from(index).ok()?).map(|logged| &logged.at),
        }
    }

    /// The commit script.
    pub fn commit(&mut self, batch: &Batch) -> CommitReply {
        if self.point(batch.head.version) != Some(&batch.head) {
            return CommitReply { verdicts: Vec::new(), tail: Vec::new(), more: false, forked: true };
        }
        self.floor = self.floor.max(batch.floor);
        let verdicts = batch.entries.iter().map(|entry| self.append(entry)).collect();
        let (tail, more) = self.after(batch.head.version);
        CommitReply { verdicts, tail, more, forked: false }
    }

    fn append(&mut self, entry: &Entry) -> Verdict {
        let (last_seq, last_version) =
            self.rows.get(&entry.identity.id).map_or((0, 0), |row| (row.last_seq, row.version));
        if entry.identity.seq <= last_seq && self.dedupe {
            let same = self.all.iter().find(|logged| logged.entry.identity == entry.identity);
            return Verdict::Dup(same.map_or(last_version, |logged| logged.at.version));
        }
        if entry.identity.seq > last_seq + 1 {
            return Verdict::Gap(last_seq);
        }
        let newest = self.version();
        if entry.base < self.floor.max(newest.saturating_sub(self.window)) {
            return Verdict::Behind;
        }
        let version = newest + 1;
        let before = self.point(newest).map(|point| point.hash.clone()).unwrap_or_default();
        let at = Point { version, hash: hash(&before, entry) };
        self.all.push(Logged { at, entry: entry.clone() });
        let row = Row { owner: entry.user_id.clone(), last_seq: entry.identity.seq, version };
        let row = match self.rows.get(&entry.identity.id) {
            Some(old) => Row { owner: old.owner.clone(), last_seq: row.last_seq.max(old.last_seq), ..row },
            None => row,
        };
        self.rows.insert(entry.identity.id.clone(), row);
        Verdict::Ok(version)
    }

    /// Entries after this version, and whether there are more. What is trimmed is simply not there.
    pub fn after(&self, version: Version) -> (Vec<Logged>, bool) {
        let from = usize::try_from(version.max(self.trimmed)).unwrap_or(usize::MAX);
        let all = self.all.get(from..).unwrap_or_default();
        (all.iter().take(self.tail).cloned().collect(), all.len() > self.tail)
    }

    /// Everything that a join asks for.
    pub fn lookup(&self, role: Role, clients: &[Arc<str>], after: Version) -> Lookup {
        let rows = clients.iter().filter_map(|client_id| {
            let row = self.rows.get(client_id)?;
            let (owner, last_seq, version) = (row.owner.clone(), row.last_seq, row.version);
            Some(ClientRow { client_id: client_id.clone(), owner, last_seq, version })
        });
        let (tail, more) = self.after(after);
        Lookup { role, rows: rows.collect(), tail, more }
    }

    /// Stores a snapshot, if it is newer and of this history, and trims the log below its window.
    pub fn save(&mut self, snapshot: &Snapshot) {
        if snapshot.at.version > self.snapshot.at.version && self.point(snapshot.at.version) == Some(&snapshot.at) {
            self.snapshot = snapshot.clone();
            self.trimmed = self.trimmed.max(snapshot.at.version.saturating_sub(self.window));
        }
    }

    /// What a pod opens the document from.
    pub fn open(&self) -> (Snapshot, Vec<Logged>) {
        let from = usize::try_from(self.snapshot.at.version.max(self.trimmed)).unwrap_or(usize::MAX);
        (self.snapshot.clone(), self.all.get(from..).unwrap_or_default().to_vec())
    }
}

/// Stands in for the SHA-1 of the real one: equal chains give equal hashes.
fn hash(before: &str, entry: &Entry) -> Arc<str> {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for byte in before.bytes().chain(format!("{entry:?}").bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    format!("{:011x}", hash >> 20).into()
}
