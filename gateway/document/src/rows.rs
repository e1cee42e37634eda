//! This pod's rows in the document's presence hash: what is still to be written, one write at a time.
//!
//! In: the latest state of a user's row, and what became of a write. Out: the next write. Only the latest state of a user
//! is written, what failed is written again, and the other pods hear of a row only once the store has it: whoever hears
//! of somebody and then reads the store finds the same or something newer.

use std::{collections::BTreeMap, sync::Arc};

use crate::Member;

/// Rows of one write: a few tens of kilobytes, so that nobody waits long for the store.
const WRITE_ROWS: usize = 256;
/// A failed write is repeated after this long, in milliseconds.
const REPEAT_MS: u64 = 500;

/// Own rows that the store may not have yet; bounded by the users that are or were connected here.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    dirty: BTreeMap<Arc<str>, Member>,
    writing: Option<Vec<Member>>,
    /// After a write that failed.
    again_at_ms: Option<u64>,
}

impl Rows {
    /// The row of a user is to be this; without connections it is to be removed.
    pub(crate) fn set(&mut self, member: Member) {
        self.dirty.insert(member.user.id.clone(), member);
    }

    /// Whether the row of this user is being written, or waits to be.
    pub(crate) fn is_pending(&self, user_id: &str) -> bool {
        let is_written = |rows: &Vec<Member>| rows.iter().any(|member| *member.user.id == *user_id);
        self.dirty.contains_key(user_id) || self.writing.as_ref().is_some_and(is_written)
    }

    /// What to write now.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<Vec<Member>> {
        if self.writing.is_some() || self.dirty.is_empty() || self.again_at_ms.is_some_and(|at| at > now_ms) {
            return None;
        }
        self.again_at_ms = None;
        let mut rows = Vec::new();
        while rows.len() < WRITE_ROWS
            && let Some((_, member)) = self.dirty.pop_first()
        {
            rows.push(member);
        }
        self.writing = Some(rows.clone());
        Some(rows)
    }

    /// The write was carried out, or perhaps not.
    pub(crate) fn written(&mut self, is_ok: bool, now_ms: u64) {
        let rows = self.writing.take().unwrap_or_default();
        if !is_ok {
            self.again_at_ms = Some(now_ms.saturating_add(REPEAT_MS));
            for member in rows {
                // What changed meanwhile is newer.
                self.dirty.entry(member.user.id.clone()).or_insert(member);
            }
        }
    }

    /// All that the store may not have; nothing is left to be written.
    pub(crate) fn take(&mut self) -> Vec<Member> {
        self.again_at_ms = None;
        let mut rows = std::mem::take(&mut self.dirty);
        for member in self.writing.take().unwrap_or_default() {
            rows.entry(member.user.id.clone()).or_insert(member);
        }
        rows.into_values().collect()
    }

    /// When [`Self::next`] has something that it does not have yet.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        self.again_at_ms.filter(|_| self.writing.is_none() && !self.dirty.is_empty())
    }

    /// Whether the store has it all.
    pub(crate) fn is_written(&self) -> bool {
        self.dirty.is_empty() && self.writing.is_none()
    }
}
