//! The connections of this pod: how many there are, whose they are, and their names.
//!
//! In: admissions, sign-ins, and other pods' claims. Out: a [`Seat`] for each admitted connection that gives its place
//! back when it is dropped, claims for the other pods, and ids that are unique over pods and restarts.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use document::{Code, ConnectionId, Refusal};
use protocol::Claim;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    clock,
    meter::{Meter, Rate},
    metrics::Metrics,
    outbox::{Common, Ending, Outbox},
};

/// Claims that wait for the bus. Telling other pods is best effort, sessions keep editing right: when the bus is away
/// the rest is dropped.
const CLAIMS_WAITING_MAX: usize = 1024;

const OTHER_TOOK_OVER: &str =
    "another connection with this clientId took over; give each editor instance a clientId of its own";
const TOO_MANY: &str = "this user has too many connections, and this was the oldest: close those that are not needed";

/// All connections of the pod; clones are the same.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    pod: Arc<str>,
    next: AtomicU64,
    table: Mutex<Table>,
    claims: mpsc::Sender<Claim>,
    common: Common,
    metrics: Metrics,
}

#[derive(Default)]
struct Table {
    connections: HashMap<ConnectionId, Outbox>,
    users: HashMap<Arc<str>, User>,
}

/// Somebody who has connections here; forgotten with the last of them.
struct User {
    /// The oldest first. Most users have one, and no room for more is kept.
    connections: Vec<Claimed>,
    /// What all of them share.
    joins: Meter,
}

/// Which connection an editor has here, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claimed {
    client_id: Arc<str>,
    id: ConnectionId,
    at_ms: u64,
}

/// One editor instance of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Editor {
    user_id: Arc<str>,
    client_id: Arc<str>,
}

impl Registry {
    /// An empty registry of the pod incarnation `pod` (≤ 16 characters), and the claims to publish for it.
    pub fn new(pod: Arc<str>, common: Common) -> (Registry, mpsc::Receiver<Claim>) {
        let (claims, to_publish) = mpsc::channel(CLAIMS_WAITING_MAX);
        let metrics = common.metrics().clone();
        let inner = Inner { pod, next: AtomicU64::new(1), table: Mutex::default(), claims, common, metrics };
        (Registry { inner: Arc::new(inner) }, to_publish)
    }

    /// The name of this incarnation of the pod.
    pub fn pod(&self) -> &Arc<str> {
        &self.inner.pod
    }

    /// A place for one more connection, unless there are `most` already.
    pub fn admit(&self, most: usize) -> Option<Seat> {
        let mut table = self.table();
        if table.connections.len() >= most {
            return None;
        }
        let id = ConnectionId(self.number());
        let outbox = Outbox::new(id, self.inner.common.clone());
        table.connections.insert(id, outbox.clone());
        self.inner.metrics.connections.inc();
        Some(Seat { registry: self.clone(), outbox, editor: None })
    }

    /// A name that no pod ever makes again, at most 32 characters: for sessions and Socket.IO ids.
    pub fn fresh_name(&self) -> String {
        format!("{}-{}", self.inner.pod, base36(self.number()))
    }

    /// Another pod has a connection of this editor: if that one is newer, ours gives way. A claim may come late, from a
    /// pod that was stopped or whose bus was away for a while; it must not end the connection that came after it, for good.
    /// So the times count, not the order in which claims are heard. Where clocks differ by more than a move took, ours
    /// stays until its heartbeat fails, which does no harm: sessions keep both right.
    pub fn claimed_elsewhere(&self, claim: &Claim) {
        if claim.pod == self.inner.pod {
            return;
        }
        let mut table = self.table();
        let is_older = |ours: &Claimed| {
            ours.client_id == claim.client_id && (claim.at_ms, &claim.pod) > (ours.at_ms, &self.inner.pod)
        };
        let replaced = table.take(&claim.user_id, is_older).and_then(|ours| table.connections.get(&ours.id).cloned());
        drop(table);
        if let Some(outbox) = replaced {
            replace(&outbox, OTHER_TOOK_OVER);
        }
    }

    /// The connections of a user at this moment.
    pub fn outboxes_of(&self, user_id: &str) -> Vec<Outbox> {
        let table = self.table();
        let theirs = table.users.get(user_id).into_iter().flat_map(|user| &user.connections);
        theirs.filter_map(|claimed| table.connections.get(&claimed.id).cloned()).collect()
    }

    /// Everybody who is signed in at this moment, once.
    pub fn users(&self) -> Vec<Arc<str>> {
        self.table().users.keys().cloned().collect()
    }

    /// The outboxes of all connections at this moment.
    pub fn outboxes(&self) -> Vec<Outbox> {
        self.table().connections.values().cloned().collect()
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.table().connections.len()
    }

    fn number(&self) -> u64 {
        self.inner.next.fetch_add(1, Ordering::Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Both maps are changed by single calls, so a poisoned table is still whole.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One admitted connection's place; dropping it gives the place back.
pub struct Seat {
    registry: Registry,
    outbox: Outbox,
    editor: Option<Editor>,
}

impl Seat {
    /// Where to put what the connection shall be sent.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// From now on this connection is the editor's: one that was before is closed, here or on any pod. If the user has
    /// `most` connections on this pod already, the oldest ends for good: it is the tab that was forgotten, or the first of
    /// a program that opens too many, and nobody comes back to be refused again and again.
    pub fn claim(&mut self, user_id: &Arc<str>, client_id: &Arc<str>, most: usize) {
        let claimed = Claimed { client_id: client_id.clone(), id: self.outbox.id(), at_ms: clock::unix_ms() };
        let at_ms = claimed.at_ms;
        let mut table = self.registry.table();
        let before = table.take(user_id, |claimed| claimed.client_id == *client_id);
        let new = || User { connections: Vec::with_capacity(1), joins: Meter::new(Instant::now()) };
        let theirs = &mut table.users.entry(user_id.clone()).or_insert_with(new).connections;
        let oldest = (theirs.len() >= most.max(1)).then(|| theirs.remove(0));
        theirs.push(claimed);
        let [before, oldest] =
            [before, oldest].map(|gone| gone.and_then(|gone| table.connections.get(&gone.id).cloned()));
        drop(table);
        if let Some(outbox) = before {
            replace(&outbox, OTHER_TOOK_OVER);
        }
        if let Some(outbox) = oldest {
            self.registry.inner.metrics.refuse("max_connections_per_user");
            replace(&outbox, TOO_MANY);
        }
        self.editor = Some(Editor { user_id: user_id.clone(), client_id: client_id.clone() });
        let claim = Claim {
            user_id: user_id.clone(),
            client_id: client_id.clone(),
            pod: self.registry.inner.pod.clone(),
            connection: self.outbox.id().0,
            at_ms,
        };
        // Full or gone: see CLAIMS_WAITING_MAX.
        let _ = self.registry.inner.claims.try_send(claim);
    }
}

impl Seat {
    /// Takes one join of those that all connections of its user have together.
    ///
    /// # Errors
    /// With the time to wait.
    pub fn take_join(&self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let Some(editor) = &self.editor else { return Ok(()) };
        // One that was replaced by another pod's is about to end.
        self.registry.table().users.get_mut(&editor.user_id).map_or(Ok(()), |user| user.joins.take(rate, now))
    }

    /// The connection is nobody's any more, though it is still open.
    pub fn release(&mut self) {
        if let Some(editor) = self.editor.take() {
            self.registry.table().forget(&editor, self.outbox.id());
        }
    }
}

impl Table {
    fn forget(&mut self, editor: &Editor, id: ConnectionId) {
        self.take(&editor.user_id, |claimed| claimed.id == id);
    }

    /// Takes out the user's connection that is meant.
    fn take(&mut self, user_id: &Arc<str>, is_meant: impl Fn(&Claimed) -> bool) -> Option<Claimed> {
        let theirs = &mut self.users.get_mut(user_id)?.connections;
        let taken = theirs.iter().position(is_meant).map(|place| theirs.remove(place));
        if theirs.is_empty() {
            self.users.remove(user_id);
        }
        taken
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.registry.table();
        table.connections.remove(&self.outbox.id());
        if let Some(editor) = &self.editor {
            table.forget(editor, self.outbox.id());
        }
        self.registry.inner.metrics.connections.dec();
    }
}

fn replace(outbox: &Outbox, why: &str) {
    let refusal =
        Refusal { code: Code::ClientReplaced, message: why.into(), seq: None, last_seq: None, retry_after_ms: None };
    outbox.push_text(&protocol::error(None, &refusal));
    outbox.close(Ending::Disconnect);
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u8::try_from(number % 36).unwrap_or_default();
        digits.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(pod: &str) -> (Registry, mpsc::Receiver<Claim>) {
        let metrics = Metrics::default();
        Registry::new(pod.into(), Common::new(crate::budget::Budget::new(0, &metrics), metrics))
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let (registry, _claims) = registry("p");
        let first = registry.admit(1).unwrap();
        assert!(registry.admit(1).is_none());
        drop(first);
        assert_eq!(registry.count(), 0);
        assert!(registry.admit(1).is_some());
    }

    #[test]
    fn the_second_connection_of_an_editor_replaces_the_first_one() {
        let (registry, mut claims) = registry("p");
        let [mut first, mut second, mut other] = [(); 3].map(|()| registry.admit(9).unwrap());
        first.claim(&"u".into(), &"c".into(), 9);
        other.claim(&"v".into(), &"c".into(), 9);
        assert!(!first.outbox().is_closing());
        second.claim(&"u".into(), &"c".into(), 9);
        assert!(first.outbox().is_closing() && !second.outbox().is_closing() && !other.outbox().is_closing());
        // The first one's end must not forget who sits there now.
        drop(first);
        let mut claim =
            Claim { user_id: "u".into(), client_id: "c".into(), pod: "p".into(), connection: 99, at_ms: u64::MAX };
        registry.claimed_elsewhere(&claim);
        assert!(!second.outbox().is_closing(), "a pod's own claim comes back to it");
        claim.pod = "q".into();
        claim.at_ms = 1;
        registry.claimed_elsewhere(&claim);
        assert!(!second.outbox().is_closing(), "a claim that was overtaken");
        claim.at_ms = u64::MAX;
        registry.claimed_elsewhere(&claim);
        assert!(second.outbox().is_closing());
        assert_eq!(claims.try_recv().map(|claim| claim.client_id), Ok("c".into()));
    }

    #[test]
    fn one_connection_too_many_ends_the_users_oldest() {
        let (registry, _claims) = registry("p");
        let mut seats: Vec<Seat> = Vec::new();
        for number in 0..5 {
            let mut seat = registry.admit(9).unwrap();
            seat.claim(&"u".into(), &format!("c{number}").into(), 3);
            seats.push(seat);
        }
        let mut other = registry.admit(9).unwrap();
        other.claim(&"v".into(), &"c".into(), 3);
        let is_closing = |seat: &Seat| seat.outbox().is_closing();
        assert_eq!(seats.iter().map(is_closing).collect::<Vec<_>>(), [true, true, false, false, false]);
        assert_eq!((registry.outboxes_of("u").len(), registry.outboxes_of("v").len()), (3, 1));
        // One that comes again as itself takes its own place and no other's.
        let mut again = registry.admit(9).unwrap();
        again.claim(&"u".into(), &"c3".into(), 3);
        assert_eq!(seats.iter().map(is_closing).collect::<Vec<_>>(), [true, true, false, true, false]);
        drop((seats, again));
        assert_eq!((registry.outboxes_of("u").len(), registry.table().users.len()), (0, 1));
    }

    #[test]
    fn names_are_short_and_differ() {
        let (registry, _claims) = registry("0123456789abcdef");
        let names = [registry.fresh_name(), registry.fresh_name()];
        assert!(names[0] != names[1] && names.iter().all(|name| name.len() <= 32));
        assert_eq!((base36(0), base36(35), base36(u64::MAX).len()), ("0".into(), "z".into(), 13));
    }
}
