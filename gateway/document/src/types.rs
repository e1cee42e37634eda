//! The nouns that inputs and commands share.

use std::sync::Arc;

use ot::Delta;

/// A position in a document's history: the number of entries up to here. 0 is the document as created.
pub type Version = u64;

/// One connection of this pod; never used twice while the pod lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names the acknowledgement callback that an event of a connection asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// A point of a history: equal points mean equal histories. `hash` is 11 hex digits, opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub version: Version,
    pub hash: Arc<str>,
}

/// Who an entry is counted against, so that it enters the log once: a client's id and its `seq`, or, for edits
/// without `seq`, a name that the gateway made for the connection and a number it counts itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub id: Arc<str>,
    pub seq: u64,
    /// Whether the gateway numbered it: such rows are fewer and live shorter. One that is gone is begun anew under another
    /// name.
    pub by_gateway: bool,
}

/// One log entry. `ops` applies to the document at `base`; readers fold it over what was committed in between.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub identity: Identity,
    pub client_id: Arc<str>,
    pub user_id: Arc<str>,
    /// The session (join) it came through.
    pub session: Arc<str>,
    pub base: Version,
    pub ops: Delta,
}

/// An entry as it stands in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    pub at: Point,
    pub entry: Entry,
}

/// An entry in canonical form: `ops` applies to the document at `at.version - 1`.
#[derive(Debug, Clone, PartialEq)]
pub struct Canonical {
    pub at: Point,
    pub identity: Identity,
    pub client_id: Arc<str>,
    pub user_id: Arc<str>,
    pub session: Arc<str>,
    pub ops: Arc<Delta>,
    /// Of the text after it, where the version is divisible by [`crate::DIGEST_EVERY`] and this pod computed it.
    pub digest: Option<crate::Digest>,
}

impl Canonical {
    /// Whether it is this user's edit. Two users may have given theirs the same identity, one of them in a history that is
    /// lost.
    pub(crate) fn is(&self, identity: &Identity, user_id: &Arc<str>) -> bool {
        self.identity == *identity && self.user_id == *user_id
    }
}

/// A stored document: its content at a point, and the canonical forms of the window below that point, without
/// which entries with older bases could not be folded.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub at: Point,
    /// Inserts only.
    pub content: Delta,
    /// Oldest first, contiguous, the last one at `at`.
    pub window: Vec<Canonical>,
}

/// What the store knows of one client of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRow {
    pub client_id: Arc<str>,
    /// The user who first used this `clientId` here.
    pub owner: Arc<str>,
    pub last_seq: u64,
    /// The version of `last_seq`.
    pub version: Version,
}

/// An acknowledgement that a client waits for, of an edit that is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    pub connection: ConnectionId,
    pub reply: ReplyId,
    pub identity: Identity,
    /// Whose edit: another history may have another user's under the same identity.
    pub user_id: Arc<str>,
}

/// What a user may do with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Write,
    /// Only retains whose attributes begin with `comment`.
    Comment,
    Read,
}

/// How a client wants the content of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    #[default]
    Text,
    Delta,
    /// A delta that ends in a newline.
    Quill,
}

/// A person as others see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: Arc<str>,
    pub name: Arc<str>,
    pub avatar: Option<Arc<str>>,
}

/// One row of `{doc:<id>}:presence`: a user's connections through one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The pod's incarnation.
    pub pod: Arc<str>,
    pub user: User,
    pub connections: u32,
    /// Unix milliseconds of the first of them.
    pub since_ms: u64,
    /// How often the pod's lease had run out when the row was written: whoever removes the rows of a dead pod cannot hit
    /// those that it writes when it turns out to live.
    pub lapses: u64,
}

/// A cursor as clients send it.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// A range, moved along with edits.
    Range { index: usize, length: usize },
    /// Anything else, up to 1 KiB of JSON, passed on as it came. `null` is [`Option::None`] around this type.
    Other(Arc<str>),
}

/// The error codes of CONTRACT section 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    BadRequest,
    OpInvalid,
    ReadOnly,
    DocumentTooLarge,
    RateLimited,
    Overloaded,
    StoreUnavailable,
    SeqGap,
    VersionTooOld,
    VersionAhead,
    AccessDenied,
    JoinFailed,
    NotJoined,
    ClientReplaced,
    NotDurableYet,
}

/// Why something was refused, as a client gets it (`{code, message, documentId?, seq?, lastSeq?, retryAfterMs?}`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    /// Says what was wrong and what to do, without naming internals.
    pub message: String,
    pub seq: Option<u64>,
    pub last_seq: Option<u64>,
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal with a code and a message alone.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), seq: None, last_seq: None, retry_after_ms: None }
    }
}
