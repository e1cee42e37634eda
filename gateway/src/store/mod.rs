//! Where documents are kept: one log per document, its snapshot, its clients' last numbers, presence, and what
//! applications say of users.
//!
//! In: calls by document id, with entries and snapshots as opaque bytes (their formats are the `protocol` crate's).
//! Out: points, verdicts and bytes, or a [`StoreError`]. Two implementations keep the same rules: [`MemoryStore`] for a
//! gateway alone, [`RedisStore`] for many. Every method may be repeated after [`StoreError::Unavailable`]: identities
//! make a commit exact-once, everything else is idempotent.

mod dial;
mod durability;
mod errors;
mod health;
mod link;
mod memory;
mod notice;
mod redis;
mod resp;
mod rules;
mod servers;
mod slots;
mod view;

use std::sync::Arc;

use bytes::Bytes;
use document::{Point, Role, Verdict, Version};
use tokio::sync::watch;

pub(crate) use dial::{RawConnection, check_authorities, closed, connect_raw};
pub use health::Away;
pub use link::{Link, Script};
pub use memory::MemoryStore;
pub use notice::Notice;
pub use redis::RedisStore;
pub(crate) use resp::Reply;
pub(crate) use rules::{continues, role};
pub use servers::Servers;
pub(crate) use slots::slot;
pub(crate) use view::View;

pub use crate::config::{Durability, Redis as RedisSettings};

/// Entries of one commit call.
pub const BATCH_ENTRIES_MAX: usize = 256;
/// Bytes of the entries of one commit call; a single entry may be larger.
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// Entries that one call returns.
pub const TAIL_ENTRIES_MAX: usize = 512;
/// Bytes of the entries that one call returns; a single entry may be larger.
pub const TAIL_BYTES_MAX: usize = 256 << 10;
/// A snapshot is stored in pieces of this size, so that no value keeps the server from others for long.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Reads of what may have been missed that are under way at once. When a server comes back every open document has such
/// a question, and each answer may have [`TAIL_BYTES_MAX`].
pub const CATCH_UPS_MAX: usize = 64;
/// Of the text of an application, what is read with every opening, wanted or not.
pub const SEED_START_BYTES: usize = 4 << 10;
/// Rows of a presence hash that one call returns, roughly: a tenth of a megabyte, and a millisecond of the server's time.
pub const PRESENCE_PAGE_ROWS: usize = 512;
/// Rows of one presence hash that are read at all; a document counts no more people of other pods than that.
pub const PRESENCE_ROWS_MAX: usize = 100_000;
/// A presence hash lives this long after the last renewal.
pub const PRESENCE_LIFE_S: u64 = 24 * 3600;

/// Why a call has no answer, as far as decisions differ.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, still loading, full, or read-only: the call may or may not have been carried out; repeat it.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The server may have been replaced as primary and does nothing; look for the primary and repeat.
    #[error("the store is fenced off")]
    Fenced,
    /// What is stored makes no sense to this version. Repeating does not help.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The call asks for too much at once, which is this program's fault.
    #[error("a call beyond its bounds: {0}")]
    OutOfBounds(String),
}

impl StoreError {
    /// In words, without saying once more that it is about the store.
    pub(crate) fn reason(self) -> String {
        match self {
            Self::Unavailable(why) | Self::Damaged(why) | Self::OutOfBounds(why) => why,
            Self::Fenced => "the server is fenced off".into(),
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Fenced => true,
            Self::Damaged(_) | Self::OutOfBounds(_) => false,
        }
    }
}

/// One entry of a batch: what the store must know of it, and its bytes.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// Whom it is counted against, and its number.
    pub identity: document::Identity,
    /// The user.
    pub owner: Arc<str>,
    /// The version it is based on.
    pub base: Version,
    /// As they will be read back.
    pub bytes: Bytes,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its version, and the hash after it.
    pub at: Point,
    /// As they were committed.
    pub bytes: Bytes,
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tail {
    /// In order, without gaps.
    pub entries: Vec<StoredEntry>,
    /// Whether the log has more.
    pub more: bool,
    /// The point asked for is not in the log: it is ahead, on another history, or trimmed away.
    pub forked: bool,
}

/// During an era a document's history only grows: one server process was the primary, without a break. What was read
/// or written in another era may not be there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Era {
    // The servers as they were known.
    pub(crate) view: u64,
    // Which of them.
    pub(crate) node: u16,
}

/// The answer to a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// One for each entry of the batch; none if the tail is `forked`.
    pub verdicts: Vec<Verdict>,
    /// The log after the batch's head, the batch included.
    pub tail: Tail,
    /// When: see [`Store::make_durable`].
    pub era: Era,
}

/// A stored document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The newest version.
    pub head: Point,
    /// Where the snapshot stands.
    pub snapshot_at: Point,
    /// `None`: the document is empty there.
    pub snapshot: Option<Bytes>,
    /// The log after the snapshot.
    pub tail: Tail,
}

/// How a document begins that nobody has stored before.
#[derive(Debug, Clone)]
pub struct Creation {
    /// Drawn at random: two documents never share a history.
    pub root: Arc<str>,
    /// `None`: empty.
    pub snapshot: Option<Bytes>,
}

/// What became of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is the document's snapshot now.
    Stored,
    /// One as new or newer is there.
    Stale,
    /// Its point is not in the log.
    Forked,
}

/// The answer to a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedUp {
    /// In the order asked for, where they exist.
    pub rows: Vec<document::ClientRow>,
    /// The log after the point asked for.
    pub tail: Tail,
    /// When: see [`Store::make_durable`].
    pub era: Era,
}

/// One of the two stores; cheap to clone.
#[derive(Debug, Clone)]
pub enum Store {
    /// In this process.
    Memory(MemoryStore),
    /// Shared.
    Redis(RedisStore),
}

/// Calls the same method of whichever store it is.
macro_rules! either {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Store::Memory($store) => $call,
            Store::Redis($store) => $call.await,
        }
    };
}

impl Store {
    /// Reads a document, `None` if it was never stored.
    pub async fn open(&self, document: &str) -> Result<Option<Opened>, StoreError> {
        either!(self, store => store.open(document, None))
    }

    /// Creates the document unless somebody else was quicker, and reads it.
    pub async fn create(&self, document: &str, creation: Creation) -> Result<Opened, StoreError> {
        let opened = either!(self, store => store.open(document, Some(&creation)))?;
        opened.ok_or_else(|| StoreError::Damaged("a document that was just created is not there".into()))
    }

    /// The plain text that an application left for a document that is not stored yet.
    pub async fn seed(&self, document: &str) -> Result<Option<Bytes>, StoreError> {
        either!(self, store => store.application_value(&seed_key(document)))
    }

    /// Its first [`SEED_START_BYTES`], which may end inside a character; empty if there is none. It is there whether or not
    /// the document is stored.
    pub async fn seed_start(&self, document: &str) -> Result<Bytes, StoreError> {
        either!(self, store => store.application_value_start(&seed_key(document), SEED_START_BYTES))
    }

    /// Appends what is new of a batch: at most [`BATCH_ENTRIES_MAX`] entries, one of each identity, based at or below
    /// `head`, or on the entries before it in the batch; the latter is `behind` unless just these came after the head. From
    /// now on entries based below `floor` are refused, by whomever. What is more than [`BATCH_BYTES_MAX`] goes in several
    /// calls, and entries of others may come in between.
    pub async fn commit(
        &self,
        document: &str,
        head: &Point,
        floor: Version,
        batch: &[NewEntry],
    ) -> Result<Committed, StoreError> {
        // Who gathers a batch counts roughly: escapes can make its bytes several times as many.
        let mut parts = rules::parts(batch);
        let first = parts.next().unwrap_or_default();
        let mut committed = either!(self, store => store.commit(document, head, floor, first))?;
        for part in parts {
            if committed.tail.forked {
                break;
            }
            // The first call has raised the floor; in terms of the log that it found, as for one call.
            let next = either!(self, store => store.commit(document, head, 0, part))?;
            if next.era != committed.era {
                return Err(StoreError::Unavailable("another server became the primary within a batch".into()));
            }
            committed.verdicts.extend(next.verdicts);
            // It begins at the same head and holds the earlier parts' entries too.
            committed.tail = next.tail;
        }
        if committed.tail.forked {
            committed.verdicts.clear();
        }
        Ok(committed)
    }

    /// The log after a point.
    pub async fn tail(&self, document: &str, after: &Point) -> Result<Tail, StoreError> {
        Ok(self.lookup(document, &[], after).await?.tail)
    }

    /// The same for whoever may have missed something: [`CATCH_UPS_MAX`] at once, the others wait for their turn.
    pub async fn catch_up(&self, document: &str, after: &Point) -> Result<Tail, StoreError> {
        let _turn = match self {
            Store::Memory(_) => None,
            Store::Redis(store) => store.turn_to_catch_up().await,
        };
        self.tail(document, after).await
    }

    /// Rows of clients, and the log after a point, in one call.
    pub async fn lookup(&self, document: &str, clients: &[Arc<str>], after: &Point) -> Result<LookedUp, StoreError> {
        either!(self, store => store.lookup(document, clients, after))
    }

    /// Returns when everything that was committed in this era before the call is as durable as configured, entries that
    /// others committed and repeats included: all that a commit or a lookup of this era saw. It waits as long as that takes; too few followers only make it longer.
    ///
    /// # Errors
    /// Passing when the era is over: what it committed may be lost. Repeat the commit, then ask again with its era.
    pub async fn make_durable(&self, era: Era) -> Result<(), StoreError> {
        match self {
            Store::Memory(_) => Ok(()),
            Store::Redis(store) => store.make_durable(era).await,
        }
    }

    /// A number that changes whenever documents may have lost entries: another server became the primary, or the same
    /// one restarted. Whoever holds a document's history then checks it against the store.
    pub fn history_changes(&self) -> watch::Receiver<u64> {
        match self {
            Store::Memory(store) => store.history_changes(),
            Store::Redis(store) => store.history_changes(),
        }
    }

    /// Stores a snapshot, unless a newer one is there, and lets go of what it replaces.
    pub async fn save(&self, document: &str, at: &Point, snapshot: &Bytes) -> Result<Saved, StoreError> {
        either!(self, store => store.save(document, at, snapshot))
    }

    /// What the application says of a user: JSON, see the contract.
    pub async fn user(&self, user: &str) -> Result<Option<Bytes>, StoreError> {
        let key = format!("user:{user}");
        either!(self, store => store.application_value(&key))
    }

    /// What the user directory told one of the pods not long ago.
    pub async fn told_user(&self, user: &str) -> Result<Option<Bytes>, StoreError> {
        let key = format!("cache:user:{user}");
        either!(self, store => store.application_value(&key))
    }

    /// Keeps what the user directory told for the other pods, for `life_s` seconds; `None` removes it.
    pub async fn tell_user(&self, user: &str, told: Option<&Bytes>, life_s: u64) -> Result<(), StoreError> {
        let key = format!("cache:user:{user}");
        either!(self, store => store.set_for_a_while(&key, told, life_s))
    }

    /// What the application lets a user do with a document; `None`: nothing.
    pub async fn role(&self, document: &str, user: &str) -> Result<Option<Role>, StoreError> {
        let key = format!("doc:{document}:access:{user}");
        Ok(either!(self, store => store.application_value(&key))?.and_then(|value| rules::role(&value)))
    }

    /// All rows of a document's presence as they were written, at most about [`PRESENCE_ROWS_MAX`]. A row that is written
    /// or removed meanwhile may be there or not, and one may come twice, the later state last.
    pub async fn presence(&self, document: &str) -> Result<Vec<(String, Bytes)>, StoreError> {
        either!(self, store => store.presence(document))
    }

    /// Removes rows of a document's presence that are still what was read.
    pub async fn forget_presence(&self, document: &str, rows: &[(String, Bytes)]) -> Result<(), StoreError> {
        either!(self, store => store.forget_presence(document, rows))
    }

    /// Writes (or removes) rows of a document's presence and renews its life.
    pub async fn write_presence(&self, document: &str, rows: &[(String, Option<Bytes>)]) -> Result<(), StoreError> {
        either!(self, store => store.write_presence(document, rows))
    }

    /// Says that a pod lives, for `life_s` seconds; 0 ends it. True if the lease was held until now.
    pub async fn hold_lease(&self, pod: &str, life_s: u64) -> Result<bool, StoreError> {
        either!(self, store => store.hold_lease(pod, life_s))
    }

    /// Which of these pods live.
    pub async fn living(&self, pods: &[Arc<str>]) -> Result<Vec<bool>, StoreError> {
        either!(self, store => store.living(pods))
    }

    /// Which server may throw documents away when its memory is full, as far as it is known.
    pub fn evicting(&self) -> Option<String> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(store) => store.evicting(),
        }
    }

    /// Which servers cannot keep the promise of `--durability synced`, so that nothing is acknowledged, as far as it is
    /// known.
    pub fn unsynced(&self) -> Option<String> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(store) => store.unsynced(),
        }
    }

    /// Since when nothing that was committed becomes durable, and why.
    pub fn acknowledges_late(&self) -> Option<Away> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(store) => store.acknowledges_late(),
        }
    }

    /// Whether changes have failed lately; see [`Away`].
    pub fn away(&self) -> Option<Away> {
        match self {
            Store::Memory(_) => None,
            Store::Redis(store) => store.away(),
        }
    }

    /// Whether it ever answered.
    pub fn has_answered(&self) -> bool {
        match self {
            Store::Memory(_) => true,
            Store::Redis(store) => store.has_answered(),
        }
    }

    /// Whether it answers at all.
    pub async fn ping(&self) -> Result<(), StoreError> {
        either!(self, store => store.ping())
    }
}

/// Where an application leaves the text of a document that the gateway has never seen (CONTRACT section 2).
fn seed_key(document: &str) -> String {
    format!("doc:{document}:content")
}
