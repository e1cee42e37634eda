//! Who is in the document.
//!
//! In: joins and departures on this pod, rows and messages of other pods, which pods live. Out: rows of this pod to
//! write, reads of everybody's rows, and what to tell the connections here (`crowd`). A user counts once, whatever the
//! number of tabs and pods; a user whose transport was lost stays for a while; rows of pods whose lease is gone do not
//! count. What pods tell each other is a hint, the rows are the truth: they are read when messages may have been lost,
//! when a pod may have died, and once in a long while for what nobody noticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Member, User,
    crowd::{Crowd, Told},
    rows::Rows,
};

/// How long a user stays whose transport was lost, in milliseconds: longer than a reconnect takes.
const GRACE_MS: u64 = 10_000;
/// A row that is gone without a word, although its pod lives, is believed to be gone after this long, in milliseconds:
/// a server that lost its data gets the rows again from the pods, and until then nobody is to vanish.
const MISSING_MS: u64 = 10_000;
/// A read that failed is repeated after this long, in milliseconds.
const READ_AGAIN_MS: u64 = 1_000;
/// All rows are read at least this often, in milliseconds, and up to a quarter more, so that pods and documents that were
/// opened together do not read together.
const READ_EVERY_MS: u64 = 600_000;
/// Most rows of other pods that are kept; beyond that the newest are not counted.
const ROWS_MAX: usize = 100_000;
/// Messages kept while the rows are read; beyond that they are read once more.
const HEARD_MAX: usize = 10_000;

/// Something that others must hear of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// For the connections here.
    Told(Told),
    /// A user is not in the document through this other pod any more.
    Gone { pod: Arc<str>, user_id: Arc<str> },
    /// The pods that have rows changed.
    Pods(BTreeSet<Arc<str>>),
    /// For the store, and then the other pods: rows of this pod.
    Write(Vec<Member>),
    /// All rows are to be read.
    Read,
}

#[derive(Debug)]
struct Local {
    user: User,
    connections: u32,
    /// What the row says; 0: it may say anything.
    row_connections: u32,
    since_ms: u64,
    /// How many whose transport was lost are not back, and until when the last of them is waited for.
    awaited: u32,
    awaited_until_ms: u64,
    /// Set while nobody of this user is connected here any more, but a transport was lost.
    gone_at_ms: Option<u64>,
}

impl Local {
    fn is_awaited(&self, now_ms: u64) -> bool {
        self.awaited > 0 && now_ms < self.awaited_until_ms
    }
}

#[derive(Debug)]
struct Remote {
    member: Member,
    /// The row was not in the store when it was read, although its pod lives.
    missing_since_ms: Option<u64>,
}

/// Who is in the document, here and elsewhere.
#[derive(Debug)]
pub(crate) struct Presence {
    pod: Arc<str>,
    /// How often this pod's lease has run out: its rows are told from those of before by it.
    lapses: u64,
    local: BTreeMap<Arc<str>, Local>,
    /// Of the local users, those in grace.
    leaving: BTreeSet<(u64, Arc<str>)>,
    rows: Rows,
    /// By user, then by pod: rows with at least one connection, of pods that live.
    remote: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Remote>>,
    /// How many of them each pod has.
    pods: BTreeMap<Arc<str>, usize>,
    pods_changed: bool,
    /// The rows were read since the document was opened.
    is_read: bool,
    /// Messages since the read under way was asked for.
    heard: Option<Vec<Member>>,
    read_due_ms: u64,
    /// Between reads that nothing calls for.
    read_every_ms: u64,
    crowd: Crowd,
    changes: Vec<Change>,
}

impl Presence {
    /// Nobody is there yet. `salt` spreads the reads of documents that were opened together.
    pub(crate) fn new(pod: Arc<str>, salt: &str, now_ms: u64) -> Self {
        let hash = pod.bytes().chain(salt.bytes()).fold(0u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(31));
        let read_every_ms = READ_EVERY_MS + hash % (READ_EVERY_MS / 4);
        Self {
            pod,
            lapses: 0,
            local: BTreeMap::new(),
            leaving: BTreeSet::new(),
            rows: Rows::default(),
            remote: BTreeMap::new(),
            pods: BTreeMap::new(),
            pods_changed: false,
            is_read: false,
            heard: None,
            read_due_ms: now_ms.saturating_add(read_every_ms),
            read_every_ms,
            crowd: Crowd::default(),
            changes: Vec::new(),
        }
    }

    /// A connection of this user joined here.
    pub(crate) fn join(&mut self, user: &User, now_ms: u64) {
        let local = self.local.entry(user.id.clone()).or_insert_with(|| Local {
            user: user.clone(),
            connections: 0,
            row_connections: 0,
            since_ms: now_ms,
            awaited: 0,
            awaited_until_ms: 0,
            gone_at_ms: None,
        });
        local.connections += 1;
        local.awaited = local.awaited.saturating_sub(1);
        local.user = user.clone();
        if let Some(gone_at_ms) = local.gone_at_ms.take() {
            self.leaving.remove(&(gone_at_ms, user.id.clone()));
        }
        self.write_row(&user.id);
        self.settle(&user.id, now_ms);
    }

    /// A user who is connected here has another name or picture.
    pub(crate) fn rename(&mut self, user: &User, now_ms: u64) {
        let Some(local) = self.local.get_mut(&user.id).filter(|local| local.user != *user) else { return };
        local.user = user.clone();
        // Whoever is only waited for is written again when they come back.
        if local.gone_at_ms.is_none() {
            local.row_connections = 0;
            self.write_row(&user.id);
        }
        self.settle(&user.id, now_ms);
    }

    /// A connection of this user is gone; `lost`: its transport broke, so that it may be back soon.
    pub(crate) fn leave(&mut self, user_id: &Arc<str>, lost: bool, now_ms: u64) {
        let Some(local) = self.local.get_mut(user_id) else { return };
        local.connections = local.connections.saturating_sub(1);
        if lost {
            local.awaited = 1 + if local.is_awaited(now_ms) { local.awaited } else { 0 };
            local.awaited_until_ms = now_ms.saturating_add(GRACE_MS);
        }
        if local.connections > 0 {
            self.write_row(user_id);
        } else if local.is_awaited(now_ms) {
            local.gone_at_ms = Some(local.awaited_until_ms);
            self.leaving.insert((local.awaited_until_ms, user_id.clone()));
        } else {
            self.remove(user_id, now_ms);
        }
    }

    /// Whether a connection of this user was here whose transport was lost and that may be back soon.
    pub(crate) fn is_awaited(&self, user_id: &str, now_ms: u64) -> bool {
        self.local.get(user_id).is_some_and(|local| local.is_awaited(now_ms))
    }

    /// The whole truth of the store: all rows, and the pods whose lease lives.
    pub(crate) fn replace(&mut self, members: Vec<Member>, live: &BTreeSet<Arc<str>>, now_ms: u64) {
        let mut before = std::mem::take(&mut self.remote);
        self.pods.clear();
        self.pods_changed = true;
        let mut own = BTreeMap::new();
        for member in members.into_iter().filter(|member| member.connections > 0) {
            if member.pod == self.pod {
                own.insert(member.user.id.clone(), member);
            } else if live.contains(&member.pod) {
                if let Some(rows) = before.get_mut(&member.user.id) {
                    rows.remove(&member.pod);
                }
                self.insert(member, None);
            }
        }
        self.read_due_ms = now_ms.saturating_add(self.read_every_ms);
        self.keep_missing(before, live, now_ms);
        self.compare_own(own, now_ms);
        self.is_read = true;
        for member in self.heard.take().unwrap_or_default() {
            self.hear(member);
        }
        for user_id in self.crowd_and_rows() {
            self.settle(&user_id, now_ms);
        }
    }

    /// The rows could not be read.
    pub(crate) fn unread(&mut self, now_ms: u64) {
        // What was heard meanwhile was taken in when it was heard.
        self.heard = None;
        self.read_due_ms = self.read_due_ms.min(now_ms.saturating_add(READ_AGAIN_MS));
    }

    /// Another pod's rows changed.
    pub(crate) fn hear_rows(&mut self, members: Vec<Member>, now_ms: u64) {
        for member in members {
            if member.pod == self.pod {
                continue;
            }
            match &mut self.heard {
                Some(heard) if heard.len() < HEARD_MAX => heard.push(member.clone()),
                Some(_) => self.read_due_ms = now_ms,
                None => {}
            }
            let user_id = member.user.id.clone();
            self.hear(member);
            self.settle(&user_id, now_ms);
        }
    }

    /// Which of the pods that have rows live, as far as is known; `lapsed`: this pod's lease had run out meanwhile, so
    /// that others may have removed its rows.
    pub(crate) fn pods_live(&mut self, live: &BTreeSet<Arc<str>>, lapsed: bool, now_ms: u64) {
        if lapsed {
            self.lapses += 1;
            let everybody: Vec<_> = self.local.keys().cloned().collect();
            for user_id in everybody {
                self.forget_row(&user_id);
                self.write_row(&user_id);
            }
        }
        if self.pods.keys().any(|pod| !live.contains(pod)) {
            // It may only not have been asked about yet: the read asks.
            self.read_due_ms = now_ms;
        }
    }

    /// Messages may have been lost.
    pub(crate) fn missed(&mut self, now_ms: u64) {
        self.read_due_ms = now_ms;
    }

    /// The rows of the last write are stored, or perhaps not.
    pub(crate) fn written(&mut self, is_ok: bool, now_ms: u64) {
        self.rows.written(is_ok, now_ms);
    }

    /// What time alone brings about, and what is to be written and read.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        while let Some((gone_at_ms, user_id)) = self.leaving.first().filter(|(due, _)| *due <= now_ms).cloned() {
            self.leaving.remove(&(gone_at_ms, user_id.clone()));
            self.remove(&user_id, now_ms);
        }
        self.crowd.tick(now_ms);
        if self.heard.is_none() && self.read_due_ms <= now_ms {
            self.heard = Some(Vec::new());
            self.read_due_ms = now_ms.saturating_add(self.read_every_ms);
            self.changes.push(Change::Read);
        }
        if let Some(rows) = self.rows.next(now_ms) {
            self.changes.push(Change::Write(rows));
        }
    }

    /// When [`Self::tick`] is due.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let leaving = self.leaving.first().map(|(due, _)| *due);
        let reading = self.heard.is_none().then_some(self.read_due_ms);
        [leaving, reading, self.crowd.deadline_ms(), self.rows.deadline_ms()].into_iter().flatten().min()
    }

    /// Whether this pod has rows that it must still take away, or did not get written.
    pub(crate) fn has_rows(&self) -> bool {
        !self.local.is_empty() || !self.rows.is_written()
    }

    /// Whether the store has all of this pod's rows as they are to be.
    pub(crate) fn is_written(&self) -> bool {
        self.rows.is_written()
    }

    /// Whether somebody is in the document through another pod.
    pub(crate) fn has_remote(&self) -> bool {
        !self.remote.is_empty()
    }

    /// This pod has nobody in the document any more: its rows, as they are to be removed.
    pub(crate) fn give_up(&mut self) -> Vec<Member> {
        self.leaving.clear();
        for local in std::mem::take(&mut self.local).into_values() {
            self.rows.set(self.member(&local, 0));
        }
        self.rows.take()
    }

    /// Everybody who is active.
    pub(crate) fn crowd(&mut self) -> &mut Crowd {
        &mut self.crowd
    }

    /// What happened since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.changes);
        if std::mem::take(&mut self.pods_changed) {
            changes.push(Change::Pods(self.pods.keys().cloned().collect()));
        }
        changes.extend(self.crowd.take_told().into_iter().map(Change::Told));
        changes
    }

    /// Rows that are not in the store although their pod lives.
    fn keep_missing(
        &mut self,
        before: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Remote>>,
        live: &BTreeSet<Arc<str>>,
        now_ms: u64,
    ) {
        for (user_id, rows) in before {
            for (pod, row) in rows {
                let since_ms = row.missing_since_ms.unwrap_or(now_ms);
                let until_ms = since_ms.saturating_add(MISSING_MS);
                if live.contains(&pod) && now_ms < until_ms {
                    self.read_due_ms = self.read_due_ms.min(until_ms);
                    self.insert(row.member, Some(since_ms));
                } else {
                    self.changes.push(Change::Gone { pod, user_id: user_id.clone() });
                }
            }
        }
    }

    /// Own rows as the store has them, against those that it is to have.
    fn compare_own(&mut self, mut own: BTreeMap<Arc<str>, Member>, now_ms: u64) {
        let everybody: Vec<_> = self.local.keys().cloned().collect();
        for user_id in everybody {
            if own.remove(&user_id).is_none() && !self.rows.is_pending(&user_id) {
                self.forget_row(&user_id);
                self.write_row(&user_id);
            }
        }
        for (user_id, member) in own {
            if self.rows.is_pending(&user_id) {
                continue;
            }
            if self.is_read {
                self.rows.set(Member { connections: 0, ..member });
                continue;
            }
            // Left by a copy of the document that was closed or given up: its people may be on their way here.
            let gone_at_ms = now_ms.saturating_add(GRACE_MS);
            self.leaving.insert((gone_at_ms, user_id.clone()));
            let local = Local {
                user: member.user,
                connections: 0,
                row_connections: 0,
                since_ms: member.since_ms,
                awaited: member.connections,
                awaited_until_ms: gone_at_ms,
                gone_at_ms: Some(gone_at_ms),
            };
            self.local.insert(user_id, local);
        }
    }

    fn hear(&mut self, member: Member) {
        if member.connections > 0 {
            self.insert(member, None);
            return;
        }
        let Some(rows) = self.remote.get_mut(&member.user.id) else { return };
        if rows.remove(&member.pod).is_none() {
            return;
        }
        if rows.is_empty() {
            self.remote.remove(&member.user.id);
        }
        if let Some(count) = self.pods.get_mut(&member.pod) {
            *count -= 1;
            if *count == 0 {
                self.pods.remove(&member.pod);
                self.pods_changed = true;
            }
        }
        self.changes.push(Change::Gone { pod: member.pod, user_id: member.user.id });
    }

    fn insert(&mut self, member: Member, missing_since_ms: Option<u64>) {
        let is_full = self.pods.values().sum::<usize>() >= ROWS_MAX;
        let rows = self.remote.entry(member.user.id.clone()).or_default();
        let pod = member.pod.clone();
        if is_full && !rows.contains_key(&pod) {
            if rows.is_empty() {
                self.remote.remove(&member.user.id);
            }
            return;
        }
        if rows.insert(pod.clone(), Remote { member, missing_since_ms }).is_none() {
            let count = self.pods.entry(pod).or_default();
            *count += 1;
            self.pods_changed |= *count == 1;
        }
    }

    fn remove(&mut self, user_id: &Arc<str>, now_ms: u64) {
        let Some(local) = self.local.remove(user_id) else { return };
        self.rows.set(self.member(&local, 0));
        self.settle(user_id, now_ms);
    }

    /// Nothing is known of what the store says of this user any more.
    fn forget_row(&mut self, user_id: &Arc<str>) {
        if let Some(local) = self.local.get_mut(user_id) {
            local.row_connections = 0;
        }
    }

    /// Writes the row of a local user if it says something else. In grace it keeps saying what it said.
    fn write_row(&mut self, user_id: &Arc<str>) {
        let Some(local) = self.local.get_mut(user_id) else { return };
        let connections = local.connections.max(1);
        if std::mem::replace(&mut local.row_connections, connections) != connections {
            let Some(local) = self.local.get(user_id) else { return };
            self.rows.set(self.member(local, connections));
        }
    }

    fn member(&self, local: &Local, connections: u32) -> Member {
        let (pod, user) = (self.pod.clone(), local.user.clone());
        Member { pod, user, connections, since_ms: local.since_ms, lapses: self.lapses }
    }

    fn crowd_and_rows(&self) -> BTreeSet<Arc<str>> {
        self.crowd.ids().chain(self.remote.keys()).chain(self.local.keys()).cloned().collect()
    }

    /// Compares what is with what counts as active.
    fn settle(&mut self, user_id: &Arc<str>, now_ms: u64) {
        let here = self.local.get(user_id).map(|local| &local.user);
        let there = || self.remote.get(user_id)?.values().next().map(|row| &row.member.user);
        let user = here.or_else(there);
        self.crowd.set(user_id, user, now_ms);
    }
}
