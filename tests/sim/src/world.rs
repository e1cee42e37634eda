//! Everything at once: clients, connections, pods and the store, and one step after the other.
//!
//! In: a random generator. Out: a history, and what the clients show at its end.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use document::{
    Answer, Code, Command, ConnectionId, Document, Edit, Event, Form, Input, Join, Leaving, Mutation, Point, Refusal,
    ReplyId, Role, Settings, Snapshot, User, Version,
};
use ot::Delta;

use crate::{
    Options,
    client::{Broken, Client},
    pod::{Job, Pod},
    random::Random,
    store::Store,
    typing,
};

/// Small, so that short runs meet every bound.
const WINDOW: u64 = 6;
const TAIL: usize = 5;
pub(crate) const PODS: usize = 3;
pub(crate) const CLIENTS: usize = 4;

/// A message of a client.
#[derive(Debug, Clone)]
enum Sent {
    Join { version: Option<Version>, hash: Option<Arc<str>>, session: Option<Arc<str>>, seq: u64 },
    Edit { version: Version, session: Option<Arc<str>>, seq: u64, ops: Delta },
    Cursor { version: Version, index: usize },
    Leave,
}

/// A message to a client.
#[derive(Debug)]
enum Got {
    Event(Event),
    Edited { seq: u64, session: Option<Arc<str>>, answer: Result<Answer, Refusal> },
    JoinFailed,
}

#[derive(Debug)]
struct Connection {
    client: usize,
    pod: usize,
    sent: VecDeque<Sent>,
    got: VecDeque<Got>,
    /// The client has given it up; the pod has not noticed yet.
    left: bool,
    paused: bool,
    /// The pod has seen its first join.
    known: bool,
    early: Vec<Edit>,
}

#[derive(Debug, Clone)]
enum Asked {
    Edit { connection: ConnectionId, seq: u64, session: Option<Arc<str>> },
    Join { connection: ConnectionId },
}

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

/// The whole simulated system.
pub struct World {
    pub(crate) random: Random,
    pub(crate) store: Store,
    pub(crate) pods: Vec<Pod>,
    pub(crate) clients: Vec<Client>,
    pub(crate) counts: Counts,
    roles: Vec<Role>,
    connections: BTreeMap<ConnectionId, Connection>,
    /// The connection that each client uses.
    present: Vec<Option<ConnectionId>>,
    asked: BTreeMap<ReplyId, Asked>,
    settings: Settings,
    now_ms: u64,
    next: u64,
    tokens: u32,
    /// By token: the client and the number of the edit that carries it, and whether it was refused.
    pub(crate) edits: BTreeMap<u32, (usize, u64, bool)>,
    /// Acknowledged edits and the version that was said.
    pub(crate) saved: Vec<(usize, u64, Version)>,
    /// At the end nobody types and nothing fails any more.
    calm: bool,
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

    fn open(&self) -> Result<Document, Broken> {
        let (snapshot, tail) = self.store.open();
        let name = format!("pod{}", self.next).into();
        Document::open(self.settings.clone(), name, snapshot, tail, self.now_ms)
            .map_err(|error| Broken(format!("cannot open: {error}")))
    }

    fn type_something(&mut self, client: usize) -> Result<(), Broken> {
        if self.edits.len() >= 60 || self.clients[client].at.is_none() {
            return Ok(());
        }
        self.tokens += 1;
        let ops = typing::edit(&mut self.random, &self.clients[client].shown, self.tokens);
        let pending = self.clients[client].edit(ops)?;
        self.edits.insert(self.tokens, (client, pending.seq, false));
        self.counts.pipelined += usize::from(self.clients[client].pending.len() > 1);
        // A careless client sends under its old session while it is joining; that is dropped.
        if let Some(id) = self.present[client]
            && (self.clients[client].live || self.random.one_in(2))
        {
            let version = self.clients[client].at.as_ref().map_or(0, |at| at.version);
            let session = self.clients[client].session.clone();
            self.send(id, Sent::Edit { version, session, seq: pending.seq, ops: pending.ops });
        }
        Ok(())
    }

    fn move_cursor(&mut self, client: usize) {
        let index = self.random.below(self.clients[client].shown.length() + 1);
        if let (Some(id), Some(at), true) = (self.present[client], &self.clients[client].at, self.clients[client].live)
        {
            let version = at.version;
            self.send(id, Sent::Cursor { version, index });
        }
    }

    fn connect(&mut self, client: usize) {
        let pod = self.random.below(PODS);
        self.next += 1;
        let id = ConnectionId(self.next);
        let connection = Connection {
            client,
            pod,
            sent: VecDeque::new(),
            got: VecDeque::new(),
            left: false,
            paused: false,
            known: false,
            early: Vec::new(),
        };
        self.connections.insert(id, connection);
        self.present[client] = Some(id);
        self.clients[client].live = false;
        // Clients that flush what they kept, before or after their join: dropped, as they name an older session.
        let flush_first = self.random.one_in(3);
        let flush_after = self.random.one_in(3);
        if flush_first {
            self.flush(client, id);
        }
        self.send_join(client, id, true);
        if flush_after {
            self.flush(client, id);
        }
    }

    /// Sends part of what is not confirmed under the old session.
    fn flush(&mut self, client: usize, id: ConnectionId) {
        let editor = &self.clients[client];
        let Some(session) = editor.session.clone() else { return };
        let version = editor.at.as_ref().map_or(0, |at| at.version);
        let pending: Vec<_> = editor.pending.iter().cloned().collect();
        let from = self.random.below(pending.len() + 1);
        for edit in pending.into_iter().skip(from) {
            self.send(id, Sent::Edit { version, session: Some(session.clone()), seq: edit.seq, ops: edit.ops });
        }
    }

    fn send_join(&mut self, client: usize, id: ConnectionId, with_version: bool) {
        let editor = &mut self.clients[client];
        editor.live = false;
        let at = editor.at.clone().filter(|_| with_version);
        let join = Sent::Join {
            version: at.as_ref().map(|at| at.version),
            hash: at.map(|at| at.hash),
            session: editor.session.clone(),
            seq: editor.first_seq(),
        };
        self.send(id, join);
    }

    fn send(&mut self, id: ConnectionId, message: Sent) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sent.push_back(message);
        }
    }

    /// The client's side of a connection breaks; what it sent may still arrive, or part of it.
    fn disconnect(&mut self, client: usize) {
        let Some(id) = self.present[client].take() else { return };
        self.clients[client].live = false;
        let cut = self.random.one_in(2);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.left = true;
            connection.got.clear();
            if cut {
                let keep = self.random.below(connection.sent.len() + 1);
                connection.sent.truncate(keep);
            }
            connection.sent.push_back(Sent::Leave);
        }
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

    fn has_mail(&self, pod: usize) -> bool {
        self.connections
            .values()
            .any(|connection| connection.pod == pod && !connection.paused && !connection.sent.is_empty())
    }

    fn mail(&self, client: usize) -> bool {
        let connection = self.present[client].and_then(|id| self.connections.get(&id));
        connection.is_some_and(|connection| !connection.got.is_empty())
    }

    /// The pod reads one message of one of its connections.
    fn read_socket(&mut self, pod: usize) -> Result<(), Broken> {
        let ready: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.pod == pod && !connection.sent.is_empty())
            .filter(|(_, connection)| !connection.paused || connection.left)
            .map(|(id, _)| *id)
            .collect();
        let Some(id) = ready.get(self.random.below(ready.len())).copied() else { return Ok(()) };
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some(message) = connection.sent.pop_front() else { return Ok(()) };
        let client = connection.client;
        self.next += 1;
        let reply = ReplyId(self.next);
        match message {
            Sent::Join { version, hash, session, seq } => {
                connection.known = true;
                let early = std::mem::take(&mut connection.early);
                self.asked.insert(reply, Asked::Join { connection: id });
                let name: Arc<str> = format!("u{client}").into();
                let join = Join {
                    connection: id,
                    user: User { id: name.clone(), name, avatar: None },
                    client_id: self.clients[client].id.clone(),
                    form: if client == 0 { Form::Quill } else { Form::Delta },
                    version,
                    hash,
                    last_session: session,
                    seq: Some(seq),
                    session: format!("s{}", self.next).into(),
                    early,
                    reply: Some(reply),
                };
                self.input(pod, Input::Join(join))
            }
            Sent::Edit { version, session, seq, ops } => {
                self.asked.insert(reply, Asked::Edit { connection: id, seq, session: session.clone() });
                let edit = Edit { connection: id, version, ops, seq: Some(seq), session, reply: Some(reply) };
                if connection.known {
                    self.input(pod, Input::Edit(edit))
                } else {
                    // The gateway keeps those without a session for the join and drops the others.
                    if edit.session.is_none() {
                        connection.early.push(edit);
                    }
                    Ok(())
                }
            }
            Sent::Cursor { version, index } => {
                let position = Some(document::Position::Range { index, length: 0 });
                self.input(pod, Input::Cursor { connection: id, version: Some(version), position, reply: None })
            }
            Sent::Leave => {
                self.connections.remove(&id);
                let how = if self.random.one_in(2) { Leaving::Said } else { Leaving::Lost };
                self.input(pod, Input::Leave { connection: id, how, reply: None })
            }
        }
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
                _ => {}
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
    fn input(&mut self, pod: usize, input: Input) -> Result<(), Broken> {
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

    fn answer(&mut self, to: ConnectionId, reply: Option<ReplyId>, answer: Result<Answer, Refusal>) {
        match reply.and_then(|reply| self.asked.remove(&reply)) {
            Some(Asked::Edit { connection, seq, session }) => {
                if let (Ok(Answer::Version(version)), Some(connection)) = (&answer, self.connections.get(&connection)) {
                    self.saved.push((connection.client, seq, *version));
                }
                self.give(connection, Got::Edited { seq, session, answer });
            }
            Some(Asked::Join { connection }) if answer.is_err() => self.give(connection, Got::JoinFailed),
            Some(Asked::Join { .. }) => {}
            None => {
                if let Err(refusal) = answer {
                    self.give(to, Got::Event(Event::Error(refusal)));
                }
            }
        }
    }

    fn give(&mut self, id: ConnectionId, got: Got) {
        if let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.left) {
            connection.got.push_back(got);
        }
    }

    /// A client reads one message.
    fn hear(&mut self, client: usize) -> Result<(), Broken> {
        let Some(id) = self.present[client] else { return Ok(()) };
        let got = self.connections.get_mut(&id).and_then(|connection| connection.got.pop_front());
        match got {
            None => Ok(()),
            Some(Got::JoinFailed) => {
                self.send_join(client, id, true);
                Ok(())
            }
            Some(Got::Edited { answer: Ok(_), .. }) => Ok(()),
            Some(Got::Edited { seq, session, answer: Err(refusal) }) => {
                if session != self.clients[client].session || !self.clients[client].live {
                    return Ok(());
                }
                self.counts.refused += 1;
                let drop = matches!(
                    refusal.code,
                    Code::BadRequest | Code::OpInvalid | Code::ReadOnly | Code::DocumentTooLarge
                );
                if drop {
                    for edit in self.edits.values_mut().filter(|edit| edit.0 == client && edit.1 == seq) {
                        edit.2 = true;
                    }
                    self.clients[client].on_refused(seq)?;
                }
                self.send_join(client, id, true);
                Ok(())
            }
            Some(Got::Event(Event::Edit(entry))) => self.clients[client].on_edit(&entry),
            Some(Got::Event(Event::EditCommitted { at, seq, .. })) => self.clients[client].on_committed(&at, seq),
            Some(Got::Event(Event::Rejoin)) => {
                self.send_join(client, id, false);
                Ok(())
            }
            Some(Got::Event(Event::DocumentJoined(joined))) => {
                match joined.content {
                    document::JoinedContent::Edits(_) => self.counts.by_entries += 1,
                    _ => self.counts.by_content += 1,
                }
                self.clients[client].on_joined(&joined)?;
                self.resend(client, id);
                Ok(())
            }
            Some(Got::Event(_)) => Ok(()),
        }
    }

    fn resend(&mut self, client: usize, id: ConnectionId) {
        let editor = &self.clients[client];
        let version = editor.at.as_ref().map_or(0, |at| at.version);
        let session = editor.session.clone();
        for edit in editor.pending.clone() {
            self.send(id, Sent::Edit { version, session: session.clone(), seq: edit.seq, ops: edit.ops });
        }
    }

    pub(crate) fn mutation(&self) -> Mutation {
        self.settings.mutation
    }
}
