//! Everything at once: clients, connections, pods and the store, and one event after the other.
//!
//! In: a schedule. Out: a history, and what the clients show at its end.

use std::collections::BTreeMap;

use document::{ConnectionId, Input, Point, ReplyId, Role, Snapshot};
use ot::Delta;

use crate::{
    Options,
    client::{Broken, Client},
    counts::{Counts, Met},
    edits::Edits,
    log::Log,
    pod::Pod,
    profile::Profile,
    random::Random,
    record::Recorder,
    replicas::Replicas,
    schedule::{Fault, Schedule},
    sockets::{Asked, Connection},
};

/// Rounds after which everything has come to rest, or never does.
const ROUNDS_MAX: usize = 600;
/// What may pass at once where rows get old: so that rows of gateways go where there are many; so that they go with a save;
/// so that all rows do.
const AGES_MS: [u64; 3] = [15 * 60_000, 2 * 3_600_000, 8 * DAY_MS];
const DAY_MS: u64 = 24 * 3_600_000;
/// Things that happen to pods in a run, at most: a run with more would never end.
const STEPS_MAX: usize = 100_000;

/// The whole simulated system.
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) schedule: Schedule,
    pub(crate) profile: Profile,
    pub(crate) store: Log,
    /// The primary's followers.
    pub(crate) replicas: Replicas,
    /// Counts primaries.
    pub(crate) era: u64,
    /// The last primary before this one: it answers until its time is up whoever has not met the new one.
    pub(crate) lost_primary: Option<Log>,
    /// `store` is the lost primary for the moment.
    pub(crate) asks_lost_primary: bool,
    pub(crate) checks_chain: bool,
    pub(crate) pods: Vec<Pod>,
    pub(crate) clients: Vec<Client>,
    pub(crate) counts: Counts,
    pub(crate) roles: Vec<Role>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// The connection that a client uses.
    pub(crate) present: Vec<Option<ConnectionId>>,
    /// Who stays away for long.
    pub(crate) offline: Vec<bool>,
    pub(crate) asked: BTreeMap<ReplyId, Asked>,
    /// Calls that nobody waits for.
    pub(crate) ghosts: Vec<document::Batch>,
    pub(crate) now_ms: u64,
    /// What has happened to pods so far, counted.
    steps: usize,
    /// Names things.
    pub(crate) next: u64,
    pub(crate) tokens: u32,
    pub(crate) edits: Edits,
    /// What pods hold of a history that was lost, and have to put back, by token.
    pub(crate) owed: std::collections::BTreeSet<(usize, u32)>,
    /// Somebody was told that the table of clients is full.
    pub(crate) overloaded: bool,
    /// Nothing fails any more, and nobody types.
    pub(crate) calm: bool,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) forgets_lost: bool,
    pub(crate) compare_and_set: bool,
    pub(crate) comparable: bool,
    /// The last client began under the first one's name.
    pub(crate) has_namesake: bool,
    trace: bool,
}

impl World {
    pub(crate) fn new(schedule: &Schedule, options: &Options) -> Result<Self, Broken> {
        let mut profile = Profile::of(schedule, options.mutation);
        profile.rules.broken = options.broken_rule;
        if options.comparable {
            // The product's window: the script refuses nothing for its age.
            profile.settings.window_entries = document::Settings::default().window_entries;
            profile.settings.window_bytes = document::Settings::default().window_bytes;
            profile.rules.window_entries = profile.settings.window_entries as u64;
            profile.rules.window_bytes = profile.settings.window_bytes;
        }
        if options.compare_and_set {
            profile.settings.batch_entries = 1;
        }
        let root = Point { version: 0, hash: "0".into() };
        let content = if profile.root.is_empty() { Delta::new() } else { Delta::new().insert(profile.root, None) };
        let snapshot = Snapshot { at: root.clone(), content, window: Vec::new() };
        let clients = profile.clients.len();
        let store = Log::new(profile.rules.clone(), root, snapshot);
        let followers =
            if profile.fails_over || schedule.replicated { 1 + usize::from(schedule.replicated) } else { 0 };
        let mut world = Self {
            random: Random::new(schedule.seed),
            schedule: schedule.clone(),
            replicas: Replicas::of(&store, followers),
            era: 0,
            lost_primary: None,
            asks_lost_primary: false,
            checks_chain: !options.unchecked_chain,
            store,
            pods: Vec::new(),
            clients: (0..clients).map(|index| Client::new(&format!("c{index}"))).collect(),
            counts: Counts::default(),
            roles: profile.clients.iter().map(|person| person.role).collect(),
            connections: BTreeMap::new(),
            present: vec![None; clients],
            offline: vec![false; clients],
            asked: BTreeMap::new(),
            ghosts: Vec::new(),
            now_ms: 1_000,
            steps: 0,
            next: 0,
            tokens: 0,
            edits: Edits::default(),
            owed: std::collections::BTreeSet::new(),
            overloaded: false,
            calm: false,
            recorder: options.record.then(Recorder::default),
            forgets_lost: options.forgets_lost,
            compare_and_set: options.compare_and_set,
            comparable: options.comparable,
            trace: options.trace,
            has_namesake: profile.namesake && !options.record && !options.comparable,
            profile,
        };
        for client in 0..clients {
            world.clients[client].plain = world.profile.clients[client].plain;
        }
        // Recorded and compared runs are about editing; the product's client gives a borrowed name up by itself.
        if world.has_namesake {
            world.clients[clients - 1].id = world.clients[0].id.clone();
        }
        for _ in 0..world.profile.pods {
            let pod = world.new_pod()?;
            world.pods.push(pod);
        }
        for client in 0..clients {
            world.connect(client);
        }
        Ok(world)
    }

    /// What the document began with.
    pub(crate) fn store_root(&self) -> Delta {
        if self.profile.root.is_empty() { Delta::new() } else { Delta::new().insert(self.profile.root, None) }
    }

    /// Whether this kind of trouble is part of the run and may happen now.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        !self.calm && !self.schedule.without.has(fault)
    }

    /// Whether this kind of trouble happens now, once in `n` times.
    pub(crate) fn fault(&mut self, fault: Fault, n: usize) -> bool {
        self.random.one_in(n) && self.has(fault)
    }

    /// Prints what happens, for whoever looks for the cause of a failure.
    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>7} {}", self.now_ms, what());
        }
    }

    /// One thing more happens to a pod; in a run that would never end, none.
    pub(crate) fn goes_on(&mut self) -> Result<(), Broken> {
        self.steps += 1;
        if self.steps < STEPS_MAX { Ok(()) } else { Err(Broken("goes on for ever".to_owned())) }
    }

    /// One event.
    pub(crate) fn step(&mut self, event: u32) -> Result<(), Broken> {
        self.random = self.schedule.random(event);
        if self.comparable {
            self.tokens = event;
        }
        let kind = self.random.below(1_000);
        let client = self.random.below(self.clients.len());
        let pod = self.random.below(self.pods.len());
        self.now_ms += self.random.below(300) as u64;
        if self.random.one_in(200) {
            self.now_ms += 31_000;
        }
        if self.profile.ages {
            let mut random = self.schedule.random_of(Fault::Rows, event);
            if random.one_in(100) {
                self.age(AGES_MS[random.below(AGES_MS.len())]);
            }
        }
        let runs = !self.pods[pod].paused;
        match kind {
            0..200 => self.type_something(client)?,
            200..210 => self.replicate(),
            210..430 if runs => self.read_socket(pod)?,
            // What a stopped pod has sent still arrives.
            430..570 => self.work(pod)?,
            570..690 if runs => self.reply(pod)?,
            690..740 if runs => self.deliver_publish(pod)?,
            740..890 => self.hear(client)?,
            890..910 if self.has(Fault::Disconnect) => self.disconnect(client),
            910..935 if self.present[client].is_none() && !self.offline[client] => self.connect(client),
            935..945 if self.has(Fault::Crash) => self.crash(pod)?,
            945..953 if self.has(Fault::Pause) => self.toggle_pause(pod)?,
            953..961 if self.has(Fault::Away) && runs => self.toggle_store(pod)?,
            961..969 if self.has(Fault::Offline) => self.go_or_come(client),
            969..975 => self.haunt(),
            975..980 if self.has(Fault::Garbage) => self.type_garbage(client),
            980..984 if self.has(Fault::Roles) => self.change_role(client),
            984..988 => self.move_cursor(client),
            988..991 if self.profile.fails_over && self.has(Fault::Failover) => self.fail_over(),
            _ if runs => self.input(pod, Input::Tick)?,
            _ => {}
        }
        Ok(())
    }

    /// Much time passes. No call is on its way for so long, and no lost primary goes on.
    fn age(&mut self, ms: u64) {
        self.lost_primary = None;
        while !self.ghosts.is_empty() {
            self.haunt();
        }
        for pod in 0..self.pods.len() {
            self.meet_new_primary(pod);
            self.finish_commits(pod);
        }
        self.now_ms += ms;
    }

    /// The client is away for long, or is back.
    fn go_or_come(&mut self, client: usize) {
        self.offline[client] = !self.offline[client];
        if self.offline[client] {
            self.disconnect(client);
        }
    }

    fn change_role(&mut self, client: usize) {
        if client + 1 == self.clients.len() {
            self.roles[client] = [Role::Write, Role::Read, Role::Comment][self.random.below(3)];
        }
    }

    /// Lets everybody join before anything else happens.
    pub(crate) fn join_all(&mut self) -> Result<(), Broken> {
        self.settle()?;
        self.calm = false;
        Ok(())
    }

    /// Lets everything finish, with nobody typing and nothing failing.
    pub(crate) fn settle(&mut self) -> Result<(), Broken> {
        self.random = self.schedule.random(u32::MAX);
        self.calm = true;
        while !self.ghosts.is_empty() {
            self.haunt();
        }
        for pod in 0..self.pods.len() {
            if self.pods[pod].paused {
                self.toggle_pause(pod)?;
            }
        }
        for round in 0..ROUNDS_MAX {
            self.now_ms += 200;
            let mut busy = false;
            for pod in 0..self.pods.len() {
                busy |= self.settle_pod(pod)?;
            }
            for client in 0..self.clients.len() {
                if self.present[client].is_none() {
                    self.connect(client);
                    busy = true;
                }
                while self.mail(client) {
                    self.hear(client)?;
                    busy = true;
                }
            }
            if std::mem::take(&mut self.overloaded) {
                // Who finds no room comes back again and again; some day there is some.
                self.now_ms += DAY_MS;
            }
            let behind =
                self.pods.iter().any(|pod| pod.is_open() && pod.document.head().version != self.store.version());
            let waiting = self.clients.iter().any(|client| !client.live || !client.pending.is_empty());
            if behind && round % 8 == 7 {
                // A pod that waits for what is trimmed gives up after some seconds.
                self.now_ms += 6_000;
            }
            if !busy && !behind && !waiting {
                self.counts.meet_times(Met::Forgotten, self.store.forgotten());
                return Ok(());
            }
            if !busy && waiting && round % 4 == 3 {
                for client in 0..self.clients.len() {
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

    fn settle_pod(&mut self, pod: usize) -> Result<bool, Broken> {
        self.replicate_all();
        // Documents hear of a new primary although they ask nothing.
        let mut busy = self.meet_new_primary(pod);
        if self.pods[pod].away {
            self.toggle_store(pod)?;
        }
        while self.has_mail(pod) {
            self.read_socket(pod)?;
            busy = true;
        }
        while !self.pods[pod].is_quiet() {
            self.goes_on()?;
            self.work(pod)?;
            self.replicate_all();
            self.reply(pod)?;
            self.deliver_publish(pod)?;
            busy = true;
        }
        let is_used = self.connections.values().any(|connection| connection.pod == pod);
        if std::mem::take(&mut self.pods[pod].missed) || !is_used {
            // The next publish tells, or the lookup of whoever joins.
            self.input(pod, Input::Hint(self.store.version()))?;
        }
        self.input(pod, Input::Tick)?;
        Ok(busy)
    }

    /// Counts a refusal as what it is.
    pub(crate) fn count_refusal(&mut self, code: document::Code) {
        use document::Code;
        self.counts.meet(Met::Refused);
        match code {
            Code::ReadOnly => self.counts.meet(Met::ReadOnly),
            Code::DocumentTooLarge => self.counts.meet(Met::TooLarge),
            Code::StoreUnavailable => self.counts.meet(Met::Unavailable),
            Code::OpInvalid => self.counts.meet(Met::Garbage),
            Code::VersionTooOld => self.counts.meet(Met::BelowFloor),
            Code::Overloaded => {
                self.overloaded = true;
                self.counts.meet(Met::Overloaded);
            }
            Code::BadRequest
            | Code::RateLimited
            | Code::SeqGap
            | Code::VersionAhead
            | Code::AccessDenied
            | Code::JoinFailed
            | Code::NotJoined
            | Code::ClientReplaced
            | Code::NotDurableYet => {}
        }
    }
}
