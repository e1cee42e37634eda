//! The history of the document as this pod knows it: the content at its head, and the canonical forms just below.
//!
//! In: log entries in order. Out: their canonical forms, and the content after each. An entry's own form applies to the
//! version it was made on; folding carries it over what was committed in between, one entry at a time (transforming
//! against a composed history diverges), the later committed one standing first at ties.

use std::{collections::VecDeque, sync::Arc};

use ot::{Delta, Invalid, Rope, Side};

use crate::{
    Canonical, DIGEST_EVERY, Digest, Entry, Logged, Mutation, OpenError, Point, Settings, Snapshot, Version,
    settings::hard_window_bytes,
};

/// Why an entry cannot be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unlearnable {
    /// Its base lies below the canonical forms that are kept.
    BelowWindow,
    /// It does not fit the document.
    Unfit(Invalid),
}

/// Content and canonical forms.
#[derive(Debug)]
pub(crate) struct History {
    rope: Rope,
    head: Point,
    /// Contiguous, oldest first, the last one at `head`.
    canon: VecDeque<Arc<Canonical>>,
    /// What they take as they are sent and stored, and where formatting is shared.
    canon_bytes: usize,
    canon_held_bytes: usize,
    /// What they take in memory.
    canon_memory_bytes: usize,
    rope_memory: Measured,
    /// The point just below the oldest canonical form, where it is known.
    below: Option<Point>,
    /// The store is known to refuse entries whose base is below this.
    settled_floor: Version,
    /// The newest stored snapshot that this pod knows of, and the bytes of what came after it.
    saved_at: Version,
    tail_bytes: usize,
    mutation: Mutation,
    window_entries: usize,
    window_bytes: usize,
}

impl History {
    pub(crate) fn open(settings: &Settings, snapshot: Snapshot, tail: &[Logged]) -> Result<Self, OpenError> {
        let rope = Rope::from_delta(&snapshot.content).map_err(OpenError::Content)?;
        let mut expected = snapshot
            .at
            .version
            .checked_sub(snapshot.window.len() as u64)
            .ok_or(OpenError::Gap { expected: 0, found: snapshot.at.version })?;
        let settled_floor = expected;
        for canonical in &snapshot.window {
            expected += 1;
            if canonical.at.version != expected {
                return Err(OpenError::Gap { expected, found: canonical.at.version });
            }
        }
        let below = snapshot.window.is_empty().then(|| snapshot.at.clone());
        let canon: VecDeque<_> = snapshot.window.into_iter().map(Arc::new).collect();
        let mut history = Self {
            rope_memory: Measured::of(&rope),
            rope,
            saved_at: snapshot.at.version,
            head: snapshot.at,
            canon_bytes: canon.iter().map(|canonical| weight_bytes(canonical)).sum(),
            canon_held_bytes: canon.iter().map(|canonical| canonical.ops.held_bytes()).sum(),
            canon_memory_bytes: canon.iter().map(|canonical| memory_bytes(canonical)).sum(),
            canon,
            below,
            settled_floor,
            tail_bytes: 0,
            mutation: settings.mutation,
            window_entries: settings.window_entries,
            window_bytes: settings.window_bytes,
        };
        for logged in tail.iter().filter(|logged| logged.at.version > history.head.version).collect::<Vec<_>>() {
            let expected = history.head.version + 1;
            let version = logged.at.version;
            if version != expected {
                return Err(OpenError::Gap { expected, found: version });
            }
            history.learn(logged).map_err(|trouble| match trouble {
                Unlearnable::BelowWindow => OpenError::BelowWindow { version, base: logged.entry.base },
                Unlearnable::Unfit(invalid) => OpenError::Unfit { version, invalid },
            })?;
        }
        Ok(history)
    }

    pub(crate) fn head(&self) -> &Point {
        &self.head
    }

    pub(crate) fn rope(&self) -> &Rope {
        &self.rope
    }

    /// About how many bytes content and canonical forms take in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.rope_memory.now(&self.rope) + self.canon_memory_bytes
    }

    /// The lowest version that an entry may be made on: every later one is still kept.
    pub(crate) fn floor(&self) -> Version {
        self.head.version - self.canon.len() as u64
    }

    /// The canonical form of this version, while it is kept.
    pub(crate) fn canonical(&self, version: Version) -> Option<&Arc<Canonical>> {
        let index = version.checked_sub(self.floor() + 1)?;
        self.canon.get(usize::try_from(index).ok()?)
    }

    /// The version that this edit has in the log, while it is kept.
    pub(crate) fn version_of(&self, identity: &crate::Identity, user_id: &Arc<str>) -> Option<Version> {
        self.canon.iter().rev().find(|entry| entry.is(identity, user_id)).map(|entry| entry.at.version)
    }

    /// The canonical forms after this version, oldest first; none if some are no longer kept.
    pub(crate) fn after(&self, version: Version) -> Option<impl DoubleEndedIterator<Item = &Arc<Canonical>>> {
        let skip = usize::try_from(version.checked_sub(self.floor())?).ok()?;
        (version <= self.head.version).then(|| self.canon.iter().skip(skip))
    }

    /// The hash of this version, while it is known.
    pub(crate) fn hash(&self, version: Version) -> Option<&Arc<str>> {
        if version == self.head.version {
            return Some(&self.head.hash);
        }
        match &self.below {
            Some(below) if below.version == version => Some(&below.hash),
            _ => self.canonical(version).map(|canonical| &canonical.at.hash),
        }
    }

    /// Takes in the entry after the head.
    pub(crate) fn learn(&mut self, logged: &Logged) -> Result<Arc<Canonical>, Unlearnable> {
        let ops = self.fold(&logged.entry)?;
        self.rope.apply(&ops).map_err(Unlearnable::Unfit)?;
        let entry = &logged.entry;
        let canonical = Arc::new(Canonical {
            at: logged.at.clone(),
            identity: entry.identity.clone(),
            client_id: entry.client_id.clone(),
            user_id: entry.user_id.clone(),
            session: entry.session.clone(),
            ops: Arc::new(ops),
            digest: logged.at.version.is_multiple_of(DIGEST_EVERY).then(|| Digest::of(&self.rope.text())),
        });
        let bytes = weight_bytes(&canonical);
        self.head = logged.at.clone();
        self.canon_bytes += bytes;
        self.canon_held_bytes += canonical.ops.held_bytes();
        self.canon_memory_bytes += memory_bytes(&canonical);
        self.rope_memory.follow(&self.rope);
        self.canon.push_back(canonical.clone());
        self.tail_bytes += if self.head.version > self.saved_at { bytes } else { 0 };
        self.trim();
        Ok(canonical)
    }

    pub(crate) fn mutation(&self) -> Mutation {
        self.mutation
    }

    /// The side that the transform of a committed entry gives to one that is carried over it.
    pub(crate) fn tie(&self) -> Side {
        if self.mutation == Mutation::FlipTies { Side::This } else { Side::Other }
    }

    /// The lower end that this pod would keep by its own rule, to be told to the store.
    pub(crate) fn wanted_floor(&self) -> Version {
        let mut bytes = self.canon_bytes;
        let mut floor = self.floor();
        for canonical in &self.canon {
            if bytes <= self.window_bytes || floor + 1 >= self.head.version {
                break;
            }
            bytes -= weight_bytes(canonical);
            floor += 1;
        }
        floor
    }

    /// The store now refuses entries whose base is below `floor`.
    pub(crate) fn settle_floor(&mut self, floor: Version) {
        self.settled_floor = self.settled_floor.max(floor);
        self.trim();
    }

    /// How many times as much as is allowed came since the last snapshot, 0 for less than once: that makes opening slow.
    pub(crate) fn tail_level(&self, settings: &Settings) -> u64 {
        let times = |tail: u64, most: usize| tail.saturating_sub(1) / (most as u64).max(1);
        let most_bytes = settings.snapshot_tail_bytes.max(self.rope.bytes() / 10);
        times(self.tail_entries(), settings.snapshot_tail_entries).max(times(self.tail_bytes as u64, most_bytes))
    }

    /// Whether a snapshot of it is of bounded size.
    pub(crate) fn is_storable(&self, settings: &Settings) -> bool {
        self.rope.bytes() <= settings.sent_document_bytes()
            && self.canon_bytes <= hard_window_bytes(self.window_bytes).max(settings.sent_entry_bytes())
    }

    /// How many entries came since the last snapshot.
    pub(crate) fn tail_entries(&self) -> u64 {
        self.head.version.saturating_sub(self.saved_at)
    }

    /// A snapshot at this version is stored, whoever made it.
    pub(crate) fn saved(&mut self, version: Version) {
        if version > self.saved_at {
            self.saved_at = version;
            // What came after it and is not kept any more is not counted: there is more to come before the next one.
            let after = self.canon.iter().rev().take_while(|canonical| canonical.at.version > version);
            self.tail_bytes = after.map(|canonical| weight_bytes(canonical)).sum();
        }
    }

    pub(crate) fn snapshot(&self, mutation: Mutation) -> Snapshot {
        let kept = if mutation == Mutation::SnapshotWithoutWindow { 0 } else { self.canon.len() };
        let window = self.canon.iter().take(kept).map(|canonical| Canonical::clone(canonical)).collect();
        Snapshot { at: self.head.clone(), content: self.rope.to_delta(), window }
    }

    fn fold(&self, entry: &Entry) -> Result<Delta, Unlearnable> {
        let later = self.after(entry.base).ok_or(Unlearnable::BelowWindow)?;
        if self.mutation == Mutation::ComposedHistory {
            return Ok(fold_over_composed(later.map(|canonical| &*canonical.ops), &entry.ops));
        }
        let mut ops: Option<Delta> = None;
        for canonical in later {
            let from = ops.as_ref().unwrap_or(&entry.ops);
            ops = Some(canonical.ops.transform(from, self.tie()));
        }
        Ok(ops.unwrap_or_else(|| entry.ops.clone()))
    }

    /// Forgets what no entry can need any more: by number, which the store knows by itself, and by bytes below the
    /// floor that the store was told. The last one always stays.
    fn trim(&mut self) {
        while self.canon.len() > 1
            && (self.canon.len() > self.window_entries
                || (self.canon_bytes > self.window_bytes && self.floor() < self.settled_floor)
                || self.canon_held_bytes > hard_window_bytes(self.window_bytes))
        {
            if let Some(gone) = self.canon.pop_front() {
                self.canon_bytes = self.canon_bytes.saturating_sub(weight_bytes(&gone));
                self.canon_held_bytes = self.canon_held_bytes.saturating_sub(gone.ops.held_bytes());
                self.canon_memory_bytes = self.canon_memory_bytes.saturating_sub(memory_bytes(&gone));
                self.below = Some(gone.at.clone());
            }
        }
    }
}

/// What the content took in memory when that was looked at: again when an eighth of it has changed, so that it costs an
/// edit little however large the document is.
#[derive(Debug, Clone, Copy)]
struct Measured {
    rope_bytes: usize,
    memory_bytes: usize,
}

impl Measured {
    /// A smaller change is not worth looking.
    const CHANGE_MIN_BYTES: usize = 4096;

    fn of(rope: &Rope) -> Measured {
        Measured { rope_bytes: rope.bytes(), memory_bytes: rope.memory_bytes() }
    }

    fn follow(&mut self, rope: &Rope) {
        if rope.bytes().abs_diff(self.rope_bytes) > (self.rope_bytes / 8).max(Self::CHANGE_MIN_BYTES) {
            *self = Measured::of(rope);
        }
    }

    fn now(self, rope: &Rope) -> usize {
        self.memory_bytes + rope.bytes().saturating_sub(self.rope_bytes)
    }
}

/// [`Mutation::ComposedHistory`].
fn fold_over_composed<'a>(later: impl Iterator<Item = &'a Delta>, ops: &Delta) -> Delta {
    let missed = later.fold(Delta::new(), |all, next| all.compose(next).unwrap_or(all));
    missed.transform(ops, Side::Other)
}

/// What a canonical form counts in bytes.
pub(crate) fn weight_bytes(canonical: &Canonical) -> usize {
    // The names and numbers around the operations.
    const FRAME_BYTES: usize = 96;
    FRAME_BYTES + canonical.ops.weight_bytes()
}

/// What a canonical form takes in memory, about.
fn memory_bytes(canonical: &Canonical) -> usize {
    // Its hash; the names are mostly shared with its neighbours in some documents and in others not.
    const BESIDE_BYTES: usize = 160;
    size_of::<Canonical>() + BESIDE_BYTES + canonical.ops.memory_bytes()
}
