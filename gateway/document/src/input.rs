//! What can happen to an open document.

use std::{collections::BTreeSet, sync::Arc};

use ot::Delta;

use crate::types::*;

/// One thing that happened. Everything that needs the store is asked for by a [`crate::Command`] and comes back here.
#[derive(Debug, Clone)]
pub enum Input {
    /// A connection asks to join (or to join again). Answered by [`crate::Command::Lookup`], later by an answer.
    Join(Join),
    /// The answer to a `Lookup`: what the store says of the user and the client, and what the log has beyond the
    /// pod's head.
    LookedUp {
        connection: ConnectionId,
        result: Result<Lookup, Refusal>,
    },
    /// `leave-document`, a clean disconnect, or a lost transport.
    Leave {
        connection: ConnectionId,
        how: Leaving,
        reply: Option<ReplyId>,
    },
    Edit(Edit),
    Cursor {
        connection: ConnectionId,
        version: Option<Version>,
        position: Option<Position>,
        reply: Option<ReplyId>,
    },
    Typing {
        connection: ConnectionId,
        is_typing: bool,
        reply: Option<ReplyId>,
    },
    /// Entries from a publish or a fetch: in order, possibly known already, possibly beyond a gap.
    Learned(Vec<Logged>),
    /// A publish that carried only a version.
    Hint(Version),
    /// The reply to the one commit call in flight.
    Committed(CommitReply),
    /// The store cannot be reached (`true`) or answers again (`false`). The pod repeats a commit call whose fate is
    /// unknown by itself until it is answered.
    StoreAway(bool),
    /// What a user may do now, as it was read anew; `None`: nothing, not even know that the document is there.
    Access {
        user_id: Arc<str>,
        role: Option<Role>,
    },
    /// What a user is called now.
    User(User),
    /// A message of another pod about this document.
    Peer {
        pod: Arc<str>,
        peer: Peer,
    },
    /// The answer to `ReadPresence`, and the first input after the document was opened: all rows of the presence hash,
    /// and those of their pods whose lease lives.
    Presence {
        members: Vec<Member>,
        live: BTreeSet<Arc<str>>,
    },
    /// The rows could not be read.
    PresenceUnread,
    /// The answer to `WritePresence`: whether the rows are known to be stored.
    PresenceWritten(bool),
    /// Those of the pods of the last `WatchPods` that live, as far as is known. `lapsed`: this pod's own lease had run
    /// out since the last time.
    PodsLive {
        live: BTreeSet<Arc<str>>,
        lapsed: bool,
    },
    /// Messages of other pods may have been lost. What the log has beyond the head is told apart.
    Missed,
    /// A snapshot up to this version is stored.
    Saved(Version),
    /// Everything up to this ticket of a [`crate::Command::MakeDurable`] is as durable as the cluster promises.
    Durable {
        ticket: u64,
    },
    /// A connection that read too slowly can be told more: of what came after this version it was told nothing.
    CatchUp {
        connection: ConnectionId,
        after: Version,
    },
    /// A lookup or a fetch found that the pod's head is not a point of the log (any more).
    Forked,
    /// Time has passed; due at [`crate::Document::deadline_ms`].
    Tick,
}

/// `join-document`.
#[derive(Debug, Clone)]
pub struct Join {
    pub connection: ConnectionId,
    pub user: User,
    pub client_id: Arc<str>,
    pub form: Form,
    /// What the client has confirmed. `hash` may be missing from a careless client: then content is sent.
    pub version: Option<Version>,
    pub hash: Option<Arc<str>>,
    /// The session of its last `document-joined`.
    pub last_session: Option<Arc<str>>,
    /// The number of its first unconfirmed edit, or the next it will use.
    pub seq: Option<u64>,
    /// The session that this join opens: made by the pod, ≤ 32 characters, unique over pods and restarts.
    pub session: Arc<str>,
    /// Edits without a session that came before this join, in order (≤ 64).
    pub early: Vec<Edit>,
    pub reply: Option<ReplyId>,
}

/// The store's part of a join.
#[derive(Debug, Clone)]
pub struct Lookup {
    pub role: Role,
    /// Rows of the clients that the command named, where they exist.
    pub rows: Vec<ClientRow>,
    /// Log entries after the point that the command named, in order (≤ 512).
    pub tail: Vec<Logged>,
    /// Whether the log has more than `tail`.
    pub more: bool,
}

/// `edit`.
#[derive(Debug, Clone)]
pub struct Edit {
    pub connection: ConnectionId,
    pub version: Version,
    /// Already parsed, in normal form and within the component limits.
    pub ops: Delta,
    /// The edit could not be read, for this reason (`ops` is empty then): it is refused at its place among the edits of
    /// its session, so that those behind it are not taken for edits of what was before.
    pub unreadable: Option<Box<Refusal>>,
    pub seq: Option<u64>,
    pub session: Option<Arc<str>>,
    pub reply: Option<ReplyId>,
}

/// How a connection ends its stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// `leave-document`, or the client closed: others hear at once.
    Said,
    /// The transport was lost: others hear after 10 s, unless the user is back.
    Lost,
}

/// The reply to a commit call.
#[derive(Debug, Clone)]
pub struct CommitReply {
    /// One for each entry of the batch, in its order.
    pub verdicts: Vec<Verdict>,
    /// What the log has beyond the batch's `head`, the batch's own entries included, in order.
    pub tail: Vec<Logged>,
    /// Whether the log has more than `tail`.
    pub more: bool,
    /// The pod's head is not a point of the log (it is ahead, or on a fork).
    pub forked: bool,
}

/// What became of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Appended as this version.
    Ok(Version),
    /// It was there already, as this version.
    Dup(Version),
    /// A number is missing; the client's last one is given.
    Gap(u64),
    /// Its base is below the window: catch up, rebase, try again.
    Behind,
    /// The document's table of clients is full.
    Overloaded,
}

/// What pods tell each other about a document besides its entries.
#[derive(Debug, Clone, PartialEq)]
pub enum Peer {
    /// Rows of the sender that changed; the store has them already.
    Members(Vec<Member>),
    Cursor {
        user_id: Arc<str>,
        client_id: Arc<str>,
        version: Version,
        position: Option<Position>,
    },
    Typing {
        user_id: Arc<str>,
        is_typing: bool,
    },
    /// Tell all the cursors that you have: the sender has just opened the document, or missed messages.
    Ask,
    /// The answer: all the cursors that came through the sender.
    Cursors(Vec<PeerCursor>),
    /// Of the sender's text at this point, which it has just committed, or where it found another one to differ.
    Digest {
        at: Point,
        digest: crate::Digest,
    },
    /// The sender has stored a snapshot of the document at this point.
    Saved {
        at: Point,
    },
}

/// A cursor in [`Peer::Cursors`].
#[derive(Debug, Clone, PartialEq)]
pub struct PeerCursor {
    pub user_id: Arc<str>,
    pub client_id: Arc<str>,
    pub version: Version,
    pub position: Position,
}
