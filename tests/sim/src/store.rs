//! One document in the store, as the commit script and its sisters keep it.
//!
//! In: calls, each atomic. Out: verdicts, tails, snapshots. `tests/store_rules.rs` compares it with the product's stores
//! and with the scripts on real servers. Beside what a real store holds it keeps the whole log, for the checks at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use document::{ClientRow, Identity, Point, Verdict, Version};

/// What is kept of an entry.
pub trait Payload: Clone {
    /// Its size.
    fn bytes(&self) -> usize;
    /// The hash after it.
    fn hash_after(&self, before: &str) -> Arc<str>;
}

/// The bounds; by default those of the product.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Entries based further back are refused.
    pub window_entries: u64,
    /// The same in bytes.
    pub window_bytes: usize,
    /// Most entries in a reply.
    pub tail_entries: usize,
    /// The same in bytes; one entry always fits.
    pub tail_bytes: usize,
    /// Rows of clients.
    pub clients: usize,
    /// Of these, those of clients that a gateway numbers.
    pub numbered: usize,
    /// Entries younger than this are not trimmed.
    pub keep_ms: u64,
    /// A save forgets rows that are older.
    pub row_life_ms: u64,
    /// The same of those that a gateway numbers.
    pub numbered_life_ms: u64,
    /// The same of these where there is no room for more rows.
    pub crowded_life_ms: u64,
    /// A rule that is broken on purpose.
    pub broken: BrokenRule,
}

/// Rules of the store that the simulation breaks on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BrokenRule {
    /// The product.
    #[default]
    None,
    /// Duplicates are appended.
    Dedupe,
    /// Whose a client's name is does not matter.
    Owners,
    /// The base is checked once for a call, before anything of it is appended.
    BasePerCall,
    /// An entry made on another of its call is appended whatever came in between.
    Chains,
    /// The head of the caller need not be a point of the log.
    Forks,
    /// Followers are waited for without a write before, so that there is nothing to wait for.
    WaitWithoutWrite,
    /// Any follower is promoted, not the one that has most.
    PromoteAny,
    /// What follows a snapshot is trimmed with what lies below it.
    TrimTail,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            window_entries: 512,
            window_bytes: 1 << 20,
            tail_entries: 512,
            tail_bytes: 256 << 10,
            clients: 20_000,
            numbered: 1_000,
            keep_ms: 600_000,
            row_life_ms: 7 * 24 * 3_600_000,
            numbered_life_ms: 3_600_000,
            crowded_life_ms: 600_000,
            broken: BrokenRule::None,
        }
    }
}

/// An entry to append.
#[derive(Debug, Clone)]
pub struct New<E> {
    /// Whom it is counted against.
    pub identity: Identity,
    /// The user.
    pub owner: Arc<str>,
    /// What it is made on.
    pub base: Version,
    /// The entry.
    pub payload: E,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept<E> {
    /// Its version and the hash after it.
    pub at: Point,
    /// The entry.
    pub payload: E,
    /// When it was appended.
    pub time_ms: u64,
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Part<E> {
    /// In order.
    pub entries: Vec<Kept<E>>,
    /// Whether there are more.
    pub more: bool,
}

/// What became of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saving {
    /// It is the document's now.
    Stored,
    /// A newer one is there.
    Stale,
    /// Its point is not in the log.
    Forked,
}

/// One document's keys. `S` is the snapshot.
#[derive(Debug, Clone)]
pub struct Store<E, S> {
    /// All entries ever, the first one at version 1.
    pub all: Vec<Kept<E>>,
    /// Entries at or below are trimmed.
    pub trimmed: Version,
    /// The newest stored snapshot, and where it stands.
    pub snapshot: (Point, S),
    /// Version 0.
    pub root: Point,
    rules: Rules,
    rows: BTreeMap<String, Row>,
    /// Rows that were there and are forgotten, by name.
    forgotten: BTreeSet<String>,
    floor: Version,
    window_bytes: usize,
}

#[derive(Debug, Clone)]
struct Row {
    owner: Arc<str>,
    last_seq: u64,
    version: Version,
    /// When it was written, in whole seconds.
    time_s: u64,
}

/// What the entries of one call share.
struct Call {
    /// Of the caller.
    head: Version,
    /// The newest version when it began.
    before: Version,
    floor_before: Version,
    now_ms: u64,
}

impl<E: Payload, S> Store<E, S> {
    /// A new document.
    pub fn new(rules: Rules, root: Point, snapshot: S) -> Self {
        Self {
            all: Vec::new(),
            trimmed: 0,
            snapshot: (root.clone(), snapshot),
            root,
            rules,
            rows: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            floor: 0,
            window_bytes: 0,
        }
    }

    /// The newest version.
    pub fn version(&self) -> Version {
        self.all.len() as Version
    }

    /// The newest point.
    pub fn head(&self) -> &Point {
        self.all.last().map_or(&self.root, |kept| &kept.at)
    }

    /// The point of this version, trimmed or not.
    pub fn point(&self, version: Version) -> Option<&Point> {
        match version.checked_sub(1) {
            None => Some(&self.root),
            Some(index) => self.all.get(usize::try_from(index).ok()?).map(|kept| &kept.at),
        }
    }

    /// Whether this is a point that the log can still prove.
    pub fn has(&self, point: &Point) -> bool {
        if point == self.head() || *point == self.snapshot.0 {
            return true;
        }
        let proven_by = point.version.max(1);
        proven_by > self.trimmed && proven_by <= self.version() && self.point(point.version) == Some(point)
    }

    /// The commit script: none if `head` is no point of the log.
    pub fn commit(
        &mut self,
        head: &Point,
        floor: Version,
        batch: &[New<E>],
        now_ms: u64,
    ) -> Option<(Vec<Verdict>, Part<E>)> {
        if !self.has(head) && self.rules.broken != BrokenRule::Forks {
            return None;
        }
        while self.floor < floor.min(self.version().saturating_sub(1)) {
            self.raise_floor();
        }
        let call = Call { head: head.version, before: self.version(), floor_before: self.floor, now_ms };
        let verdicts = batch.iter().map(|new| self.append(new, &call)).collect();
        Some((verdicts, self.after(head.version)))
    }

    /// Entries after this version; the caller knows that it is a point of the log.
    pub fn after(&self, version: Version) -> Part<E> {
        let from = usize::try_from(version.max(self.trimmed)).unwrap_or(usize::MAX);
        let mut part = Part { entries: Vec::new(), more: false };
        let mut bytes = 0;
        for kept in self.all.get(from..).unwrap_or_default() {
            let full = part.entries.len() == self.rules.tail_entries
                || (!part.entries.is_empty() && bytes + kept.payload.bytes() > self.rules.tail_bytes);
            if full {
                part.more = true;
                break;
            }
            bytes += kept.payload.bytes();
            part.entries.push(kept.clone());
        }
        part
    }

    /// What a lookup says of these clients.
    pub fn rows(&self, clients: &[Arc<str>]) -> Vec<ClientRow> {
        let told = |client: &Arc<str>| {
            let row = self.rows.get(&**client)?;
            let (owner, last_seq, version) = (row.owner.clone(), row.last_seq, row.version);
            Some(ClientRow { client_id: client.clone(), owner, last_seq, version })
        };
        clients.iter().filter_map(told).collect()
    }

    /// Stores a snapshot and trims the log below it and the window.
    pub fn save(&mut self, at: &Point, snapshot: S, now_ms: u64) -> Saving {
        if at.version > self.version() {
            return Saving::Forked;
        }
        if at.version <= self.snapshot.0.version {
            return Saving::Stale;
        }
        if !self.has(at) {
            return Saving::Forked;
        }
        self.snapshot = (at.clone(), snapshot);
        // What was the head that long ago stays, with all that came after it.
        let old = self.all.partition_point(|kept| now_ms.saturating_sub(kept.time_ms) > self.rules.keep_ms);
        let oldest = if old == self.all.len() { Version::MAX } else { old as Version };
        let keep = self.floor.min(at.version).min(oldest);
        let keep = if self.rules.broken == BrokenRule::TrimTail { self.version() } else { keep };
        self.trimmed = self.trimmed.max(keep.saturating_sub(1));
        let (life_ms, numbered_ms) = (self.rules.row_life_ms, self.rules.numbered_life_ms);
        self.forget_rows(now_ms, |name| if is_numbered(name) { numbered_ms } else { life_ms });
        Saving::Stored
    }

    /// As if all rows had been written so much later.
    pub fn keep_rows_young(&mut self, by_ms: u64) {
        self.rows.values_mut().for_each(|row| row.time_s += by_ms / 1_000);
    }

    /// Whether a row of this identity was there and is forgotten.
    pub fn has_forgotten(&self, identity: &Identity) -> bool {
        self.forgotten.contains(&row_name(identity))
    }

    /// How many rows were there and are forgotten.
    pub fn forgotten(&self) -> usize {
        self.forgotten.len()
    }

    /// For how long an identity is remembered whatever happens.
    pub fn remembered_ms(&self, identity: &Identity) -> u64 {
        if identity.by_gateway { self.rules.crowded_life_ms } else { self.rules.row_life_ms }
    }

    fn forget_rows(&mut self, now_ms: u64, life_ms: impl Fn(&str) -> u64) {
        let is_old = |name: &String, row: &mut Row| row.time_s * 1_000 < now_ms.saturating_sub(life_ms(name));
        self.forgotten.extend(self.rows.extract_if(.., is_old).map(|(name, _)| name));
    }

    fn has_room(&mut self, numbered: bool, now_ms: u64) -> bool {
        if self.is_full(numbered) {
            let (life_ms, numbered_ms) = (self.rules.row_life_ms, self.rules.crowded_life_ms);
            self.forget_rows(now_ms, |name| if is_numbered(name) { numbered_ms } else { life_ms });
        }
        !self.is_full(numbered)
    }

    fn is_full(&self, numbered: bool) -> bool {
        let is_crowded = || self.rows.keys().filter(|name| is_numbered(name)).count() >= self.rules.numbered;
        self.rows.len() >= self.rules.clients || numbered && is_crowded()
    }

    fn append(&mut self, new: &New<E>, call: &Call) -> Verdict {
        let name = row_name(&new.identity);
        let seq = new.identity.seq;
        let row = self.rows.get(&name);
        let last = row.map_or(0, |row| row.last_seq);
        if row.is_some_and(|row| row.owner != new.owner) && self.rules.broken != BrokenRule::Owners {
            return Verdict::Gap(last);
        }
        if seq <= last && self.rules.broken != BrokenRule::Dedupe {
            return Verdict::Dup(row.map_or(0, |row| row.version));
        }
        let came_between = call.before > call.head || new.base != self.version();
        if new.base > call.head && came_between && self.rules.broken != BrokenRule::Chains {
            return Verdict::Behind;
        }
        if seq > last + 1 {
            return Verdict::Gap(last);
        }
        let floor = if self.rules.broken == BrokenRule::BasePerCall { call.floor_before } else { self.floor };
        if new.base < floor {
            return Verdict::Behind;
        }
        if row.is_none() && !self.has_room(new.identity.by_gateway, call.now_ms) {
            return Verdict::Overloaded;
        }
        let at = Point { version: self.version() + 1, hash: new.payload.hash_after(&self.head().hash) };
        let version = at.version;
        self.window_bytes += new.payload.bytes();
        self.all.push(Kept { at, payload: new.payload.clone(), time_ms: call.now_ms });
        while version - self.floor > self.rules.window_entries
            || (self.window_bytes > self.rules.window_bytes && version - self.floor > 1)
        {
            self.raise_floor();
        }
        let row = Row { owner: new.owner.clone(), last_seq: seq.max(last), version, time_s: call.now_ms / 1_000 };
        self.rows.insert(name, row);
        Verdict::Ok(version)
    }

    fn raise_floor(&mut self) {
        self.floor += 1;
        if self.floor > self.trimmed
            && let Some(kept) = usize::try_from(self.floor - 1).ok().and_then(|index| self.all.get(index))
        {
            self.window_bytes -= kept.payload.bytes().min(self.window_bytes);
        }
    }
}

/// The name of a row; a client's own has no `~`.
fn row_name(identity: &Identity) -> String {
    if identity.by_gateway { format!("~{}", identity.id) } else { identity.id.to_string() }
}

fn is_numbered(name: &str) -> bool {
    name.starts_with('~')
}
