//! Pods, their clients, a store that can lose its end, and the calls between them.
//!
//! In: what is to happen next, by name or at random. Out: the log, the pods' documents and what their clients were told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Arc,
};

use document::{
    Answer, Batch, ClientRow, Command, CommitReply, ConnectionId, Document, Edit, Entry, Event, Form, Identity, Input,
    Join, Logged, Lookup, Point, ReplyId, Role, Settings, Snapshot, User, Verdict, Version,
};
use ot::Delta;

use crate::PODS;

#[derive(Debug, Clone)]
pub(crate) enum Job {
    Lookup(ConnectionId, Vec<Arc<str>>, Point),
    Commit(Batch),
    Fetch(Point),
    Save(Version),
    Durable(u64),
}

pub(crate) struct Pod {
    pub(crate) document: Document,
    pub(crate) connection: ConnectionId,
    pub(crate) client: String,
    pub(crate) seq: u64,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) replies: VecDeque<Input>,
    pub(crate) joined: Vec<ConnectionId>,
    pub(crate) rejoins: u32,
}

pub(crate) struct World {
    pub(crate) random: u64,
    pub(crate) settings: Settings,
    pub(crate) log: Vec<Logged>,
    /// Entries that the snapshot has, which pods find that open the document.
    pub(crate) stored: usize,
    pub(crate) pods: Vec<Pod>,
    pub(crate) next: u64,
    pub(crate) answers: Vec<(u64, Result<Version, ()>)>,
    /// What must be in the log at the end: identities of what a living pod had when it noticed.
    pub(crate) owed: BTreeSet<Identity>,
    pub(crate) tokens: BTreeMap<Identity, char>,
    pub(crate) met: BTreeMap<&'static str, u32>,
    pub(crate) hold_durable: bool,
    /// Counts of gateways up to this version are not known any more.
    pub(crate) forgotten: Version,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, Settings::default())
    }

    pub(crate) fn with(seed: u64, settings: Settings) -> Self {
        let mut world = Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            settings,
            log: Vec::new(),
            stored: 0,
            pods: Vec::new(),
            next: 100,
            answers: Vec::new(),
            owed: BTreeSet::new(),
            tokens: BTreeMap::new(),
            met: BTreeMap::new(),
            hold_durable: false,
            forgotten: 0,
        };
        world.pods = (0..PODS).map(|pod| world.fresh(pod)).collect();
        for pod in 0..PODS {
            let id = world.pods[pod].connection;
            world.join(pod, id.0);
        }
        world
    }

    pub(crate) fn below(&mut self, most: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % most.max(1)
    }

    pub(crate) fn play(&mut self) {
        self.run_all();
        for _ in 0..(1 + self.below(2)) {
            for _ in 0..20 + self.below(40) {
                let pod = self.below(PODS);
                match self.below(5) {
                    0 | 1 => self.edit(pod, true),
                    2 => self.edit(pod, false),
                    _ => self.work(pod),
                }
            }
            // What the old primary still answers arrives when the new one is there.
            let lost = 1 + self.below(8);
            if self.below(3) == 0 {
                let pod = self.below(PODS);
                self.carry_out(pod);
                *self.met.entry("late").or_default() += 1;
            }
            self.lose(lost);
            for _ in 0..self.below(60) {
                let pod = self.below(PODS);
                match self.below(12) {
                    0 => self.edit(pod, true),
                    1 => self.ask(pod),
                    2 if self.below(12) == 0 => self.crash(pod),
                    3 if self.below(20) == 0 => {
                        let lost = 1 + self.below(3);
                        *self.met.entry("failed again").or_default() += 1;
                        self.lose(lost);
                    }
                    _ => self.work(pod),
                }
            }
        }
        for _ in 0..3 {
            (0..PODS).for_each(|pod| self.ask(pod));
            self.run_all();
        }
        self.check();
    }

    pub(crate) fn check(&self) {
        let in_log: Vec<_> = self.log.iter().map(|logged| logged.entry.identity.clone()).collect();
        let unique: BTreeSet<_> = in_log.iter().cloned().collect();
        assert_eq!(in_log.len(), unique.len(), "an edit is in the log twice");
        let missing: Vec<_> = self.owed.difference(&unique).collect();
        assert!(missing.is_empty(), "not put back: {missing:?}");
        let whole = self.whole();
        let text = whole.content().plain_text();
        for (identity, token) in &self.tokens {
            let times = text.chars().filter(|found| found == token).count();
            assert_eq!(times, usize::from(unique.contains(identity)), "{identity:?}");
        }
        for pod in &self.pods {
            assert_eq!(pod.document.missing(), 0);
            assert_eq!(pod.document.head(), whole.head());
            assert_eq!(pod.document.content(), whole.content());
        }
    }

    /// What this call of a client was answered.
    pub(crate) fn answers_to(&self, reply: u64) -> Vec<Result<Version, ()>> {
        self.answers.iter().filter(|(answered, _)| *answered == reply).map(|(_, answer)| *answer).collect()
    }

    /// The document as the log has it.
    pub(crate) fn whole(&self) -> Document {
        Document::open(self.settings.clone(), "all".into(), start(), self.log.clone(), 0).expect("it opens")
    }

    /// The call that this pod is about to make, taken out of its hands.
    pub(crate) fn take_commit(&mut self, pod: usize) -> Batch {
        let jobs = &mut self.pods[pod].jobs;
        let place = jobs.iter().position(|job| matches!(job, Job::Commit(_))).expect("a commit");
        match jobs.remove(place) {
            Some(Job::Commit(batch)) => batch,
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) fn fresh(&mut self, pod: usize) -> Pod {
        self.next += 1;
        let document =
            Document::open(self.settings.clone(), format!("p{}", self.next).into(), start(), self.log.clone(), 0);
        Pod {
            document: document.expect("it opens"),
            connection: ConnectionId(self.next),
            client: format!("c{pod}-{}", self.next),
            seq: 0,
            jobs: VecDeque::new(),
            replies: VecDeque::new(),
            joined: Vec::new(),
            rejoins: 0,
        }
    }

    pub(crate) fn join(&mut self, pod: usize, id: u64) {
        self.next += 1;
        let name: Arc<str> = self.pods[pod].client.clone().into();
        let client_id = if id == self.pods[pod].connection.0 { name.clone() } else { format!("c{id}").into() };
        let join = Join {
            connection: ConnectionId(id),
            user: User { id: name.clone(), name, avatar: None },
            client_id,
            form: Form::Text,
            version: None,
            hash: None,
            last_session: None,
            seq: None,
            session: format!("s{}", self.next).into(),
            early: Vec::new(),
            reply: None,
        };
        self.input(pod, Input::Join(join));
    }

    pub(crate) fn edit(&mut self, pod: usize, numbered: bool) {
        self.next += 1;
        let token = char::from_u32(0x4e00 + self.next as u32).expect("a character");
        let to = &mut self.pods[pod];
        if !to.joined.contains(&to.connection) || (!numbered && to.seq > 0) {
            return;
        }
        if numbered {
            to.seq += 1;
        }
        let seq = numbered.then_some(to.seq);
        if let Some(seq) = seq {
            let identity = Identity { id: to.client.clone().into(), seq, by_gateway: false };
            self.tokens.insert(identity, token);
        }
        self.send(pod, seq, token);
    }

    pub(crate) fn send(&mut self, pod: usize, seq: Option<u64>, token: char) {
        let (place, to) = (self.below(12), &self.pods[pod]);
        let (connection, version) = (to.connection, to.document.head().version);
        let ops = Delta::new().retain(place, None).insert(&token.to_string(), None);
        let reply = seq.map(ReplyId);
        self.input(pod, Input::Edit(Edit { connection, version, ops, unreadable: None, seq, session: None, reply }));
    }

    /// The pod looks into the log by itself.
    pub(crate) fn ask(&mut self, pod: usize) {
        let head = self.pods[pod].document.head().clone();
        self.pods[pod].jobs.push_back(Job::Fetch(head));
    }

    pub(crate) fn crash(&mut self, pod: usize) {
        if self.pods[pod].document.missing() > 0 {
            *self.met.entry("died healing").or_default() += 1;
        }
        self.pods[pod] = self.fresh(pod);
        // Nobody owes what only the dead one had.
        let held: BTreeSet<_> = self.pods.iter().flat_map(|pod| held(&pod.document)).collect();
        let logged: BTreeSet<_> = self.log.iter().map(|logged| logged.entry.identity.clone()).collect();
        self.owed.retain(|identity| held.contains(identity) || logged.contains(identity));
        let id = self.pods[pod].connection;
        self.join(pod, id.0);
    }

    /// The primary is lost, and the last entries with it.
    pub(crate) fn lose(&mut self, entries: usize) {
        let left = self.log.len().saturating_sub(entries);
        if left < self.log.len() {
            *self.met.entry("lost").or_default() += 1;
        }
        self.log.truncate(left);
        for pod in &self.pods {
            self.owed.extend(held(&pod.document));
        }
        // Whatever the script has not been asked yet will be answered by the new primary.
    }

    pub(crate) fn work(&mut self, pod: usize) {
        if self.below(2) == 0 {
            self.carry_out(pod);
        } else if let Some(reply) = self.pods[pod].replies.pop_front() {
            self.input(pod, reply);
        }
    }

    /// The store answers this pod's lookups.
    pub(crate) fn carry_out_all_lookups(&mut self, pod: usize) {
        let is_lookup = |job: &Job| matches!(job, Job::Lookup(..));
        self.pods[pod].jobs.make_contiguous().sort_by_key(|job| !is_lookup(job));
        while self.pods[pod].jobs.front().is_some_and(is_lookup) {
            self.carry_out(pod);
        }
        for reply in std::mem::take(&mut self.pods[pod].replies) {
            self.input(pod, reply);
        }
    }

    pub(crate) fn carry_out(&mut self, pod: usize) {
        let Some(job) = self.pods[pod].jobs.pop_front() else { return };
        if self.hold_durable && matches!(job, Job::Durable(_)) {
            return;
        }
        let reply = match job.clone() {
            Job::Lookup(connection, clients, after) => match self.after(&after) {
                None => Input::Forked,
                Some(tail) => {
                    let rows = clients.iter().filter_map(|id| self.row(id)).collect();
                    Input::LookedUp { connection, result: Ok(Lookup { role: Role::Write, rows, tail, more: false }) }
                }
            },
            Job::Fetch(after) => self.after(&after).map_or(Input::Forked, Input::Learned),
            Job::Save(version) => Input::Saved(version),
            Job::Durable(ticket) => Input::Durable { ticket },
            Job::Commit(batch) => {
                let reply = self.commit(&batch);
                if self.below(6) == 0 {
                    // The answer is lost: the pod asks again.
                    self.pods[pod].jobs.push_front(job);
                    return;
                }
                Input::Committed(reply)
            }
        };
        self.pods[pod].replies.push_back(reply);
    }

    pub(crate) fn commit(&mut self, batch: &Batch) -> CommitReply {
        if self.after(&batch.head).is_none() {
            return CommitReply { verdicts: Vec::new(), tail: Vec::new(), more: false, forked: true };
        }
        let before = self.log.len() as Version;
        let verdicts = batch.entries.iter().map(|entry| self.append(entry, batch.head.version, before)).collect();
        let tail = self.after(&batch.head).expect("a point of the log");
        CommitReply { verdicts, tail, more: false, forked: false }
    }

    /// `before`: the newest version when the call began.
    pub(crate) fn append(&mut self, entry: &Entry, head: Version, before: Version) -> Verdict {
        let (last_seq, version) = self.last(&entry.identity);
        if entry.identity.seq <= last_seq {
            return Verdict::Dup(version);
        }
        if entry.base > head && (before > head || entry.base != self.log.len() as Version) {
            return Verdict::Behind;
        }
        if entry.identity.seq > last_seq + 1 {
            return Verdict::Gap(last_seq);
        }
        let version = self.log.len() as Version + 1;
        let mut hasher = DefaultHasher::new();
        (self.log.last().map_or("h0", |logged| &logged.at.hash), format!("{entry:?}")).hash(&mut hasher);
        self.log.push(Logged {
            at: Point { version, hash: format!("{:x}", hasher.finish()).into() },
            entry: entry.clone(),
        });
        Verdict::Ok(version)
    }

    pub(crate) fn last(&self, identity: &Identity) -> (u64, Version) {
        let own = |logged: &&Logged| {
            let found = &logged.entry.identity;
            let is_forgotten = found.by_gateway && logged.at.version <= self.forgotten;
            found.id == identity.id && found.by_gateway == identity.by_gateway && !is_forgotten
        };
        let last = self.log.iter().rev().find(own);
        last.map_or((0, 0), |logged| (logged.entry.identity.seq, logged.at.version))
    }

    pub(crate) fn row(&self, id: &Arc<str>) -> Option<ClientRow> {
        let (last_seq, version) = self.last(&Identity { id: id.clone(), seq: 0, by_gateway: false });
        (last_seq > 0).then(|| ClientRow { client_id: id.clone(), owner: id.clone(), last_seq, version })
    }

    pub(crate) fn after(&self, point: &Point) -> Option<Vec<Logged>> {
        let is_there = match point.version.checked_sub(1) {
            None => *point.hash == *"h0",
            Some(index) => self.log.get(index as usize).is_some_and(|logged| logged.at == *point),
        };
        is_there.then(|| self.log.iter().skip(point.version as usize).cloned().collect())
    }

    pub(crate) fn input(&mut self, pod: usize, input: Input) {
        let mut again = Vec::new();
        for command in self.pods[pod].document.handle(input, 1_000) {
            let to = &mut self.pods[pod];
            match command {
                Command::Lookup { connection, clients, after, .. } => {
                    to.jobs.push_back(Job::Lookup(connection, clients, after));
                }
                Command::Commit(batch) => to.jobs.push_back(Job::Commit(batch)),
                Command::Fetch { after } => to.jobs.push_back(Job::Fetch(after)),
                Command::Save(snapshot) => to.jobs.push_back(Job::Save(snapshot.at.version)),
                Command::MakeDurable { ticket, .. } => to.jobs.push_back(Job::Durable(ticket)),
                Command::WritePresence(_) => to.replies.push_back(Input::PresenceWritten(true)),
                Command::ReadPresence => to.replies.push_back(Input::PresenceUnread),
                Command::Send { to: ids, event } => match event {
                    Event::DocumentJoined(joined) => {
                        to.joined.extend(&ids);
                        if ids.contains(&to.connection) {
                            // What is not in the log is sent again under its number.
                            again = (joined.last_seq + 1..=to.seq).collect();
                        }
                    }
                    Event::Rejoin => {
                        to.rejoins += 1;
                        to.joined.retain(|joined| !ids.contains(joined));
                        for id in ids {
                            self.rejoin_later(pod, id);
                        }
                    }
                    _ => {}
                },
                Command::Answer { reply: Some(reply), answer, .. } => {
                    let answer = answer.map(|answer| if let Answer::Version(version) = answer { version } else { 0 });
                    self.answers.push((reply.0, answer.map_err(|_| ())));
                }
                Command::GivenUp { edits } => *self.met.entry("given up").or_default() += edits as u32,
                Command::Reopen => self.reopen(pod),
                _ => {}
            }
        }
        for seq in again {
            let id: Arc<str> = self.pods[pod].client.clone().into();
            let token = self.tokens[&Identity { id, seq, by_gateway: false }];
            self.send(pod, Some(seq), token);
        }
    }

    pub(crate) fn rejoin_later(&mut self, pod: usize, id: ConnectionId) {
        let name: Arc<str> = self.pods[pod].client.clone().into();
        self.next += 1;
        let join = Join {
            connection: id,
            user: User { id: name.clone(), name: name.clone(), avatar: None },
            client_id: name,
            form: Form::Text,
            version: None,
            hash: None,
            last_session: Some("over".into()),
            seq: Some(self.pods[pod].seq + 1),
            session: format!("s{}", self.next).into(),
            early: Vec::new(),
            reply: None,
        };
        self.pods[pod].replies.push_back(Input::Join(join));
    }

    pub(crate) fn reopen(&mut self, pod: usize) {
        let to = &mut self.pods[pod];
        to.jobs.clear();
        to.replies.retain(|reply| matches!(reply, Input::Join(_)));
        let (folded, tail) = self.log.split_at(self.stored);
        let whole = Document::open(self.settings.clone(), "all".into(), start(), folded.to_vec(), 0).expect("it opens");
        let snapshot = Snapshot { at: whole.head().clone(), content: whole.content(), window: Vec::new() };
        let reopened = to.document.open_again(snapshot, tail.to_vec(), 1_000).expect("it opens");
        for (what, count) in [("put back", reopened.missing), ("found", reopened.found)] {
            if count > 0 {
                *self.met.entry(what).or_default() += 1;
            }
        }
        if self.pods.iter().filter(|pod| pod.document.missing() > 0).count() > 1 {
            *self.met.entry("two healers").or_default() += 1;
        }
        if reopened.found > 0 && reopened.missing > 0 {
            *self.met.entry("out of order").or_default() += 1;
        }
        let remembers_all = self.settings.window_entries == Settings::default().window_entries;
        assert!(reopened.given_up == 0 || !remembers_all, "{reopened:?}");
        self.input(pod, Input::Tick);
    }

    pub(crate) fn run_all_but_durable(&mut self) {
        self.hold_durable = true;
        self.run_all();
        self.hold_durable = false;
    }

    pub(crate) fn run_all(&mut self) {
        for _ in 0..10_000 {
            let busy: Vec<_> = (0..PODS)
                .filter(|pod| !self.pods[*pod].jobs.is_empty() || !self.pods[*pod].replies.is_empty())
                .collect();
            if busy.is_empty() {
                return;
            }
            for pod in busy {
                self.carry_out(pod);
                if let Some(reply) = self.pods[pod].replies.pop_front() {
                    self.input(pod, reply);
                }
            }
        }
        panic!("it does not come to rest");
    }
}

pub(crate) fn start() -> Snapshot {
    let content = Delta::new().insert("an old document", None);
    Snapshot { at: Point { version: 0, hash: "h0".into() }, content, window: Vec::new() }
}

/// Identities of all that this copy has learned.
pub(crate) fn held(document: &Document) -> BTreeSet<Identity> {
    document.recent().map(|entry| entry.identity.clone()).collect()
}
