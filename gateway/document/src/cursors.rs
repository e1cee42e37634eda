//! Cursors and typing of the people who were active last.
//!
//! In: positions and typing signs from here and from other pods, and the entries that move them. Out: the latest of each,
//! for those who join, and what is not to be shown any more. Bounded: of a crowd only so many people are followed, and
//! somebody else takes a place only when whoever had it has been quiet for a moment, so that a thousand moving mice cost
//! no more than fifty.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ot::{Bias, Delta};

use crate::{ActiveCursor, PeerCursor, Position, Version};

/// Whose cursors and typing are kept: as many as anybody can look at.
const RECENT_USERS: usize = 50;
/// A place is given away only after this much silence, in milliseconds.
const QUIET_MS: u64 = 2_000;
/// Cursors of one user: tabs beyond this many replace the oldest.
const CURSORS_PER_USER: usize = 8;
/// Typing ends by itself after this long, in milliseconds.
const TYPING_MS: u64 = 5_000;
/// A typing sign that only repeats the last one is passed to other pods at most this often, in milliseconds.
const TYPING_REPEAT_MS: u64 = 2_000;

/// Through which pod a cursor came; `None`: this one.
pub(crate) type Origin = Option<Arc<str>>;

#[derive(Debug, Default)]
struct Recent {
    cursors: VecDeque<(Origin, ActiveCursor)>,
    active_at_ms: u64,
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
    /// What was shown until now and is to be taken back.
    gone: Vec<Gone>,
}

/// Something that is not to be shown any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gone {
    Cursor { user_id: Arc<str>, client_id: Arc<str> },
    Typing { user_id: Arc<str> },
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
    /// The latest cursor of one tab. False if its user is none of those who are followed.
    pub(crate) fn set(&mut self, user_id: &Arc<str>, origin: Origin, cursor: ActiveCursor, now_ms: u64) -> bool {
        let Some(recent) = self.touch(user_id, now_ms) else { return false };
        recent.cursors.retain(|(_, other)| other.client_id != cursor.client_id);
        let oldest = if recent.cursors.len() >= CURSORS_PER_USER { recent.cursors.pop_front() } else { None };
        recent.cursors.push_back((origin, cursor));
        if let Some((_, ActiveCursor { client_id, .. })) = oldest {
            self.gone.push(Gone::Cursor { user_id: user_id.clone(), client_id });
        }
        true
    }

    /// A tab has no cursor any more; says whether it had one that came this way. A tab that has moved to another pod keeps
    /// the cursor it has there.
    pub(crate) fn clear(&mut self, user_id: &str, origin: &Origin, client_id: &str) -> bool {
        let Some(recent) = self.recent.get_mut(user_id) else { return false };
        let before = recent.cursors.len();
        recent.cursors.retain(|(from, cursor)| *cursor.client_id != *client_id || from != origin);
        recent.cursors.len() != before
    }

    /// A user is not there through this pod any more.
    pub(crate) fn clear_origin(&mut self, user_id: &Arc<str>, origin: &Origin) {
        self.keep(user_id, |from, _| from != origin);
    }

    /// These are all the cursors that came through this pod: whatever else it had told of is gone.
    pub(crate) fn keep_told(&mut self, pod: &Arc<str>, told: &[PeerCursor]) {
        let users: Vec<_> = self.recent.keys().cloned().collect();
        for user_id in users {
            let is_told =
                |client: &Arc<str>| told.iter().any(|told| told.user_id == user_id && told.client_id == *client);
            self.keep(&user_id, |from, client| from.as_ref() != Some(pod) || is_told(client));
        }
    }

    /// Nobody of this user is in the document any more.
    pub(crate) fn forget(&mut self, user_id: &Arc<str>) {
        if let Some(recent) = self.recent.remove(user_id) {
            self.order.retain(|id| id != user_id);
            self.take_back(user_id, recent);
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
        let Some(recent) = self.touch(user_id, now_ms) else { return Tell { here: false, pods: false } };
        let changed = recent.typing_until_ms.replace(now_ms.saturating_add(TYPING_MS)).is_none();
        let stale = recent.typing_told_ms.is_none_or(|told| told.saturating_add(TYPING_REPEAT_MS) <= now_ms);
        if changed || stale {
            recent.typing_told_ms = Some(now_ms);
        }
        Tell { here: changed, pods: changed || stale }
    }

    /// Ends the typing of those who have not typed for a while.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        for (user_id, recent) in &mut self.recent {
            if recent.typing_until_ms.is_some_and(|until| until <= now_ms) {
                recent.typing_until_ms = None;
                recent.typing_told_ms = None;
                self.gone.push(Gone::Typing { user_id: user_id.clone() });
            }
        }
    }

    /// When [`Self::expire`] is due.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        self.recent.values().filter_map(|recent| recent.typing_until_ms).min()
    }

    /// What is not to be shown any more, since the last call.
    pub(crate) fn take_gone(&mut self) -> Vec<Gone> {
        std::mem::take(&mut self.gone)
    }

    /// Moves every range that does not know of this entry yet.
    pub(crate) fn learn(&mut self, version: Version, ops: &Delta) {
        for (_, cursor) in self.recent.values_mut().flat_map(|recent| &mut recent.cursors) {
            if cursor.version < version {
                move_position(&mut cursor.position, ops);
                cursor.version = version;
            }
        }
    }

    /// What is known of this user: whether they type, and their cursors.
    pub(crate) fn of(&self, user_id: &str) -> (bool, Vec<ActiveCursor>) {
        self.recent.get(user_id).map_or((false, Vec::new()), |recent| {
            (recent.typing_until_ms.is_some(), recent.cursors.iter().map(|(_, cursor)| cursor.clone()).collect())
        })
    }

    /// Those who have a cursor or type, the most recently active first.
    pub(crate) fn users(&self) -> Vec<Arc<str>> {
        let is_shown = |id: &&Arc<str>| {
            self.recent.get(*id).is_some_and(|recent| recent.typing_until_ms.is_some() || !recent.cursors.is_empty())
        };
        self.order.iter().filter(is_shown).cloned().collect()
    }

    /// The cursors that came through this pod, all of them: whoever hears of them takes back what is not named. At most
    /// [`RECENT_USERS`] × [`CURSORS_PER_USER`], each of at most a kilobyte.
    pub(crate) fn own(&self) -> Vec<PeerCursor> {
        let recent = self.order.iter().filter_map(|id| Some((id, self.recent.get(id)?)));
        let cursors =
            recent.flat_map(|(id, recent)| recent.cursors.iter().map(move |(from, cursor)| (id, from, cursor)));
        cursors
            .filter(|(_, from, _)| from.is_none())
            .map(|(user_id, _, cursor)| PeerCursor {
                user_id: user_id.clone(),
                client_id: cursor.client_id.clone(),
                version: cursor.version,
                position: cursor.position.clone(),
            })
            .collect()
    }

    fn keep(&mut self, user_id: &Arc<str>, which: impl Fn(&Origin, &Arc<str>) -> bool) {
        let Some(recent) = self.recent.get_mut(user_id) else { return };
        let gone = &mut self.gone;
        recent.cursors.retain(|(from, cursor)| {
            let stays = which(from, &cursor.client_id);
            if !stays {
                gone.push(Gone::Cursor { user_id: user_id.clone(), client_id: cursor.client_id.clone() });
            }
            stays
        });
    }

    fn take_back(&mut self, user_id: &Arc<str>, recent: Recent) {
        let client_ids = recent.cursors.into_iter().map(|(_, cursor)| cursor.client_id);
        self.gone.extend(client_ids.map(|client_id| Gone::Cursor { user_id: user_id.clone(), client_id }));
        if recent.typing_until_ms.is_some() {
            self.gone.push(Gone::Typing { user_id: user_id.clone() });
        }
    }

    /// The place of this user, if there is one for them.
    fn touch(&mut self, user_id: &Arc<str>, now_ms: u64) -> Option<&mut Recent> {
        if self.order.front() != Some(user_id) {
            if !self.recent.contains_key(user_id) && self.order.len() >= RECENT_USERS {
                let last = self.order.back()?;
                if self.recent.get(last)?.active_at_ms.saturating_add(QUIET_MS) > now_ms {
                    return None;
                }
                let last = last.clone();
                self.forget(&last);
            }
            self.order.retain(|id| id != user_id);
            self.order.push_front(user_id.clone());
        }
        let recent = self.recent.entry(user_id.clone()).or_default();
        recent.active_at_ms = now_ms;
        Some(recent)
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
