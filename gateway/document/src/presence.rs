//! Who is in the document.
//!
//! In: joins and departures on this pod, rows and messages of other pods. Out: [`Change`]s: what to tell the connections
//! here, the other pods and the store. A user counts once, whatever the number of tabs and pods; a user whose transport
//! was lost stays for a while; rows of pods whose lease is gone do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{Member, User};

/// How long a user stays whose transport was lost, in milliseconds: longer than a reconnect takes.
const GRACE_MS: u64 = 10_000;
/// From this many active users on the total is told instead of every coming and going.
pub(crate) const CROWD_USERS: usize = 100;
/// The total is told at most this often, in milliseconds.
const COUNT_EVERY_MS: u64 = 1_000;
/// Most rows of other pods that are kept; beyond that the newest are not counted.
const MAX_ROWS: usize = 100_000;

/// Something that others must hear of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// For the connections here: first connection of this user anywhere.
    Joined(User),
    /// For the connections here: the last one is gone.
    Left(Arc<str>),
    /// For the connections here: the total, in a crowd.
    Count(usize),
    /// For the store and the other pods: this pod's row.
    Row(Member),
}

#[derive(Debug)]
struct Local {
    user: User,
    connections: u32,
    since_ms: u64,
    /// Set while nobody of this user is connected here any more, but a transport was lost.
    gone_at_ms: Option<u64>,
}

/// Who is in the document, here and elsewhere.
#[derive(Debug)]
pub(crate) struct Presence {
    pod: Arc<str>,
    local: BTreeMap<Arc<str>, Local>,
    /// By user, then by pod: rows with at least one connection.
    remote: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Member>>,
    rows: usize,
    live: BTreeSet<Arc<str>>,
    /// Everybody who counts as active, as the connections here were told.
    active: BTreeMap<Arc<str>, User>,
    count_due_ms: Option<u64>,
    count_told_ms: Option<u64>,
    changes: Vec<Change>,
}

impl Presence {
    pub(crate) fn new(pod: Arc<str>) -> Self {
        Self {
            pod,
            local: BTreeMap::new(),
            remote: BTreeMap::new(),
            rows: 0,
            live: BTreeSet::new(),
            active: BTreeMap::new(),
            count_due_ms: None,
            count_told_ms: None,
            changes: Vec::new(),
        }
    }

    /// A connection of this user joined here.
    pub(crate) fn join(&mut self, user: &User, now_ms: u64) {
        let first = match self.local.get_mut(&user.id) {
            Some(local) => {
                local.connections += 1;
                local.gone_at_ms = None;
                local.user = user.clone();
                // Within the grace the row was never taken away.
                false
            }
            None => {
                let local = Local { user: user.clone(), connections: 1, since_ms: now_ms, gone_at_ms: None };
                self.local.insert(user.id.clone(), local);
                true
            }
        };
        if first {
            self.tell_row(&user.id);
        }
        self.settle(&user.id, now_ms);
    }

    /// A connection of this user is gone; `lost`: its transport broke, so that it may be back soon.
    pub(crate) fn leave(&mut self, user_id: &Arc<str>, lost: bool, now_ms: u64) {
        let Some(local) = self.local.get_mut(user_id) else { return };
        local.connections = local.connections.saturating_sub(1);
        if local.connections > 0 {
            return;
        }
        if lost {
            local.gone_at_ms = Some(now_ms.saturating_add(GRACE_MS));
        } else {
            self.remove(user_id, now_ms);
        }
    }

    /// The whole truth of the store: all rows, and the pods whose lease lives.
    pub(crate) fn replace(&mut self, members: Vec<Member>, live: BTreeSet<Arc<str>>, now_ms: u64) {
        self.live = live;
        self.remote.clear();
        self.rows = 0;
        let mut mine = Vec::new();
        for member in members {
            if member.pod == self.pod {
                mine.push(member);
            } else {
                self.insert_row(member);
            }
        }
        for member in mine {
            // A row of this pod without connections: left by a copy of the document that was closed in between.
            if member.connections > 0 && !self.local.contains_key(&member.user.id) {
                let gone_at_ms = Some(now_ms.saturating_add(GRACE_MS));
                let local = Local { user: member.user.clone(), connections: 0, since_ms: member.since_ms, gone_at_ms };
                self.local.insert(member.user.id, local);
            }
        }
        let known: BTreeSet<_> =
            self.active.keys().chain(self.remote.keys()).chain(self.local.keys()).cloned().collect();
        for user_id in known {
            self.settle(&user_id, now_ms);
        }
    }

    /// Another pod's row changed.
    pub(crate) fn row(&mut self, member: Member, now_ms: u64) {
        if member.pod == self.pod {
            return;
        }
        // Whoever speaks is alive, whatever the last list said.
        self.live.insert(member.pod.clone());
        let user_id = member.user.id.clone();
        if member.connections > 0 {
            self.insert_row(member);
        } else if let Some(rows) = self.remote.get_mut(&user_id) {
            if rows.remove(&member.pod).is_some() {
                self.rows = self.rows.saturating_sub(1);
            }
            if rows.is_empty() {
                self.remote.remove(&user_id);
            }
        }
        self.settle(&user_id, now_ms);
    }

    /// Lets go of those whose grace is over, and tells the total when it is due.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        let over: Vec<_> = self
            .local
            .iter()
            .filter(|(_, local)| local.gone_at_ms.is_some_and(|due| due <= now_ms))
            .map(|(user_id, _)| user_id.clone())
            .collect();
        for user_id in over {
            self.remove(&user_id, now_ms);
        }
        if self.count_due_ms.is_some_and(|due| due <= now_ms) {
            self.count_due_ms = None;
            self.count_told_ms = Some(now_ms);
            self.changes.push(Change::Count(self.active.len()));
        }
    }

    /// When [`Self::tick`] is due.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        self.local.values().filter_map(|local| local.gone_at_ms).chain(self.count_due_ms).min()
    }

    /// Whether this pod has rows that it must still take away.
    pub(crate) fn has_rows(&self) -> bool {
        !self.local.is_empty()
    }

    /// How many users are active.
    pub(crate) fn count(&self) -> usize {
        self.active.len()
    }

    /// Everybody but this one.
    pub(crate) fn others(&self, user_id: &str) -> impl Iterator<Item = &User> {
        self.active.iter().filter(move |(id, _)| ***id != *user_id).map(|(_, user)| user)
    }

    /// What happened since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn insert_row(&mut self, member: Member) {
        if member.connections == 0 || self.rows >= MAX_ROWS {
            return;
        }
        if self.remote.entry(member.user.id.clone()).or_default().insert(member.pod.clone(), member).is_none() {
            self.rows += 1;
        }
    }

    fn remove(&mut self, user_id: &Arc<str>, now_ms: u64) {
        let Some(local) = self.local.remove(user_id) else { return };
        self.changes.push(Change::Row(Member {
            pod: self.pod.clone(),
            user: local.user,
            connections: 0,
            since_ms: local.since_ms,
        }));
        self.settle(user_id, now_ms);
    }

    fn tell_row(&mut self, user_id: &Arc<str>) {
        if let Some(local) = self.local.get(user_id) {
            self.changes.push(Change::Row(Member {
                pod: self.pod.clone(),
                user: local.user.clone(),
                connections: local.connections,
                since_ms: local.since_ms,
            }));
        }
    }

    /// Compares what is with what was told.
    fn settle(&mut self, user_id: &Arc<str>, now_ms: u64) {
        let user = self.local.get(user_id).map(|local| local.user.clone()).or_else(|| {
            let rows = self.remote.get(user_id)?;
            rows.values().find(|member| self.live.contains(&member.pod)).map(|member| member.user.clone())
        });
        let was = self.active.contains_key(user_id);
        match user {
            Some(user) if !was => {
                self.active.insert(user_id.clone(), user.clone());
                self.announce(Change::Joined(user), now_ms);
            }
            None if was => {
                self.active.remove(user_id);
                self.announce(Change::Left(user_id.clone()), now_ms);
            }
            _ => {}
        }
    }

    fn announce(&mut self, change: Change, now_ms: u64) {
        if self.active.len() <= CROWD_USERS {
            self.changes.push(change);
        } else if self.count_due_ms.is_none() {
            let next = self.count_told_ms.map_or(now_ms, |told| told.saturating_add(COUNT_EVERY_MS));
            self.count_due_ms = Some(next.max(now_ms));
        }
    }
}
