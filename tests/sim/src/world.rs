//! Everything at once: clients, connections, pods and the store, and one step after the other.
//!
//! In: a random generator. Out: a history, and what the clients show at its end.

use std::collections::BTreeMap;

use document::{Command, ConnectionId, Document, Event, Input, Point, ReplyId, Role, Settings, Snapshot, Version};
use ot::Delta;

use crate::{
    Options,
    client::{Broken, Client},
    pod::{Job, Pod},
    random::Random,
    sockets::{Asked, Connection, Got},
    store::Store,
};

/// Small, so that short runs meet every bound.
const WINDOW: u64 = 6;
const TAIL: usize = 5;
pub(crate) const PODS: usize = 3;
pub(crate) const CLIENTS: usize = 4;

/// What was exercised.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Joins answered by entries.
    pub by_entries: usize,
    /// Joins answered by content.
    pub by_content: usize,
    /// `rejoin` events.
    pub rejoins: usize,
    /// Edits refused.
    pub refused: usize,
    /// Edits sent while others were unconfirmed.
    pub pipelined: usize,
    /// Entries that did not apply to the version before them as they were.
    pub folded: usize,
    /// Duplicates that the store noticed.
    pub duplicates: usize,
    /// Entries refused as too far behind.
    pub behind: usize,
    /// Documents opened anew.
    pub reopened: usize,
}

/// An edit that a user made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Typed {
    pub(crate) client: usize,
    pub(crate) seq: u64,
    /// It carries its token.
    pub(crate) inserts: bool,
    /// It was refused, so that its number stands for an edit that does nothing.
    pub(crate) refused: bool,
}

/// The whole simulated system.
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) store: Store,
    pub(crate) pods: Vec<Pod>,
    pub(crate) clients: Vec<Client>,
    pub(crate) counts: Counts,
    pub(crate) roles: Vec<Role>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// The connection that each client uses.
    pub(crate) present: Vec<Option<ConnectionId>>,
    pub(crate) asked: BTreeMap<ReplyId, Asked>,
    pub(crate) settings: Settings,
    pub(crate) now_ms: u64,
    pub(crate) next: u64,
    pub(crate) tokens: u32,
    /// By token.
    pub(crate) edits: BTreeMap<u32, Typed>,
    /// Acknowledged edits and the version that was said.
    pub(crate) saved: Vec<(usize, u64, Version)>,
    /// At the end nobody types and nothing fails any more.
    pub(crate) calm: bool,
}

impl World {
    pub(crate) fn new(seed: u64, options: &Options) -> Result<Self, Broken> {
        let mut random = Random::new(seed);
        let settings = Settings {
            max_document_bytes: 150 + random.below(150),
            window_entries: WINDOW as usize,
            snapshot_tail_entries: 3 + random.below(8),
            batch_entries: 3,
            held_edits: 4,
            behind_entries: 12,
            mutation: options.mutation,
            ..Settings::default()
        };
        let seed = Snapshot {
            at: Point { version: 0, hash: "0".into() },
            content: Delta::new().insert("abc", None),
            window: Vec::new(),
        };
        let mut store = Store::new(seed, WINDOW, TAIL);
        store.dedupe = !options.drop_dedupe;
        let mut roles = vec![Role::Write; CLIENTS];
        if random.one_in(4) {
            roles[CLIENTS - 1] = if random.one_in(2) { Role::Read } else { Role::Comment };
        }
        let mut world = Self {
            random,
            store,
            pods: Vec::new(),
            clients: (0..CLIENTS).map(|index| Client::new(&format!("c{index}"))).collect(),
            counts: Counts::default(),
            roles,
            connections: BTreeMap::new(),
            present: vec![None; CLIENTS],
            asked: BTreeMap::new(),
            settings,
            now_ms: 1_000,
            next: 0,
            tokens: 0,
            edits: BTreeMap::new(),
            saved: Vec::new(),
            calm: false,
        };
        for _ in 0..PODS {
            let document = world.open()?;
            world.pods.push(Pod::new(document));
        }
        for client in 0..CLIENTS {
            world.connect(client);
        }
        Ok(world)
    }

    /// One random step.
    pub(crate) fn step(&mut self) -> Result<(), Broken> {
        let client = self.random.below(CLIENTS);
        let pod = self.random.below(PODS);
        self.now_ms += self.random.below(300) as u64;
        if self.random.one_in(200) {
            self.now_ms += 31_000;
        }
        match self.random.below(100) {
            0..22 => self.type_something(client)?,
            22..44 => self.read_socket(pod)?,
            44..58 => self.work(pod)?,
            58..70 => self.reply(pod)?,
            70..75 => self.deliver_publish(pod)?,
            75..91 => self.hear(client)?,
            91..93 => self.disconnect(client),
            93..95 if self.present[client].is_none() => self.connect(client),
            95 => self.crash(pod)?,
            96 => self.toggle_store(pod)?,
            97 => self.move_cursor(client),
            _ => self.input(pod, Input::Tick)?,
        }
        Ok(())
    }

    /// Lets everything finish, with nobody typing and nothing failing.
    pub(crate) fn settle(&mut self) -> Result<(), Broken> {
        self.calm = true;
        for round in 0..600 {
            self.now_ms += 200;
            let mut busy = false;
            for pod in 0..PODS {
                if self.pods[pod].away {
                    self.toggle_store(pod)?;
                }
                while self.has_mail(pod) {
                    self.read_socket(pod)?;
                    busy = true;
                }
                while !self.pods[pod].is_quiet() {
                    self.work(pod)?;
                    self.reply(pod)?;
                    self.deliver_publish(pod)?;
                    busy = true;
                }
                self.input(pod, Input::Hint(self.store.version()))?;
                self.input(pod, Input::Tick)?;
            }
            for client in 0..CLIENTS {
                if self.present[client].is_none() {
                    self.connect(client);
                    busy = true;
                }
                while self.mail(client) {
                    self.hear(client)?;
                    busy = true;
                }
            }
            let behind = self.pods.iter().any(|pod| pod.document.head().version != self.store.version());
            let waiting = self.clients.iter().any(|client| !client.live || !client.pending.is_empty());
            if behind && round % 8 == 7 {
                // A pod that waits for what is trimmed gives up after some seconds.
                self.now_ms += 6_000;
            }
            if !busy && !behind && !waiting {
                return Ok(());
            }
            if !busy && waiting && round % 4 == 3 {
                for client in 0..CLIENTS {
                    if !self.clients[client].live || !self.clients[client].pending.is_empty() {
                        self.disconnect(client);
                    }
                }
            }
        }
        let clients: Vec<_> = self.clients.iter().map(|c| (&c.id, c.live, c.pending.len(), c.seq, &c.at)).collect();
        let pods: Vec<_> = self.pods.iter().map(|pod| (pod.document.head().version, pod.is_quiet())).collect();
        Err(Broken(format!("does not come to rest at {}: {clients:?} {pods:?}", self.store.version())))
    }

    pub(crate) fn open(&self) -> Result<Document, Broken> {
        let (snapshot, tail) = self.store.open();
        let name = format!("pod{}", self.next).into();
        Document::open(self.settings.clone(), name, snapshot, tail, self.now_ms)
            .map_err(|error| Broken(format!("cannot open: {error}")))
    }

    fn crash(&mut self, pod: usize) -> Result<(), Broken> {
        // A commit call that was on its way may have arrived.
        for job in std::mem::take(&mut self.pods[pod].jobs) {
            if let Job::Commit(batch) = job
                && self.random.one_in(2)
            {
                self.commit(&batch);
            }
        }
        let gone: Vec<_> =
            self.connections.iter().filter(|(_, connection)| connection.pod == pod).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(connection) = self.connections.remove(&id)
                && self.present[connection.client] == Some(id)
            {
                self.present[connection.client] = None;
                self.clients[connection.client].live = false;
            }
        }
        self.next += 1;
        self.pods[pod] = Pod::new(self.open()?);
        Ok(())
    }

    fn toggle_store(&mut self, pod: usize) -> Result<(), Broken> {
        let away = !self.pods[pod].away && !self.calm;
        self.pods[pod].away = away;
        self.input(pod, Input::StoreAway(away))
    }

    /// The store carries out one job of a pod.
    fn work(&mut self, pod: usize) -> Result<(), Broken> {
        if self.pods[pod].away || self.pods[pod].jobs.is_empty() {
            return Ok(());
        }
        let index = self.random.below(self.pods[pod].jobs.len());
        let Some(job) = self.pods[pod].jobs.remove(index) else { return Ok(()) };
        let reply = match job {
            Job::Lookup { connection, clients, after } => {
                let client = self.connections.get(&connection).map_or(0, |connection| connection.client);
                let lookup = self.store.lookup(self.roles[client], &clients, after.version);
                Input::LookedUp { connection, result: Ok(lookup) }
            }
            Job::Commit(batch) => {
                let before = self.commit(&batch);
                if !self.calm && self.random.one_in(8) {
                    // The reply is lost: the pod asks again.
                    self.pods[pod].jobs.push_back(Job::Commit(batch));
                    return Ok(());
                }
                Input::Committed(before)
            }
            Job::Fetch { after } => Input::Learned(self.store.after(after.version).0),
            Job::Save(snapshot) => {
                self.store.save(&snapshot);
                Input::Saved(snapshot.at.version)
            }
        };
        self.pods[pod].replies.push_back(reply);
        Ok(())
    }

    /// Runs the commit script and publishes what it appended.
    fn commit(&mut self, batch: &document::Batch) -> document::CommitReply {
        let before = self.store.version();
        let reply = self.store.commit(batch);
        for verdict in &reply.verdicts {
            match verdict {
                document::Verdict::Dup(_) => self.counts.duplicates += 1,
                document::Verdict::Behind => self.counts.behind += 1,
                document::Verdict::Ok(_) | document::Verdict::Gap(_) | document::Verdict::Overloaded => {}
            }
        }
        let appended: Vec<_> = self.store.all.iter().skip(before as usize).cloned().collect();
        self.counts.folded += appended.iter().filter(|logged| logged.entry.base + 1 < logged.at.version).count();
        if let Some(last) = appended.last() {
            for other in 0..self.pods.len() {
                match self.random.below(8) {
                    0 => {}
                    1 => self.pods[other].published.push_back(Input::Hint(last.at.version)),
                    _ => self.pods[other].published.push_back(Input::Learned(appended.clone())),
                }
            }
        }
        reply
    }

    fn reply(&mut self, pod: usize) -> Result<(), Broken> {
        let index = self.random.below(self.pods[pod].replies.len());
        match self.pods[pod].replies.remove(index) {
            Some(reply) => self.input(pod, reply),
            None => Ok(()),
        }
    }

    fn deliver_publish(&mut self, pod: usize) -> Result<(), Broken> {
        match self.pods[pod].published.pop_front() {
            Some(published) => self.input(pod, published),
            None => Ok(()),
        }
    }

    /// Hands an input to a pod's document and carries out what comes of it.
    pub(crate) fn input(&mut self, pod: usize, input: Input) -> Result<(), Broken> {
        for command in self.pods[pod].document.handle(input, self.now_ms) {
            match command {
                Command::Send { to, event } => {
                    self.counts.rejoins += if event == Event::Rejoin { to.len() } else { 0 };
                    for id in to {
                        self.give(id, Got::Event(event.clone()));
                    }
                }
                Command::Answer { to, reply, answer } => self.answer(to, reply, answer),
                Command::Lookup { connection, clients, after, .. } => {
                    self.pods[pod].jobs.push_back(Job::Lookup { connection, clients, after });
                }
                Command::Commit(batch) => self.pods[pod].jobs.push_back(Job::Commit(batch)),
                Command::Fetch { after } => self.pods[pod].jobs.push_back(Job::Fetch { after }),
                Command::Save(snapshot) => self.pods[pod].jobs.push_back(Job::Save(snapshot)),
                Command::Publish(peer) => {
                    for other in (0..self.pods.len()).filter(|other| *other != pod) {
                        self.pods[other].published.push_back(Input::Peer(peer.clone()));
                    }
                }
                Command::WritePresence(_) => {}
                Command::PauseReading { connection, pause } => {
                    if let Some(connection) = self.connections.get_mut(&connection) {
                        connection.paused = pause;
                    }
                }
                Command::Reopen => {
                    self.counts.reopened += 1;
                    let away = self.pods[pod].away;
                    let jobs = std::mem::take(&mut self.pods[pod].jobs);
                    self.next += 1;
                    // Calls of the old copy are no longer answered, but may arrive.
                    for job in jobs {
                        if let Job::Commit(batch) = job
                            && self.random.one_in(2)
                        {
                            self.commit(&batch);
                        }
                    }
                    self.pods[pod] = Pod::new(self.open()?);
                    if away {
                        self.toggle_store(pod)?;
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
