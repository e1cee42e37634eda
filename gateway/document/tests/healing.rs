//! A primary that is lost takes the end of the log with it; pods that have it put it back.
//!
//! Random schedules: pods with one client each write into one log, the log loses its tail, answers of the old primary
//! come late, calls are answered late or twice, pods die in the middle. At the end everything that a pod had when it
//! noticed is in the log, once, and all copies are equal.
//! `HEAL_SEED=7` plays one run again, `HEAL_RUNS` more of them.

#![allow(clippy::wildcard_enum_match_arm, clippy::expect_used, reason = "tests look for one variant among many")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Arc,
};

use document::{
    Answer, Batch, ClientRow, Command, CommitReply, ConnectionId, Document, Edit, Entry, Event, Form, Identity, Input,
    Join, Leaving, Logged, Lookup, Point, ReplyId, Role, Settings, Snapshot, User, Verdict, Version,
};
use ot::Delta;

const RUNS: u64 = 1_500;
const PODS: usize = 3;

#[test]
fn whatever_a_pod_still_holds_is_put_back_once_and_all_copies_are_equal() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("HEAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("HEAL_RUNS").unwrap_or(RUNS),
    };
    let mut met = BTreeMap::<&str, u32>::new();
    for seed in seeds {
        let mut world = World::new(seed);
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.play()));
        assert!(played.is_ok(), "HEAL_SEED={seed}");
        for (what, count) in world.met {
            *met.entry(what).or_default() += count;
        }
    }
    eprintln!("{met:?}");
    for what in ["lost", "put back", "found", "late", "two healers", "died healing", "out of order", "failed again"] {
        assert!(
            std::env::var_os("HEAL_SEED").is_some() || met.get(what).is_some_and(|count| *count > 0),
            "no {what}: {met:?}"
        );
    }
}

#[test]
fn an_acknowledgement_that_waits_comes_when_its_edit_is_put_back() {
    let mut world = World::with(1, Settings { durable_acks: true, ..Settings::default() });
    world.run_all();
    world.edit(0, true);
    world.run_all_but_durable();
    assert_eq!(world.log.len(), 1);
    world.lose(1);
    world.input(0, Input::Forked);
    world.run_all();
    assert_eq!(world.log.len(), 1, "put back");
    assert_eq!(world.answers, [(1, Ok(1))], "and acknowledged, as the version that it has now");
}

/// Pod 0 has two edits of its own client and one of pod 1's between them, and is about to put them back.
fn three_to_put_back() -> (World, Batch) {
    let mut world = World::new(1);
    world.run_all();
    for pod in [0, 1, 0] {
        world.edit(pod, true);
        world.run_all();
        world.ask(0);
        world.run_all();
    }
    assert_eq!(world.log.len(), 3);
    world.lose(3);
    world.input(0, Input::Forked);
    let batch = world.take_commit(0);
    (world, batch)
}

#[test]
fn what_was_lost_goes_back_in_one_call() {
    let (mut world, batch) = three_to_put_back();
    assert_eq!(batch.entries.iter().map(|entry| entry.base).collect::<Vec<_>>(), [0, 1, 2]);
    let reply = world.commit(&batch);
    assert_eq!(reply.verdicts, [1, 2, 3].map(Verdict::Ok));
    world.input(0, Input::Committed(reply));
    assert_eq!(world.pods[0].document.missing(), 0);
}

#[test]
fn what_something_came_before_is_put_back_in_the_next_call() {
    let (mut world, batch) = three_to_put_back();
    let other = Entry {
        identity: Identity { id: "other".into(), seq: 1, by_gateway: false },
        client_id: "other".into(),
        ops: Delta::new().insert("first", None),
        ..batch.entries[0].clone()
    };
    world.commit(&Batch { entries: vec![other], ..batch.clone() });
    let reply = world.commit(&batch);
    assert_eq!(reply.verdicts, [Verdict::Ok(2), Verdict::Behind, Verdict::Behind]);
    world.input(0, Input::Committed(reply));
    let rest = world.take_commit(0);
    assert_eq!(rest.entries.iter().map(|entry| entry.base).collect::<Vec<_>>(), [2, 3]);
    world.pods[0].jobs.push_back(Job::Commit(rest));
    world.run_all();
    assert_eq!(world.log.len(), 4);
    assert_eq!(world.pods[0].document.content(), world.whole().content());
}

#[test]
fn an_edit_that_cannot_be_put_back_leaves_the_others_their_way() {
    let (mut world, _) = three_to_put_back();
    let verdicts = vec![Verdict::Gap(0), Verdict::Behind, Verdict::Behind];
    world.input(0, Input::Committed(CommitReply { verdicts, tail: Vec::new(), more: false, forked: false }));
    let next = world.take_commit(0);
    assert_eq!(next.entries.len(), 1, "both edits of the client are given up: {next:?}");
    assert_eq!(&*next.entries[0].client_id, &*world.pods[1].client);
    world.pods[0].jobs.push_back(Job::Commit(next));
    world.run_all();
    assert_eq!(world.log.len(), 1);
    assert_eq!(world.pods[0].document.content(), world.whole().content());
}

#[test]
fn what_belongs_to_a_count_that_the_store_has_forgotten_is_put_back_once() {
    let mut world = World::new(1);
    world.run_all();
    for _ in 0..3 {
        world.edit(0, false);
        world.run_all();
    }
    (1..PODS).for_each(|pod| world.ask(pod));
    world.run_all();
    assert_eq!(world.log.len(), 3);
    // The first edit stays, but its session rested for long.
    world.lose(2);
    world.forgotten = 1;
    (0..PODS).for_each(|pod| world.input(pod, Input::Forked));
    world.run_all();
    assert_eq!(world.log.len(), 3, "both are put back, each once: {:?}", world.log);
    world.edit(0, false);
    world.run_all();
    (1..PODS).for_each(|pod| world.ask(pod));
    world.run_all();
    let whole = world.whole();
    assert_eq!(world.log.len(), 4, "and its writer goes on");
    assert!(world.pods.iter().all(|pod| pod.document.missing() == 0 && pod.document.content() == whole.content()));
}

#[test]
fn early_edits_of_a_join_that_is_carried_over_are_counted_on() {
    let mut world = World::new(1);
    world.run_all();
    let connection = ConnectionId(77);
    let plain = |at: usize, text: &str| Edit {
        connection,
        version: 0,
        ops: Delta::new().retain(at, None).insert(text, None),
        unreadable: None,
        seq: None,
        session: None,
        reply: Some(ReplyId(at as u64)),
    };
    world.join(0, 77);
    world.input(0, Input::Edit(plain(0, "y")));
    // It is on its way to the store, and so is still not in the document, when the history changes.
    world.carry_out_all_lookups(0);
    world.input(0, Input::Forked);
    world.input(0, Input::Edit(plain(1, "z")));
    world.run_all();
    assert_eq!(world.log.len(), 2, "{:?}", world.log);
    assert_eq!(world.pods[0].document.content().plain_text().matches(['y', 'z']).count(), 2);
}

#[test]
fn what_a_departed_client_sent_survives_opening_anew() {
    let mut world = World::new(1);
    world.run_all();
    world.edit(0, true);
    world.edit(0, true);
    let connection = world.pods[0].connection;
    world.input(0, Input::Leave { connection, how: Leaving::Lost, reply: None });
    world.input(0, Input::Forked);
    world.pods[0].jobs.retain(|job| !matches!(job, Job::Save(_)));
    world.run_all();
    assert_eq!(world.log.len(), 2);
}

#[test]
fn a_join_under_way_and_people_are_carried_into_the_new_copy() {
    let mut world = World::new(1);
    world.run_all();
    world.join(0, 77);
    world.input(0, Input::Forked);
    world.run_all();
    assert!(
        world.pods[0].joined.contains(&ConnectionId(77)),
        "its join was answered, once: {:?}",
        world.pods[0].joined
    );
    assert!(world.pods[0].rejoins >= 1);
}

#[derive(Debug, Clone)]
enum Job {
    Lookup(ConnectionId, Vec<Arc<str>>, Point),
    Commit(Batch),
    Fetch(Point),
    Save(Version),
    Durable(u64),
}

struct Pod {
    document: Document,
    connection: ConnectionId,
    client: String,
    seq: u64,
    jobs: VecDeque<Job>,
    replies: VecDeque<Input>,
    joined: Vec<ConnectionId>,
    rejoins: u32,
}

struct World {
    random: u64,
    settings: Settings,
    log: Vec<Logged>,
    pods: Vec<Pod>,
    next: u64,
    answers: Vec<(u64, Result<Version, ()>)>,
    /// What must be in the log at the end: identities of what a living pod had when it noticed.
    owed: BTreeSet<Identity>,
    tokens: BTreeMap<Identity, char>,
    met: BTreeMap<&'static str, u32>,
    hold_durable: bool,
    /// Counts of gateways up to this version are not known any more.
    forgotten: Version,
}

impl World {
    fn new(seed: u64) -> Self {
        Self::with(seed, Settings::default())
    }

    fn with(seed: u64, settings: Settings) -> Self {
        let mut world = Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            settings,
            log: Vec::new(),
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

    fn below(&mut self, most: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % most.max(1)
    }

    fn play(&mut self) {
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

    fn check(&self) {
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

    /// The document as the log has it.
    fn whole(&self) -> Document {
        Document::open(self.settings.clone(), "all".into(), start(), self.log.clone(), 0).expect("it opens")
    }

    /// The call that this pod is about to make, taken out of its hands.
    fn take_commit(&mut self, pod: usize) -> Batch {
        let jobs = &mut self.pods[pod].jobs;
        let place = jobs.iter().position(|job| matches!(job, Job::Commit(_))).expect("a commit");
        match jobs.remove(place) {
            Some(Job::Commit(batch)) => batch,
            other => unreachable!("{other:?}"),
        }
    }

    fn fresh(&mut self, pod: usize) -> Pod {
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

    fn join(&mut self, pod: usize, id: u64) {
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

    fn edit(&mut self, pod: usize, numbered: bool) {
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

    fn send(&mut self, pod: usize, seq: Option<u64>, token: char) {
        let (place, to) = (self.below(12), &self.pods[pod]);
        let (connection, version) = (to.connection, to.document.head().version);
        let ops = Delta::new().retain(place, None).insert(&token.to_string(), None);
        let reply = seq.map(ReplyId);
        self.input(pod, Input::Edit(Edit { connection, version, ops, unreadable: None, seq, session: None, reply }));
    }

    /// The pod looks into the log by itself.
    fn ask(&mut self, pod: usize) {
        let head = self.pods[pod].document.head().clone();
        self.pods[pod].jobs.push_back(Job::Fetch(head));
    }

    fn crash(&mut self, pod: usize) {
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
    fn lose(&mut self, entries: usize) {
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

    fn work(&mut self, pod: usize) {
        if self.below(2) == 0 {
            self.carry_out(pod);
        } else if let Some(reply) = self.pods[pod].replies.pop_front() {
            self.input(pod, reply);
        }
    }

    /// The store answers this pod's lookups.
    fn carry_out_all_lookups(&mut self, pod: usize) {
        let is_lookup = |job: &Job| matches!(job, Job::Lookup(..));
        self.pods[pod].jobs.make_contiguous().sort_by_key(|job| !is_lookup(job));
        while self.pods[pod].jobs.front().is_some_and(is_lookup) {
            self.carry_out(pod);
        }
        for reply in std::mem::take(&mut self.pods[pod].replies) {
            self.input(pod, reply);
        }
    }

    fn carry_out(&mut self, pod: usize) {
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

    fn commit(&mut self, batch: &Batch) -> CommitReply {
        if self.after(&batch.head).is_none() {
            return CommitReply { verdicts: Vec::new(), tail: Vec::new(), more: false, forked: true };
        }
        let before = self.log.len() as Version;
        let verdicts = batch.entries.iter().map(|entry| self.append(entry, batch.head.version, before)).collect();
        let tail = self.after(&batch.head).expect("a point of the log");
        CommitReply { verdicts, tail, more: false, forked: false }
    }

    /// `before`: the newest version when the call began.
    fn append(&mut self, entry: &Entry, head: Version, before: Version) -> Verdict {
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

    fn last(&self, identity: &Identity) -> (u64, Version) {
        let own = |logged: &&Logged| {
            let found = &logged.entry.identity;
            let is_forgotten = found.by_gateway && logged.at.version <= self.forgotten;
            found.id == identity.id && found.by_gateway == identity.by_gateway && !is_forgotten
        };
        let last = self.log.iter().rev().find(own);
        last.map_or((0, 0), |logged| (logged.entry.identity.seq, logged.at.version))
    }

    fn row(&self, id: &Arc<str>) -> Option<ClientRow> {
        let (last_seq, version) = self.last(&Identity { id: id.clone(), seq: 0, by_gateway: false });
        (last_seq > 0).then(|| ClientRow { client_id: id.clone(), owner: id.clone(), last_seq, version })
    }

    fn after(&self, point: &Point) -> Option<Vec<Logged>> {
        let is_there = match point.version.checked_sub(1) {
            None => *point.hash == *"h0",
            Some(index) => self.log.get(index as usize).is_some_and(|logged| logged.at == *point),
        };
        is_there.then(|| self.log.iter().skip(point.version as usize).cloned().collect())
    }

    fn input(&mut self, pod: usize, input: Input) {
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

    fn rejoin_later(&mut self, pod: usize, id: ConnectionId) {
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

    fn reopen(&mut self, pod: usize) {
        let to = &mut self.pods[pod];
        to.jobs.clear();
        to.replies.retain(|reply| matches!(reply, Input::Join(_)));
        let reopened = to.document.open_again(start(), self.log.clone(), 1_000).expect("it opens");
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
        assert_eq!(reopened.given_up, 0);
        self.input(pod, Input::Tick);
    }

    fn run_all_but_durable(&mut self) {
        self.hold_durable = true;
        self.run_all();
        self.hold_durable = false;
    }

    fn run_all(&mut self) {
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

fn start() -> Snapshot {
    let content = Delta::new().insert("an old document", None);
    Snapshot { at: Point { version: 0, hash: "h0".into() }, content, window: Vec::new() }
}

/// Identities of all that this copy has learned.
fn held(document: &Document) -> BTreeSet<Identity> {
    document.recent().map(|entry| entry.identity.clone()).collect()
}
