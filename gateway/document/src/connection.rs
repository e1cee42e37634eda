//! What the document keeps of one connection.
//!
//! In: joins and edits, by way of `joins` and `edits`. Out: the state that they and `batch` go by.

use std::sync::Arc;

use crate::{
    Canonical, ClientRow, ConnectionId, Form, Identity, Position, ReplyId, Role, User, Version, chain::Chain,
    queue::EditQueue,
};

/// One connection in the document, or one that has left it with edits that are not committed yet.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) user: User,
    pub(crate) client_id: Arc<str>,
    pub(crate) session: Arc<str>,
    pub(crate) role: Role,
    /// The user was removed from the document: what was on its way to the store may be in the log, and nothing more.
    pub(crate) revoked: bool,
    pub(crate) stage: Stage,
    pub(crate) chain: Chain,
    /// Edits that name a version which this pod does not have yet, and those behind them.
    pub(crate) inbox: EditQueue,
    /// The version that `document-joined` told.
    pub(crate) joined_version: Version,
    /// The lowest number that this session takes; those below are ignored.
    pub(crate) next_seq: u64,
    /// The highest number of this client that is in the log or was taken in this session.
    pub(crate) taken_seq: u64,
    /// The highest number of this client that is in the log, and the version it has there.
    pub(crate) last_seq: u64,
    pub(crate) last_version: Version,
    /// The last edit of this session that had no number and was given one.
    pub(crate) counted: Identity,
    /// An edit was refused: the session takes no more.
    pub(crate) ended: bool,
    /// The socket is not being read.
    pub(crate) paused: bool,
    /// Counts in the presence.
    pub(crate) present: bool,
    /// A cursor that stands behind own edits which are not committed yet.
    pub(crate) cursor: Option<WaitingCursor>,
}

/// Where a connection stands.
#[derive(Debug)]
pub(crate) enum Stage {
    Joining(Box<Joining>),
    Joined,
    /// It was told to join again; edits without a session are kept until it does, for a while.
    Rejoining(EditQueue),
}

/// A join under way.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) form: Form,
    pub(crate) version: Option<Version>,
    pub(crate) hash: Option<Arc<str>>,
    pub(crate) last_session: Option<Arc<str>>,
    pub(crate) seq: Option<u64>,
    pub(crate) early: EditQueue,
    pub(crate) replies: Vec<ReplyId>,
    /// When it was asked for.
    pub(crate) since_ms: u64,
    /// The newest of what lookups said of its client.
    pub(crate) row: Option<ClientRow>,
    /// The version that must be reached first.
    pub(crate) reach: Version,
    /// An entry of the log says that the client's name is another user's.
    pub(crate) is_foreign: bool,
    /// Role and numbers are known and early edits are being committed.
    pub(crate) prepared: bool,
}

/// A cursor that can be shown once the own edits before it are committed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WaitingCursor {
    pub(crate) position: Position,
    /// How many own edits stand before it.
    pub(crate) behind: usize,
}

impl Connection {
    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.stage, Stage::Joined)
    }

    /// Whether this entry, of another user's, has made the client's name that user's. It takes a number to own a name.
    pub(crate) fn is_namesake(&self, entry: &Canonical) -> bool {
        self.client_id == entry.client_id && self.user.id != entry.user_id && !entry.identity.by_gateway
    }

    /// How much of it waits, in edits and bytes, that the socket must be read no further for. What waits for a join that
    /// the client has not sent does not count: that join is still to be read.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let early = match &self.stage {
            Stage::Joining(joining) => (joining.early.len(), joining.early.bytes()),
            Stage::Joined | Stage::Rejoining(_) => (0, 0),
        };
        let edits = self.chain.pending().len() + self.inbox.len() + early.0;
        (edits, self.chain.pending_bytes() + self.inbox.bytes() + early.1)
    }

    pub(crate) fn joining(&mut self) -> Option<&mut Joining> {
        match &mut self.stage {
            Stage::Joining(joining) => Some(joining),
            Stage::Joined | Stage::Rejoining(_) => None,
        }
    }

    /// What this session has sent, as a connection that is gone: it is committed, but nobody is told.
    pub(crate) fn leave_behind(&mut self) -> Connection {
        Connection {
            id: self.id,
            user: self.user.clone(),
            client_id: self.client_id.clone(),
            session: self.session.clone(),
            role: self.role,
            revoked: self.revoked,
            stage: Stage::Joined,
            chain: std::mem::take(&mut self.chain),
            inbox: EditQueue::default(),
            joined_version: 0,
            next_seq: 1,
            taken_seq: 0,
            last_seq: 0,
            last_version: 0,
            counted: Identity::uncounted(self.session.clone()),
            ended: false,
            paused: false,
            present: false,
            cursor: None,
        }
    }

    /// Forgets what the session has seen and sent. What it has counted stays: it may go on.
    pub(crate) fn reset(&mut self) {
        self.chain = Chain::default();
        self.inbox.take();
        self.joined_version = 0;
        self.next_seq = 1;
        self.taken_seq = 0;
        self.last_seq = 0;
        self.last_version = 0;
        self.ended = false;
        self.cursor = None;
    }
}
