//! What an open document asks its pod to do.

use std::{collections::BTreeSet, sync::Arc};

use ot::Delta;

use crate::types::*;

/// One thing to do. Commands are carried out in order; none of them blocks the next input.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// An event for some connections: encoded once, shared by all.
    Send { to: Vec<ConnectionId>, event: Event },
    /// The acknowledgement of an event; `Err` without a callback becomes an `error` event.
    Answer { to: ConnectionId, reply: Option<ReplyId>, answer: Result<Answer, Refusal> },
    /// Ask the store for this user's role, these clients' rows and the log after `after`; comes back as
    /// [`crate::Input::LookedUp`].
    Lookup { connection: ConnectionId, user_id: Arc<str>, clients: Vec<Arc<str>>, after: Point },
    /// One call of the commit script. The next one follows only after [`crate::Input::Committed`].
    Commit(Batch),
    /// Read the log after this point; comes back as [`crate::Input::Learned`].
    Fetch { after: Point },
    /// Store a snapshot and trim the log below it.
    Save(Arc<Snapshot>),
    /// Tell the other pods.
    Publish(crate::Peer),
    /// Write (or, at zero connections, remove) rows of this pod, then tell the other pods by
    /// [`crate::Peer::Members`]; comes back as [`crate::Input::PresenceWritten`]. One at a time.
    WritePresence(Vec<Member>),
    /// Read all rows of the presence hash; comes back as [`crate::Input::Presence`] or
    /// [`crate::Input::PresenceUnread`]. Rows of pods that do not live are removed on the way. One at a time.
    ReadPresence,
    /// From now on these are the pods whose life is of interest; changes come as [`crate::Input::PodsLive`].
    WatchPods(BTreeSet<Arc<str>>),
    /// Stop or go on reading this connection's socket.
    PauseReading { connection: ConnectionId, pause: bool },
    /// Make the log up to this point as durable as the cluster promises; then comes [`crate::Input::Durable`] with this
    /// ticket or a later one. Tickets count up. `by_commit`: the reply that is being handled said that the log has all
    /// of it; else it must be asked first. Only with [`crate::Settings::durable_acks`].
    MakeDurable { ticket: u64, at: Point, by_commit: bool },
    /// This copy and another pod's have one history and two contents: count it. `Reopen` follows.
    Diverged { version: Version },
    /// So many edits that a failover lost cannot be put back: count them.
    GivenUp { edits: usize },
    /// The pod's copy cannot go on (far behind, or forked): drop it and open the document anew. All connections have been sent `rejoin`.
    Reopen,
}

/// What one script call commits: at most one entry of each identity, all based at `head` and none on another; or a list
/// that is put back, each made on those before it, which the store appends only as far as nothing else comes after `head`.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The pod's head, which must be a point of the log.
    pub head: Point,
    /// The lower end of this pod's window: from now on the store refuses entries whose base is below it (`behind`), as
    /// it refuses those more than 512 below the newest version. It never goes back.
    pub floor: Version,
    pub entries: Vec<Entry>,
}

/// What an acknowledgement carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `{version}`: joined, or saved.
    Version(Version),
    /// `{}`
    Empty,
}

/// The server-to-client events of one document; `documentId` is added by the encoder.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    DocumentJoined(Box<Joined>),
    Rejoin,
    /// The receiver's role is another now; `None`: it was removed from the document and gets nothing more of it.
    AccessChanged {
        role: Option<Role>,
    },
    /// Somebody else's edit.
    Edit(Arc<Canonical>),
    /// The receiver's own edit, at its place among the others. `seq` is null for an edit without one.
    EditCommitted {
        at: Point,
        client_id: Arc<str>,
        seq: Option<u64>,
        digest: Option<crate::Digest>,
    },
    UserJoined(User),
    UserLeft {
        user_id: Arc<str>,
    },
    Presence {
        active_count: usize,
    },
    CursorUpdate {
        user_id: Arc<str>,
        client_id: Arc<str>,
        version: Version,
        position: Option<Position>,
    },
    TypingUpdate {
        user_id: Arc<str>,
        is_typing: bool,
    },
    Error(Refusal),
}

/// `document-joined`.
#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    pub at: Point,
    pub session: Arc<str>,
    pub role: Role,
    pub client_id: Arc<str>,
    pub last_seq: u64,
    pub active_users: Vec<ActiveUser>,
    pub active_count: usize,
    pub content: JoinedContent,
}

/// How the client gets to `at`.
#[derive(Debug, Clone, PartialEq)]
pub enum JoinedContent {
    /// Plain text, an embed is U+FFFC.
    Text(String),
    /// The document as inserts.
    Ops(Delta),
    /// Every entry after the client's version.
    Edits(Vec<Arc<Canonical>>),
}

/// Somebody else who is in the document.
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveUser {
    pub user: User,
    pub is_typing: bool,
    pub cursors: Vec<ActiveCursor>,
}

/// A cursor of an [`ActiveUser`].
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveCursor {
    pub client_id: Arc<str>,
    pub version: Version,
    pub position: Position,
}
