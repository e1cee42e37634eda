//! Counting edits that have no number.
//!
//! In: a session's edits in order, and that the store has forgotten how far it had counted. Out: the identity of each
//! edit. The store keeps such counts for an hour after their last edit, or for ten minutes where there are many, and then
//! takes no number but 1: the session goes on under a new name, which is made of the session and the edit's place in it.
//! So whoever else holds the same edit to put it back gives it the same name, and it still enters the log once.

use std::sync::Arc;

use crate::Identity;

/// Between a session and the place of the edit that a later count of it begins with; no session has it.
const BEGINS_WITH: char = '~';

impl Identity {
    /// A session that has counted no edit yet.
    pub(crate) fn uncounted(session: Arc<str>) -> Self {
        Self { id: session, seq: 0, by_gateway: true }
    }

    /// The next edit of the same count.
    pub(crate) fn next(&self) -> Self {
        Self { seq: self.seq.saturating_add(1), ..self.clone() }
    }

    /// Whether a store that knows no count of this name has forgotten it: a count begins with 1.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.by_gateway && self.seq > 1
    }

    /// The same edit in a count of its session that begins with `first`, which is this one or an earlier one.
    pub(crate) fn counted_from(&self, first: &Self) -> Self {
        let (session, place) = first.place();
        let seq = self.place().1.saturating_sub(place).saturating_add(1);
        Self { id: format!("{session}{BEGINS_WITH}{place}").into(), seq, by_gateway: true }
    }

    /// Whether both are counted together.
    pub(crate) fn is_counted_with(&self, other: &Self) -> bool {
        self.by_gateway == other.by_gateway && self.id == other.id
    }

    /// The session, and which of its edits without a number it is, from 1.
    fn place(&self) -> (&str, u64) {
        let later = self.id.rsplit_once(BEGINS_WITH);
        match later.and_then(|(session, first)| Some((session, first.parse::<u64>().ok()?))) {
            Some((session, first)) => (session, first.saturating_add(self.seq).saturating_sub(1)),
            None => (&self.id, self.seq),
        }
    }
}
