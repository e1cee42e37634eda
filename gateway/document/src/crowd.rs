//! What the connections of this pod were told of who is there.
//!
//! In: who comes and goes. Out: comings and goings one by one while at most [`CROWD_USERS`] are active, the total at most
//! once a second while there are more. When a crowd is over, everybody is brought up to date: those who left in the crowd
//! are told to have left wherever they may still be shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::User;

/// With more active users than this the total is told instead of every coming and going.
pub(crate) const CROWD_USERS: usize = 100;
/// The total is told at most this often, in milliseconds.
const COUNT_EVERY_MS: u64 = 1_000;
/// Most people that connections may show of a crowd. Those who join it are shown the same people as far as possible, so
/// that there are not too many to take back when it is over.
const SHOWN_MAX: usize = 1_000;

/// Something that the connections here must hear of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Joined(User),
    Left(Arc<str>),
    Count(usize),
}

/// Everybody who is active, and what was told of them.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    active: BTreeMap<Arc<str>, User>,
    /// Whom some connection may show: outside a crowd exactly the active.
    shown: BTreeSet<Arc<str>>,
    is_crowd: bool,
    /// Somebody joined during the crowd: whom they were shown others may not know, and the other way round.
    is_partial: bool,
    count_due_ms: Option<u64>,
    count_told_ms: Option<u64>,
    told: Vec<Told>,
}

impl Crowd {
    /// Whether this user is active, and as whom.
    pub(crate) fn set(&mut self, user_id: &Arc<str>, user: Option<&User>, now_ms: u64) {
        let is_change = match user {
            // A new name or picture is shown to those who join from now on.
            Some(user) => self.active.insert(user_id.clone(), user.clone()).is_none(),
            None => self.active.remove(user_id).is_some(),
        };
        if !is_change {
            return;
        }
        self.is_crowd |= self.active.len() > CROWD_USERS;
        if self.is_crowd {
            let next = self.count_told_ms.map_or(now_ms, |told| told.saturating_add(COUNT_EVERY_MS));
            self.count_due_ms.get_or_insert(next.max(now_ms));
            return;
        }
        match user {
            Some(user) => {
                self.shown.insert(user_id.clone());
                self.told.push(Told::Joined(user.clone()));
            }
            None => {
                self.shown.remove(user_id);
                self.told.push(Told::Left(user_id.clone()));
            }
        }
    }

    /// Tells the total when it is due, and the end of a crowd.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        if self.count_due_ms.is_none_or(|due| due > now_ms) {
            return;
        }
        self.count_due_ms = None;
        self.count_told_ms = Some(now_ms);
        self.told.push(Told::Count(self.active.len()));
        if self.active.len() <= CROWD_USERS {
            self.end();
        }
    }

    /// When [`Self::tick`] is due.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        self.count_due_ms
    }

    /// How many are active.
    pub(crate) fn count(&self) -> usize {
        self.active.len()
    }

    /// Whether this user is active.
    pub(crate) fn has(&self, user_id: &str) -> bool {
        self.active.contains_key(user_id)
    }

    /// Everybody's id.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.active.keys()
    }

    /// Whom a joining connection of `user_id` is shown: these first, as far as they are active; at most
    /// [`CROWD_USERS`].
    pub(crate) fn show(&mut self, user_id: &str, first: &[Arc<str>]) -> Vec<User> {
        let mut list: Vec<User> = Vec::new();
        let mut listed = BTreeSet::new();
        let mut room = SHOWN_MAX.saturating_sub(self.shown.len());
        let mut fresh = Vec::new();
        // Thousands who are not to be added any more need not be looked at.
        let further = if room == 0 { 0 } else { usize::MAX };
        for id in first.iter().chain(&self.shown).chain(self.active.keys().take(further)) {
            if list.len() >= CROWD_USERS {
                break;
            }
            let is_shown = self.shown.contains(id);
            if **id == *user_id || !is_shown && room == 0 {
                continue;
            }
            if let Some(user) = self.active.get(id)
                && listed.insert(id.clone())
            {
                list.push(user.clone());
                if !is_shown {
                    room -= 1;
                    fresh.push(id.clone());
                }
            }
        }
        self.shown.extend(fresh);
        self.is_partial |= self.is_crowd;
        list
    }

    /// What happened since the last call.
    pub(crate) fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    fn end(&mut self) {
        self.is_crowd = false;
        let is_partial = std::mem::take(&mut self.is_partial);
        for user_id in std::mem::take(&mut self.shown) {
            if !self.active.contains_key(&user_id) {
                self.told.push(Told::Left(user_id));
            } else if !is_partial {
                self.shown.insert(user_id);
            }
        }
        for (user_id, user) in &self.active {
            // To tell of somebody twice does no harm.
            if self.shown.insert(user_id.clone()) {
                self.told.push(Told::Joined(user.clone()));
            }
        }
    }
}
