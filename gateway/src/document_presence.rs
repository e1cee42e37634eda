//! This pod's rows in a document's presence hash: what is to be written, one write at a time.
//!
//! In: members as the document reports them, outcomes of writes, lapses of the pod's lease. Out: rows for the store. Only
//! the latest state of a user is written; what failed is written again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use document::Member;

/// A failed write is repeated after this time.
const REPEAT_AFTER: Duration = Duration::from_millis(500);

/// Rows of one document; bounded by the users that are connected here.
#[derive(Debug, Default)]
pub(crate) struct OwnRows {
    present: BTreeMap<Arc<str>, Member>,
    /// Not written yet: the field, and its value if it is not to be removed.
    pending: BTreeMap<String, Option<Bytes>>,
    writing: Option<BTreeMap<String, Option<Bytes>>>,
    failed: bool,
    lapses: u64,
}

impl OwnRows {
    /// The row of a user changed.
    pub(crate) fn set(&mut self, member: Member) {
        let (field, row) = protocol::encode_member(&member);
        let is_present = member.connections > 0;
        self.pending.insert(field, is_present.then(|| row.into()));
        if is_present {
            self.present.insert(Arc::clone(&member.user.id), member);
        } else {
            self.present.remove(&member.user.id);
        }
    }

    /// What to write now, if nothing is being written: what changed, or all rows (and the hash's life in any case).
    pub(crate) fn take(&mut self, all: bool) -> Option<Vec<(String, Option<Bytes>)>> {
        if all {
            for member in self.present.values() {
                let (field, row) = protocol::encode_member(member);
                self.pending.entry(field).or_insert_with(|| Some(row.into()));
            }
        }
        if self.writing.is_some() || self.pending.is_empty() {
            return None;
        }
        let rows = std::mem::take(&mut self.pending);
        let list = rows.iter().map(|(field, row)| (field.clone(), row.clone())).collect();
        self.writing = Some(rows);
        Some(list)
    }

    /// How long the next write waits.
    pub(crate) fn pause(&self) -> Duration {
        if self.failed { REPEAT_AFTER } else { Duration::ZERO }
    }

    /// A write was answered, or will never be.
    pub(crate) fn written(&mut self, is_ok: bool) {
        let rows = self.writing.take().unwrap_or_default();
        self.failed = !is_ok && !rows.is_empty();
        if !is_ok {
            for (field, row) in rows {
                // What changed meanwhile is newer.
                self.pending.entry(field).or_insert(row);
            }
        }
    }

    /// Whether the store has it all.
    pub(crate) fn is_written(&self) -> bool {
        self.pending.is_empty() && self.writing.is_none()
    }

    /// Whether the pod's lease ran out since this was asked last: others may have removed the rows.
    pub(crate) fn lapsed(&mut self, lapses: u64) -> bool {
        std::mem::replace(&mut self.lapses, lapses) != lapses
    }
}
