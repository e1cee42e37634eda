//! The bounds that an open document keeps, and why a document cannot be opened.
//!
//! In: the pod's configuration. Out: plain numbers; the defaults are those of the product.

/// Bounds of one open document. Lengths in bytes are those that the deltas take in JSON, roughly.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Largest document; an edit that would make it larger is refused. What other pods have under way at that time is not
    /// known, and may make it larger.
    pub max_document_bytes: usize,
    /// Largest edit of a client.
    pub max_edit_bytes: usize,
    /// Most canonical forms kept below the head, so that late edits can be carried over what they missed.
    pub window_entries: usize,
    /// Most bytes of them, once the store knows that older bases are refused; the last one is always kept.
    pub window_bytes: usize,
    /// A snapshot is due when the entries since the last one take more than this, and more than a tenth of the document.
    pub snapshot_tail_bytes: usize,
    /// A snapshot is due after this many entries, whatever their size.
    pub snapshot_tail_entries: usize,
    /// Most entries that a join is answered with; beyond that the content is cheaper.
    pub join_entries: usize,
    /// Most bytes of them; one entry always fits.
    pub join_bytes: usize,
    /// Most entries of one commit call.
    pub batch_entries: usize,
    /// Most bytes of one commit call; one entry always fits.
    pub batch_bytes: usize,
    /// A connection with more uncommitted edits than this is read no further.
    pub held_edits: usize,
    /// The same in bytes.
    pub held_bytes: usize,
    /// How long an edit waits for a store that is away before it is refused, in milliseconds.
    pub held_ms: u64,
    /// Most edits kept of a connection that has not joined yet.
    pub early_edits: usize,
    /// A pod that is further behind than this opens the document anew.
    pub behind_entries: u64,
    /// Whether acknowledgements wait until what they acknowledge is durable.
    pub durable_acks: bool,
    /// After this long, in milliseconds, a client is told that its acknowledgement still waits.
    pub durable_notice_ms: u64,
    /// Most acknowledgements that wait; beyond it nothing more is committed until some are out.
    pub durable_waiting: usize,
    /// A broken rule, for the simulation that must notice it. Always [`Mutation::None`] in the product.
    pub mutation: Mutation,
}

/// Rules that the simulation breaks on purpose, to show that it would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mutation {
    /// The product.
    #[default]
    None,
    /// Earlier committed edits stand first.
    FlipTies,
    /// A client's own entries are left out of the context of its later edits.
    SkipOwnEntries,
    /// Sessions are ignored: an own entry is an own entry, whichever join it came through.
    NoSessions,
    /// Snapshots are stored without the canonical forms below them.
    SnapshotWithoutWindow,
    /// An edit is acknowledged when it is sent to the store.
    AcknowledgeEarly,
    /// What an entry missed is composed before the entry is carried over it.
    ComposedHistory,
    /// A client's own entries count as somebody else's in the context of its later edits.
    FoldOverOwnEntries,
    /// A batch takes a second edit of a client, made on the first one.
    ChainedBatch,
    /// An acknowledgement does not wait for [`crate::Input::Durable`].
    AcknowledgeUndurable,
    /// That of an edit which was in the log already does not wait.
    RepeatIsDurable,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_document_bytes: 4 << 20,
            max_edit_bytes: 1 << 20,
            window_entries: 512,
            window_bytes: 1 << 20,
            snapshot_tail_bytes: 64 << 10,
            snapshot_tail_entries: 1_000,
            join_entries: 1_000,
            join_bytes: 256 << 10,
            batch_entries: 256,
            batch_bytes: 256 << 10,
            held_edits: 256,
            held_bytes: 256 << 10,
            held_ms: 30_000,
            early_edits: 64,
            behind_entries: 512,
            durable_acks: false,
            durable_notice_ms: 5_000,
            durable_waiting: 10_000,
            mutation: Mutation::None,
        }
    }
}

impl Settings {
    /// How much one call may add beyond what it adds to the document as it is, by the formatting of more than one edit,
    /// where other pods cut into pieces what it formats. It is for one call of each pod at most, since the next one is made
    /// on what has become of this one.
    pub(crate) fn head_room_bytes(&self) -> usize {
        self.max_document_bytes / 8
    }

    /// A larger form of an entry is sent to nobody, however small what it was made of is: who should get it joins again.
    pub(crate) fn sent_entry_bytes(&self) -> usize {
        self.max_edit_bytes.saturating_mul(16)
    }

    /// A larger document, which only edits that other pods had under way can have made, is given to nobody and stored by
    /// nobody but as text and as the log, until edits have made it smaller.
    pub(crate) fn sent_document_bytes(&self) -> usize {
        self.max_document_bytes.saturating_mul(4)
    }
}

/// Why a stored document cannot be opened. All of them mean `JOIN_FAILED`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The snapshot's content is no document.
    #[error("the snapshot's content is not a document: {0}")]
    Content(ot::Invalid),
    /// The window or the tail has a gap.
    #[error("version {expected} is missing; {found} came in its place")]
    Gap {
        /// The version that should have come.
        expected: u64,
        /// The version that came.
        found: u64,
    },
    /// An entry was made on a version that is no longer kept.
    #[error("version {version} was made on version {base}, which is below what is kept")]
    BelowWindow {
        /// The entry.
        version: u64,
        /// What it was made on.
        base: u64,
    },
    /// An entry does not fit the document it was committed to.
    #[error("version {version} does not fit: {invalid}")]
    Unfit {
        /// The entry.
        version: u64,
        /// What is wrong.
        invalid: ot::Invalid,
    },
}

/// Where a pod that never commits, and so never learns the store's floor, stops keeping canonical forms all the same:
/// an entry that it then cannot fold makes it open the document anew, which is slow but right.
pub(crate) fn hard_window_bytes(window_bytes: usize) -> usize {
    window_bytes.saturating_mul(16)
}
