//! What an open document reads and writes, as futures that its task drives: everything that waits for the store.
//!
//! In: the parts of the pod and typed values. Out: typed values, bytes decoded and encoded on the way, or
//! [`Trouble`]. Nothing here changes the document.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use document::{Batch, Code, CommitReply, Logged, Lookup, Member, Point, Refusal, Snapshot, Version};
use ot::Delta;
use tokio::sync::Semaphore;

use crate::{
    documents::Parts,
    store::{Creation, Era, NewEntry, SEED_START_BYTES, Saved, StoreError, StoredEntry, Tail},
};

/// Clients are told to come back after this time when the store is away.
const RETRY_AFTER_MS: u64 = 1_000;
/// After at least this time, and at most twice as long, when there is no memory.
const NO_ROOM_RETRY_MS: u64 = 2_000;
/// A read that failed is tried again after this time, a little longer each time up to ten times as long.
const RETRY_READ: Duration = Duration::from_millis(100);
/// Larger snapshots are encoded and decoded away from the threads that serve sockets.
const INLINE_BYTES: usize = 64 << 10;
/// So many large snapshots are decoded at a time: what one takes is known only then, and formatting takes many times what
/// it takes as JSON.
static DECODING: Semaphore = Semaphore::const_new(2);
/// What is read is held as it came, as it is decoded, and as the document keeps it.
const COPIES: usize = 3;

/// Why something could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Trouble {
    /// The store did not answer, or what it holds cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored is not a document to this version.
    #[error("{0}")]
    Unreadable(String),
    /// The pod's head is not a point of the log.
    #[error("the history changed")]
    Forked,
    /// It does not fit beside the documents that are in use.
    #[error("this pod has no memory for one more document")]
    NoRoom,
}

impl Trouble {
    /// Whether trying again may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            Self::Unreadable(_) => false,
            Self::Forked | Self::NoRoom => true,
        }
    }

    /// What a client is told whose join failed for this.
    pub(crate) fn refusal(&self) -> Refusal {
        if let Self::NoRoom = self {
            no_room()
        } else if self.is_passing() {
            refusal(Code::StoreUnavailable, "the document store is not available; try again", Some(RETRY_AFTER_MS))
        } else {
            refusal(Code::JoinFailed, "the stored document cannot be read by this version", None)
        }
    }
}

/// What a client is told for whose document there is no memory; drawn, so that not all come again at once.
pub(crate) fn no_room() -> Refusal {
    let retry_after_ms = NO_ROOM_RETRY_MS + rand::random_range(0..NO_ROOM_RETRY_MS);
    refusal(Code::Overloaded, "this pod has no memory for more documents now", Some(retry_after_ms))
}

/// A refusal without numbers.
pub(crate) fn refusal(code: Code, message: &str, retry_after_ms: Option<u64>) -> Refusal {
    Refusal { code, message: message.to_owned(), seq: None, last_seq: None, retry_after_ms }
}

/// A whole stored document.
pub(crate) struct Loaded {
    pub(crate) snapshot: Snapshot,
    pub(crate) tail: Vec<Logged>,
}

/// Reads the document; creates it, with the application's text, where nobody has stored it yet. `fits` is told how many
/// bytes that takes, as soon as it is known, and says whether to go on.
///
/// # Errors
/// [`Trouble::NoRoom`] when it is not to go on.
pub(crate) async fn load(parts: &Parts, document_id: &str, fits: impl Fn(usize) -> bool) -> Result<Loaded, Trouble> {
    let fits = |bytes| if fits(bytes) { Ok(()) } else { Err(Trouble::NoRoom) };
    // A text that is short is read on the way, to spare a round trip. Texts stay in the store for ever and may be long:
    // such a one is read only where it is wanted.
    let (opened, start) = tokio::join!(parts.store.open(document_id), parts.store.seed_start(document_id));
    let opened = match opened? {
        Some(opened) => opened,
        None => {
            let start = start?;
            let is_whole = start.len() < SEED_START_BYTES;
            let seed = if is_whole { Some(start) } else { parts.store.seed(document_id).await? };
            fits(COPIES * seed.as_ref().map_or(0, Bytes::len))?;
            parts.store.create(document_id, creation(seed)?).await?
        }
    };
    let tail_bytes = |entries: &[StoredEntry]| entries.iter().map(|entry| entry.bytes.len()).sum::<usize>();
    let mut read = COPIES * (opened.snapshot.as_ref().map_or(0, Bytes::len) + tail_bytes(&opened.tail.entries));
    fits(read)?;
    let snapshot = match &opened.snapshot {
        None => Snapshot { at: opened.snapshot_at.clone(), content: Delta::default(), window: Vec::new() },
        Some(bytes) => {
            let is_large = bytes.len() > INLINE_BYTES;
            // Never closed.
            let _turn = if is_large { DECODING.acquire().await.ok() } else { None };
            let snapshot = decode_snapshot(bytes.clone()).await?;
            // As it is, and once more as the document keeps it.
            read += 2 * snapshot.content.memory_bytes();
            fits(read)?;
            // Hash(0) is drawn by whoever creates the document, after its first snapshot was encoded.
            Snapshot { at: opened.snapshot_at.clone(), ..snapshot }
        }
    };
    let mut tail = decode_entries(&opened.tail.entries)?;
    let mut more = opened.tail.more;
    while more {
        let after = tail.last().map_or_else(|| opened.snapshot_at.clone(), |logged: &Logged| logged.at.clone());
        let next = parts.store.tail(document_id, &after).await?;
        read += COPIES * tail_bytes(&next.entries);
        fits(read)?;
        tail.extend(decode(&next)?);
        more = next.more;
    }
    Ok(Loaded { snapshot, tail })
}

/// The log after a point, and whether there is more of it.
pub(crate) async fn fetch(parts: &Parts, document_id: &str, after: &Point) -> Result<(Vec<Logged>, bool), Trouble> {
    let mut attempt = 0;
    loop {
        match parts.store.catch_up(document_id, after).await {
            Ok(tail) => return Ok((decode(&tail)?, tail.more)),
            Err(error) if error.is_passing() => {
                attempt = (attempt + 1).min(10);
                tokio::time::sleep(RETRY_READ * attempt).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a join needs to know, in one round trip.
pub(crate) async fn lookup(
    parts: &Parts,
    document_id: &str,
    user_id: &str,
    clients: &[Arc<str>],
    after: &Point,
) -> Result<Lookup, Result<Refusal, Trouble>> {
    // Both are written to the same connection before either is answered.
    let (role, found) =
        tokio::join!(parts.directory.role(document_id, user_id), parts.store.lookup(document_id, clients, after));
    let role = role.map_err(|error| Err(error.into()))?;
    let Some(role) = role else {
        return Err(Ok(refusal(Code::AccessDenied, "this user has no access to the document", None)));
    };
    let found = found.map_err(|error| Err(error.into()))?;
    let tail = decode(&found.tail).map_err(Err)?;
    Ok(Lookup { role, rows: found.rows, tail, more: found.tail.more })
}

/// A batch as the store takes it.
pub(crate) fn encode_batch(batch: &Batch) -> Vec<NewEntry> {
    let encode = |entry: &document::Entry| NewEntry {
        identity: entry.identity.clone(),
        owner: Arc::clone(&entry.user_id),
        base: entry.base,
        bytes: protocol::encode_entry(entry).into(),
    };
    batch.entries.iter().map(encode).collect()
}

/// One attempt of a commit.
pub(crate) async fn commit(
    parts: &Parts,
    document_id: &str,
    head: &Point,
    floor: Version,
    batch: &[NewEntry],
) -> Result<(CommitReply, Era), Trouble> {
    let committed = parts.store.commit(document_id, head, floor, batch).await?;
    let reply = CommitReply {
        verdicts: committed.verdicts,
        tail: decode_entries(&committed.tail.entries)?,
        more: committed.tail.more,
        forked: committed.tail.forked,
    };
    Ok((reply, committed.era))
}

/// Stores a snapshot; answers the version that is safe now.
pub(crate) async fn save(parts: &Parts, document_id: &str, snapshot: Arc<Snapshot>) -> Result<Version, Trouble> {
    let at = snapshot.at.clone();
    let window_bytes: usize = snapshot.window.iter().map(|entry| entry.ops.weight_bytes()).sum();
    let text = if snapshot.content.weight_bytes() + window_bytes <= INLINE_BYTES {
        protocol::encode_snapshot(&snapshot)
    } else {
        tokio::task::spawn_blocking(move || protocol::encode_snapshot(&snapshot)).await.map_err(ended)?
    };
    match parts.store.save(document_id, &at, &text.into()).await? {
        Saved::Stored | Saved::Stale => Ok(at.version),
        Saved::Forked => Err(Trouble::Forked),
    }
}

/// All presence rows, and which pods live, of those with rows and those whose people are `known`; rows of dead pods are
/// removed on the way.
pub(crate) async fn people(
    parts: &Parts,
    document_id: &str,
    known: &BTreeSet<Arc<str>>,
) -> Result<(Vec<Member>, BTreeSet<Arc<str>>), Trouble> {
    let rows = parts.store.presence(document_id).await?;
    // A row that cannot be read is a newer version's, or nobody's: it expires with the hash.
    let (rows, members): (Vec<_>, Vec<Member>) = rows
        .into_iter()
        .filter_map(|(name, row)| {
            let member = protocol::decode_member(&name, std::str::from_utf8(&row).ok()?).ok()?;
            Some(((name, row), member))
        })
        .unzip();
    // A pod whose rows are missing may live all the same: the store may have forgotten them.
    let pods: BTreeSet<_> = members.iter().map(|member| &member.pod).chain(known).cloned().collect();
    let live = parts.lease.check(&pods).await?;
    // As they were read: a pod that was only stopped writes them anew, with another value, and those are not to go.
    let is_dead = |(_, member): &(_, &Member)| !live.contains(&member.pod);
    let dead: Vec<(String, Bytes)> = rows.into_iter().zip(&members).filter(is_dead).map(|(row, _)| row).collect();
    if !dead.is_empty() {
        parts.store.forget_presence(document_id, &dead).await?;
    }
    Ok((members, live))
}

/// The entries of a part of the log.
pub(crate) fn decode(tail: &Tail) -> Result<Vec<Logged>, Trouble> {
    if tail.forked {
        return Err(Trouble::Forked);
    }
    decode_entries(&tail.entries)
}

/// Entries as the document takes them.
pub(crate) fn decode_entries(entries: &[StoredEntry]) -> Result<Vec<Logged>, Trouble> {
    let decode = |stored: &StoredEntry| {
        let entry = protocol::decode_entry(text(&stored.bytes)?).map_err(unreadable)?;
        Ok(Logged { at: stored.at.clone(), entry })
    };
    entries.iter().map(decode).collect()
}

async fn decode_snapshot(bytes: Bytes) -> Result<Snapshot, Trouble> {
    let decode = |bytes: &[u8]| protocol::decode_snapshot(text(bytes)?).map_err(unreadable);
    if bytes.len() <= INLINE_BYTES {
        return decode(&bytes);
    }
    tokio::task::spawn_blocking(move || decode(&bytes)).await.map_err(ended)?
}

fn creation(seed: Option<Bytes>) -> Result<Creation, Trouble> {
    // 11 hex digits, like every hash after it.
    let root: Arc<str> = format!("{:011x}", rand::random::<u64>() >> 20).into();
    let seed = match &seed {
        None => "",
        Some(bytes) => text(bytes)?,
    };
    if seed.is_empty() {
        return Ok(Creation { root, snapshot: None });
    }
    let content = Delta::new().insert(seed, None);
    let at = Point { version: 0, hash: Arc::clone(&root) };
    let snapshot = protocol::encode_snapshot(&Snapshot { at, content, window: Vec::new() });
    Ok(Creation { root, snapshot: Some(snapshot.into()) })
}

fn text(bytes: &[u8]) -> Result<&str, Trouble> {
    std::str::from_utf8(bytes).map_err(|_| Trouble::Unreadable("stored bytes are not UTF-8".into()))
}

fn unreadable(error: protocol::Unreadable) -> Trouble {
    Trouble::Unreadable(error.to_string())
}

/// The process ends, or a bug: either way there is no answer.
fn ended(error: tokio::task::JoinError) -> Trouble {
    Trouble::Store(StoreError::Unavailable(error.to_string()))
}
