//! Cursors and typing of the people who were active last.
//!
//! In: positions and typing signs from here and from other pods, and the entries that move them. Out: the latest of each,
//! for those who join, and whose typing has ended by itself. Bounded: the least recently active user is forgotten.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ot::{Bias, Delta};

use crate::{ActiveCursor, Position, Version};

/// Whose cursors and typing are kept: as many as anybody can look at.
const RECENT_USERS: usize = 50;
/// Cursors of one user: tabs beyond this many replace the oldest.
const CURSORS_PER_USER: usize = 8;
/// Typing ends by itself after this long, in milliseconds.
const TYPING_MS: u64 = 5_000;
/// A typing sign that only repeats the last one is passed to other pods at most this often, in milliseconds.
const TYPING_REPEAT_MS: u64 = 2_000;

#[derive(Debug, Default)]
struct Recent {
    cursors: VecDeque<ActiveCursor>,
    /// When typing ends by itself.
    typing_until_ms: Option<u64>,
    typing_told_ms: Option<u64>,
}

/// The latest cursors and typing signs.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    recent: BTreeMap<Arc<str>, Recent>,
    /// Most recently active first.
    order: VecDeque<Arc<str>>,
}

/// Who has to hear of a typing sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tell {
    /// The connections here: it changed.
    pub(crate) here: bool,
    /// The other pods: it changed, or must be kept alive.
    pub(crate) pods: bool,
}

impl Cursors {
    /// The latest cursor of one tab.
    pub(crate) fn set(&mut self, user_id: &Arc<str>, cursor: ActiveCursor) {
        let recent = self.touch(user_id);
        recent.cursors.retain(|other| other.client_id != cursor.client_id);
        if recent.cursors.len() >= CURSORS_PER_USER {
            recent.cursors.pop_front();
        }
        recent.cursors.push_back(cursor);
    }

    /// A tab has no cursor any more; says whether it had one.
    pub(crate) fn clear(&mut self, user_id: &str, client_id: &str) -> bool {
        let Some(recent) = self.recent.get_mut(user_id) else { return false };
        let before = recent.cursors.len();
        recent.cursors.retain(|cursor| *cursor.client_id != *client_id);
        recent.cursors.len() != before
    }

    /// Nobody of this user is in the document any more.
    pub(crate) fn forget(&mut self, user_id: &str) {
        if self.recent.remove(user_id).is_some() {
            self.order.retain(|id| **id != *user_id);
        }
    }

    /// Somebody types, or stopped.
    pub(crate) fn typing(&mut self, user_id: &Arc<str>, is_typing: bool, now_ms: u64) -> Tell {
        if !is_typing {
            let changed = self.recent.get_mut(user_id).is_some_and(|recent| {
                recent.typing_told_ms = None;
                recent.typing_until_ms.take().is_some()
            });
            return Tell { here: changed, pods: changed };
        }
        let recent = self.touch(user_id);
        let changed = recent.typing_until_ms.replace(now_ms.saturating_add(TYPING_MS)).is_none();
        let stale = recent.typing_told_ms.is_none_or(|told| told.saturating_add(TYPING_REPEAT_MS) <= now_ms);
        if changed || stale {
            recent.typing_told_ms = Some(now_ms);
        }
        Tell { here: changed, pods: changed || stale }
    }

    /// Those whose typing has ended by itself.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<Arc<str>> {
        let mut over = Vec::new();
        for (user_id, recent) in &mut self.recent {
            if recent.typing_until_ms.is_some_and(|until| until <= now_ms) {
                recent.typing_until_ms = None;
                recent.typing_told_ms = None;
                over.push(user_id.clone());
            }
        }
        over
    }

    /// When [`Self::expire`] is due.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        self.recent.values().filter_map(|recent| recent.typing_until_ms).min()
    }

    /// Moves every range that does not know of this entry yet.
    pub(crate) fn learn(&mut self, version: Version, ops: &Delta) {
        for cursor in self.recent.values_mut().flat_map(|recent| &mut recent.cursors) {
            if cursor.version < version {
                move_position(&mut cursor.position, ops);
                cursor.version = version;
            }
        }
    }

    /// What is known of this user: whether they type, and their cursors.
    pub(crate) fn of(&self, user_id: &str) -> (bool, Vec<ActiveCursor>) {
        self.recent.get(user_id).map_or((false, Vec::new()), |recent| {
            (recent.typing_until_ms.is_some(), recent.cursors.iter().cloned().collect())
        })
    }

    fn touch(&mut self, user_id: &Arc<str>) -> &mut Recent {
        if self.order.front() != Some(user_id) {
            self.order.retain(|id| id != user_id);
            self.order.push_front(user_id.clone());
            while self.order.len() > RECENT_USERS {
                if let Some(gone) = self.order.pop_back() {
                    self.recent.remove(&gone);
                }
            }
        }
        self.recent.entry(user_id.clone()).or_default()
    }
}

/// Moves a range over an edit.
pub(crate) fn move_position(position: &mut Position, ops: &Delta) {
    if let Position::Range { index, length } = position {
        let end = ops.transform_position(index.saturating_add(*length), Bias::After);
        *index = ops.transform_position(*index, Bias::After);
        *length = end.saturating_sub(*index);
    }
}
