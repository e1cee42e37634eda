//! Presence over several pods and a store in virtual time, at random.
//!
//! In: a seed. Pods open one document, people come and go with several tabs, move between pods, lose transports; messages
//! between pods are lost, doubled or late; pods die, stand still for longer than their lease, and the store loses all
//! data. Out: what an observer on each pod was told. Whoever is connected all the time never leaves for others, nor does
//! whoever moves as long as no message is lost, and at rest every observer knows exactly those who are there.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::{join, user};
use document::{
    Command, ConnectionId, Document, Event, Input, Join, Leaving, Lookup, Member, Peer, Point, Role, Settings, Snapshot,
};

const PODS: usize = 3;
const LEASE_MS: u64 = 15_000;
const RENEW_MS: u64 = 5_000;
/// Nobody who sees that all leases ran out together declares anybody dead for so long.
const LEASE_GRACE_MS: u64 = 10_000;
/// Whoever moves is back within this, and no pod stands still for longer: together less than anybody is waited for.
const MOVE_MS: u64 = 3_000;
const PAUSE_MS: u64 = 6_000;
/// Whoever came back later than that may still be told to have left, for the last time, until so long after.
const LATE_LEFT_MS: u64 = 18_000;
/// Ghosts of lost messages are gone after the longest time between two reads, and the doubt about a missing row.
const REST_MS: u64 = 800_000;

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

enum Job {
    Write(Vec<Member>),
    Read,
    Reply(Input),
}

struct Pod {
    name: Arc<str>,
    document: Document,
    /// In order, with the time they are due.
    jobs: Vec<(u64, Job)>,
    mail: Vec<(u64, Input)>,
    watched: BTreeSet<Arc<str>>,
    living: BTreeSet<Arc<str>>,
    renew_at_ms: u64,
    grace_until_ms: u64,
    paused_until_ms: u64,
    /// By connection: whose it is.
    connected: BTreeMap<u64, u64>,
    /// Whom the observer on this pod knows.
    known: BTreeSet<Arc<str>>,
}

struct World {
    random: Random,
    now_ms: u64,
    pods: Vec<Pod>,
    rows: BTreeMap<(Arc<str>, Arc<str>), Member>,
    leases: BTreeMap<Arc<str>, u64>,
    next: u64,
    /// Messages are lost and doubled, writes fail.
    is_lossy: bool,
    /// The next pause, or loss of data, may come then: two in a row are longer than anybody is waited for.
    next_trouble_ms: u64,
    /// Who may not be seen to leave.
    steady: BTreeSet<Arc<str>>,
    /// Since when users are there without a break that is longer than a move.
    there_since_ms: BTreeMap<Arc<str>, u64>,
    moves: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (rows, leases) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self {
            random,
            now_ms: 1_000,
            pods: Vec::new(),
            rows,
            leases,
            next: 1_000,
            is_lossy: true,
            next_trouble_ms: 0,
            steady: BTreeSet::new(),
            there_since_ms: BTreeMap::new(),
            moves: 0,
        };
        for _ in 0..PODS {
            world.open();
        }
        world
    }

    /// A new incarnation with an observer, who counts as a user too.
    fn open(&mut self) {
        self.next += 1;
        let name: Arc<str> = format!("pod{}", self.next).into();
        let at = Point { version: 0, hash: "h0".into() };
        let snapshot = Snapshot { at, content: ot::Delta::default(), window: Vec::new() };
        let document = Document::open(Settings::default(), name.clone(), snapshot, Vec::new(), self.now_ms);
        self.leases.insert(name.clone(), self.now_ms + LEASE_MS);
        self.pods.push(Pod {
            name,
            document: document.expect("it opens"),
            jobs: Vec::new(),
            mail: Vec::new(),
            watched: BTreeSet::new(),
            living: BTreeSet::new(),
            renew_at_ms: self.now_ms + RENEW_MS,
            grace_until_ms: 0,
            paused_until_ms: 0,
            connected: BTreeMap::new(),
            known: BTreeSet::new(),
        });
        let pod = self.pods.len() - 1;
        let input = self.read(pod);
        self.feed(pod, input);
        let observer = 900 + self.next;
        self.join(pod, observer);
    }

    fn join(&mut self, pod: usize, user_id: u64) -> u64 {
        self.next += 1;
        let id = self.next;
        self.pods[pod].connected.insert(id, user_id);
        self.there_since_ms.entry(user(user_id).id).or_insert(self.now_ms);
        let join = Join { user: user(user_id), reply: None, ..join(id) };
        self.feed(pod, Input::Join(join));
        id
    }

    fn leave(&mut self, pod: usize, id: u64, how: Leaving) {
        self.pods[pod].connected.remove(&id);
        let there = self.connected();
        self.there_since_ms.retain(|user_id, _| there.contains(user_id));
        self.tell_gone(pod, id, how);
    }

    /// Somebody moves to another pod within the time that a lost transport is waited for.
    fn move_away(&mut self, pod: usize, id: u64, user_id: u64) {
        self.pods[pod].connected.remove(&id);
        self.tell_gone(pod, id, Leaving::Lost);
        let later = self.now_ms + self.random.below(MOVE_MS);
        self.run(later);
        // Nobody reaches a pod that stands still.
        let goes = |pod: &&Pod| pod.paused_until_ms <= self.now_ms;
        let goes: Vec<_> = self.pods.iter().filter(goes).map(|pod| pod.name.clone()).collect();
        let to = goes[self.random.below(goes.len() as u64) as usize].clone();
        let to = self.pods.iter().position(|pod| pod.name == to).expect("it is one of them");
        self.join(to, user_id);
        self.moves += 1;
    }

    fn tell_gone(&mut self, pod: usize, id: u64, how: Leaving) {
        self.feed(pod, Input::Leave { connection: ConnectionId(id), how, reply: None });
    }

    fn feed(&mut self, pod: usize, input: Input) {
        let now_ms = self.now_ms;
        for command in self.pods[pod].document.handle(input, now_ms) {
            let soon = now_ms + 1 + self.random.below(40);
            match command {
                Command::Lookup { connection, .. } => {
                    let lookup = Lookup { role: Role::Write, rows: Vec::new(), tail: Vec::new(), more: false };
                    self.feed(pod, Input::LookedUp { connection, result: Ok(lookup) });
                }
                Command::WritePresence(rows) => self.pods[pod].jobs.push((soon, Job::Write(rows))),
                Command::ReadPresence => self.pods[pod].jobs.push((soon, Job::Read)),
                Command::Publish(peer) => self.publish(pod, &peer),
                Command::WatchPods(pods) => {
                    // They are asked about at once.
                    self.pods[pod].watched = pods;
                    self.pods[pod].renew_at_ms = now_ms;
                }
                Command::Send { to, event } => self.observe(pod, &to, &event),
                _ => {}
            }
        }
    }

    /// The first connection of a pod is the observer's.
    fn observe(&mut self, pod: usize, to: &[ConnectionId], event: &Event) {
        let Some((observer, _)) = self.pods[pod].connected.first_key_value() else { return };
        if !to.contains(&ConnectionId(*observer)) {
            return;
        }
        let known = &mut self.pods[pod].known;
        match event {
            Event::DocumentJoined(joined) => *known = joined.active_users.iter().map(|a| a.user.id.clone()).collect(),
            Event::UserJoined(user) => {
                known.insert(user.id.clone());
            }
            Event::UserLeft { user_id } => {
                known.remove(user_id);
                assert!(!self.steady.contains(user_id), "{user_id} vanished at {} ms while connected", self.now_ms);
                // Where a message was lost of where somebody went, the next reading of all rows tells.
                let since_ms = self.there_since_ms.get(user_id).filter(|_| !self.is_lossy);
                let is_there = since_ms.is_some_and(|since_ms| since_ms + LATE_LEFT_MS < self.now_ms);
                assert!(!is_there, "{user_id} vanished at {} ms, here or on the move", self.now_ms);
            }
            _ => {}
        }
    }

    fn publish(&mut self, from: usize, peer: &Peer) {
        let pod = self.pods[from].name.clone();
        for to in (0..self.pods.len()).filter(|to| *to != from) {
            let lost = self.is_lossy && self.random.one_in(12);
            let times = if lost { 0 } else { 1 + usize::from(self.random.one_in(12)) };
            for _ in 0..times {
                let due = self.now_ms + 1 + self.random.below(60);
                // One pod's messages come in order.
                let last = self.pods[to].mail.iter().map(|(due, _)| *due).max().unwrap_or(0);
                let input = Input::Peer { pod: pod.clone(), peer: peer.clone() };
                self.pods[to].mail.push((due.max(last), input));
            }
        }
    }

    fn read(&mut self, pod: usize) -> Input {
        let now_ms = self.now_ms;
        let is_grace = self.pods[pod].grace_until_ms > now_ms;
        let mut live = self.pods[pod].living.clone();
        live.insert(self.pods[pod].name.clone());
        for (name, _) in self.rows.keys() {
            if is_grace || self.leases.get(name).is_some_and(|until| *until > now_ms) {
                live.insert(name.clone());
            }
        }
        let members = self.rows.values().cloned().collect();
        self.rows.retain(|(name, _), _| live.contains(name));
        Input::Presence { members, live }
    }

    fn renew(&mut self, pod: usize) {
        let now_ms = self.now_ms;
        let name = self.pods[pod].name.clone();
        let before = self.leases.insert(name.clone(), now_ms + LEASE_MS);
        let lapsed = before.is_none_or(|until| until <= now_ms);
        if lapsed {
            self.pods[pod].grace_until_ms = now_ms + LEASE_GRACE_MS;
        }
        let is_grace = self.pods[pod].grace_until_ms > now_ms;
        let lives = |watched: &Arc<str>| is_grace || self.leases.get(watched).is_some_and(|until| *until > now_ms);
        let mut live: BTreeSet<_> = self.pods[pod].watched.iter().filter(|watched| lives(watched)).cloned().collect();
        live.insert(name);
        self.pods[pod].renew_at_ms = now_ms + RENEW_MS;
        if live != self.pods[pod].living || lapsed {
            self.pods[pod].living = live.clone();
            self.feed(pod, Input::PodsLive { live, lapsed });
        }
    }

    /// Everything that is due until then.
    fn run(&mut self, until_ms: u64) {
        while self.now_ms < until_ms {
            self.now_ms += 10;
            for pod in 0..self.pods.len() {
                if self.pods[pod].paused_until_ms > self.now_ms {
                    continue;
                }
                while let Some(place) = self.pods[pod].jobs.iter().position(|(due, _)| *due <= self.now_ms) {
                    let (_, job) = self.pods[pod].jobs.remove(place);
                    self.work(pod, job);
                }
                while self.pods[pod].mail.first().is_some_and(|(due, _)| *due <= self.now_ms) {
                    let (_, input) = self.pods[pod].mail.remove(0);
                    self.feed(pod, input);
                }
                if self.pods[pod].renew_at_ms <= self.now_ms {
                    self.renew(pod);
                }
                if self.pods[pod].document.deadline_ms().is_some_and(|due| due <= self.now_ms) {
                    self.feed(pod, Input::Tick);
                }
            }
        }
    }

    fn work(&mut self, pod: usize, job: Job) {
        let soon = self.now_ms + 1 + self.random.below(40);
        let reply = match job {
            Job::Reply(input) => return self.feed(pod, input),
            Job::Read => self.read(pod),
            Job::Write(rows) => {
                if self.is_lossy && self.random.one_in(10) {
                    Input::PresenceWritten(false)
                } else {
                    for row in &rows {
                        let key = (row.pod.clone(), row.user.id.clone());
                        if row.connections > 0 {
                            self.rows.insert(key, row.clone());
                        } else {
                            self.rows.remove(&key);
                        }
                    }
                    self.publish(pod, &Peer::Members(rows));
                    Input::PresenceWritten(true)
                }
            }
        };
        self.pods[pod].jobs.push((soon, Job::Reply(reply)));
    }

    fn connected(&self) -> BTreeSet<Arc<str>> {
        let users = self.pods.iter().flat_map(|pod| pod.connected.values());
        users.map(|id| user(*id).id).collect()
    }

    fn step(&mut self) {
        let pod = usize::try_from(self.random.below(self.pods.len() as u64)).expect("few pods");
        let others: Vec<(u64, u64)> = {
            let connected = self.pods[pod].connected.iter().skip(1);
            connected
                .map(|(id, user)| (*id, *user))
                .filter(|(_, user)| !self.steady.contains(&crate::user(*user).id))
                .collect()
        };
        let pick =
            |random: &mut Random| (!others.is_empty()).then(|| others[random.below(others.len() as u64) as usize]);
        match self.random.below(20) {
            0..=7 => {
                let user_id = 1 + self.random.below(12);
                self.join(pod, user_id);
            }
            8..=11 => {
                if let Some((id, _)) = pick(&mut self.random) {
                    let how = if self.random.one_in(2) { Leaving::Said } else { Leaving::Lost };
                    self.leave(pod, id, how);
                }
            }
            12..=15 => {
                if let Some((id, user_id)) = pick(&mut self.random) {
                    self.move_away(pod, id, user_id);
                }
            }
            16 if self.next_trouble_ms <= self.now_ms => {
                self.next_trouble_ms = self.now_ms + 40_000;
                self.pods[pod].paused_until_ms = self.now_ms + self.random.below(PAUSE_MS);
            }
            17 if self.next_trouble_ms <= self.now_ms => {
                self.next_trouble_ms = self.now_ms + 40_000;
                // The store comes back empty, which every pod notices at once by its subscription.
                self.rows.clear();
                self.leases.clear();
                for pod in 0..self.pods.len() {
                    self.feed(pod, Input::Missed);
                }
            }
            18 => {
                let (from, missed) = (pod, Input::Missed);
                self.pods[from].mail.clear();
                self.feed(from, missed);
            }
            _ => {}
        }
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    let first = std::env::var("COLLAB_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    first.map_or(1..=120, |seed| seed..=seed)
}

#[test]
fn at_rest_everybody_knows_who_is_there_and_nobody_vanished_while_connected() {
    let mut moves = 0;
    for seed in seeds() {
        eprintln!("COLLAB_TEST_SEED={seed}");
        let mut world = World::new(seed);
        world.is_lossy = seed % 2 == 0;
        let later = world.now_ms + 1_000;
        world.run(later);
        // On each pod one person who stays.
        for pod in 0..world.pods.len() {
            world.join(pod, 500 + pod as u64);
            world.steady.insert(user(500 + pod as u64).id);
        }
        for _ in 0..40 {
            let later = world.now_ms + world.random.below(4_000);
            world.run(later);
            world.step();
        }
        moves += world.moves;
        let rest = world.now_ms + REST_MS;
        world.run(rest);
        let there = world.connected();
        for pod in &world.pods {
            let observer = pod.connected.values().next().map(|id| user(*id).id).expect("an observer");
            let expected: BTreeSet<_> = there.iter().filter(|id| **id != observer).cloned().collect();
            assert_eq!(pod.known, expected, "seed {seed}, {}", pod.name);
        }
        assert_eq!(world.rows.len(), world.rows.keys().filter(|(_, id)| there.contains(id)).count(), "no ghost rows");
    }
    assert!(moves > 0, "nobody moved");
}

#[test]
fn people_of_a_dead_pod_vanish_within_twenty_seconds_and_those_of_a_paused_one_come_back() {
    let mut world = World::new(7);
    world.is_lossy = false;
    let later = world.now_ms + 1_000;
    world.run(later);
    world.join(2, 77);
    // Who is about to be taken for gone.
    world.there_since_ms.clear();
    let later = world.now_ms + 1_000;
    world.run(later);
    let is_known = |world: &World| world.pods[0].known.contains(&user(77).id);
    assert!(is_known(&world));
    world.pods[2].paused_until_ms = world.now_ms + 30_000;
    let later = world.now_ms + 21_000;
    world.run(later);
    assert!(!is_known(&world), "a pod that stands still is dead to the others");
    let later = world.now_ms + 16_000;
    world.run(later);
    assert!(is_known(&world), "and its people are back when it goes on");
    world.pods[2].paused_until_ms = u64::MAX;
    let later = world.now_ms + 21_000;
    world.run(later);
    assert!(!is_known(&world));
}
