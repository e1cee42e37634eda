//! One pod and a store that answers at once.
//!
//! In: what clients do. Out: what each connection was sent. The store appends what it is given, in order, and notices
//! duplicates and gaps; tests that want it silent hold its answers back.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for what it asked for")]

use std::{collections::BTreeMap, sync::Arc};

use document::{
    Answer, Batch, ClientRow, Code, Command, CommitReply, ConnectionId, Document, Edit, Entry, Event, Form, Identity,
    Input, Join, Joined, JoinedContent, Leaving, Logged, Lookup, Point, Refusal, ReplyId, Role, Settings, Snapshot,
    User, Verdict, Version,
};
use ot::Delta;

/// What one connection got.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Got {
    Event(Event),
    Answer(u64, Result<Answer, Refusal>),
}

pub(crate) struct Desk {
    pub(crate) document: Document,
    pub(crate) log: Vec<Logged>,
    pub(crate) rows: BTreeMap<Arc<str>, ClientRow>,
    pub(crate) roles: BTreeMap<u64, Role>,
    pub(crate) got: BTreeMap<u64, Vec<Got>>,
    /// Everything else that the document asked for.
    pub(crate) commands: Vec<Command>,
    /// Calls that were not answered, while the store is held.
    pub(crate) held: Vec<Command>,
    pub(crate) hold: bool,
    pub(crate) now_ms: u64,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default(), Delta::new().insert("abc", None))
    }

    pub(crate) fn with(settings: Settings, content: Delta) -> Self {
        let snapshot = Snapshot { content, ..start("") };
        Self {
            document: Document::open(settings, "pod1".into(), snapshot, Vec::new(), 0).expect("it opens"),
            log: Vec::new(),
            rows: BTreeMap::new(),
            roles: BTreeMap::new(),
            got: BTreeMap::new(),
            commands: Vec::new(),
            held: Vec::new(),
            hold: false,
            now_ms: 1_000,
        }
    }

    pub(crate) fn input(&mut self, input: Input) {
        for command in self.document.handle(input, self.now_ms) {
            match command {
                Command::Send { to, event } => {
                    for id in to {
                        self.got.entry(id.0).or_default().push(Got::Event(event.clone()));
                    }
                }
                Command::Answer { to, reply, answer } => {
                    if let Err(refusal) = &answer {
                        assert_says_how_to_go_on(refusal);
                    }
                    let reply = reply.map_or(0, |reply| reply.0);
                    self.got.entry(to.0).or_default().push(Got::Answer(reply, answer));
                }
                Command::Lookup { .. } | Command::Commit(_) | Command::Fetch { .. } if self.hold => {
                    self.held.push(command);
                }
                Command::Lookup { .. } => self.answer_lookup(command),
                Command::Commit(batch) => {
                    let reply = self.commit(&batch);
                    self.input(Input::Committed(reply));
                }
                Command::Fetch { after } => {
                    let tail = self.after(after.version);
                    self.input(Input::Learned(tail));
                }
                Command::WritePresence(_) => {
                    self.commands.push(command);
                    self.input(Input::PresenceWritten(true));
                }
                other => self.commands.push(other),
            }
        }
    }

    /// The store answers again, and what it was asked meanwhile.
    pub(crate) fn release(&mut self) {
        self.hold = false;
        for command in std::mem::take(&mut self.held) {
            match command {
                Command::Commit(batch) => {
                    let reply = self.commit(&batch);
                    self.input(Input::Committed(reply));
                }
                Command::Fetch { after } => {
                    let tail = self.after(after.version);
                    self.input(Input::Learned(tail));
                }
                other => panic!("not released: {other:?}"),
            }
        }
    }

    /// The store answers lookups that it was asked for meanwhile, and holds the rest back.
    pub(crate) fn release_lookups(&mut self) {
        let (lookups, held) =
            std::mem::take(&mut self.held).into_iter().partition(|command| matches!(command, Command::Lookup { .. }));
        self.held = held;
        let lookups: Vec<Command> = lookups;
        for command in lookups {
            self.answer_lookup(command);
        }
    }

    fn answer_lookup(&mut self, command: Command) {
        let Command::Lookup { connection, clients, after, .. } = command else { return };
        let rows = clients.iter().filter_map(|id| self.rows.get(id).cloned()).collect();
        let role = self.roles.get(&connection.0).copied().unwrap_or(Role::Write);
        let tail = self.after(after.version);
        self.input(Input::LookedUp { connection, result: Ok(Lookup { role, rows, tail, more: false }) });
    }

    pub(crate) fn commit(&mut self, batch: &Batch) -> CommitReply {
        let verdicts = batch.entries.iter().map(|entry| self.append(entry.clone())).collect();
        CommitReply { verdicts, tail: self.after(batch.head.version), more: false, forked: false }
    }

    /// The commit script's part for one entry; other pods append through it too.
    pub(crate) fn append(&mut self, entry: Entry) -> Verdict {
        let row = self.rows.get(&entry.identity.id);
        let last = row.map_or((0, 0), |row| (row.last_seq, row.version));
        if row.is_some_and(|row| row.owner != entry.user_id) {
            return Verdict::Gap(last.0);
        }
        if entry.identity.seq <= last.0 {
            return Verdict::Dup(last.1);
        }
        if entry.identity.seq > last.0 + 1 {
            return Verdict::Gap(last.0);
        }
        let version = self.log.len() as Version + 1;
        let row = ClientRow {
            client_id: entry.identity.id.clone(),
            owner: entry.user_id.clone(),
            last_seq: entry.identity.seq,
            version,
        };
        self.rows.insert(entry.identity.id.clone(), row);
        self.log.push(Logged { at: Point { version, hash: format!("h{version}").into() }, entry });
        Verdict::Ok(version)
    }

    /// The commit call that is held back, taken out of the store's hands.
    pub(crate) fn held_commit(&mut self) -> Batch {
        let place = self.held.iter().position(|command| matches!(command, Command::Commit(_))).expect("a commit");
        match self.held.remove(place) {
            Command::Commit(batch) => batch,
            other => unreachable!("{other:?}"),
        }
    }

    /// The row of an entry's counter as it is when this is its last number.
    pub(crate) fn row_of(&self, entry: &Entry, last_seq: u64) -> ClientRow {
        let (client_id, owner) = (entry.identity.id.clone(), entry.user_id.clone());
        ClientRow { client_id, owner, last_seq, version: self.log.len() as Version }
    }

    fn after(&self, version: Version) -> Vec<Logged> {
        self.log.iter().skip(version as usize).cloned().collect()
    }

    pub(crate) fn tick(&mut self, later_ms: u64) {
        self.now_ms += later_ms;
        self.input(Input::Tick);
    }

    /// Joins as user `u<id>` with client `c<id>`.
    pub(crate) fn join(&mut self, id: u64) -> Joined {
        self.join_with(join(id))
    }

    pub(crate) fn join_with(&mut self, join: Join) -> Joined {
        let id = join.connection.0;
        self.input(Input::Join(join));
        let events = self.take(id);
        let joined = events.into_iter().find_map(|got| match got {
            Got::Event(Event::DocumentJoined(joined)) => Some(*joined),
            _ => None,
        });
        joined.expect("joined")
    }

    pub(crate) fn edit(&mut self, id: u64, version: Version, seq: u64, ops: Delta) {
        self.input(Input::Edit(edit(id, version, Some(seq), ops)));
    }

    pub(crate) fn leave(&mut self, id: u64, how: Leaving) {
        self.input(Input::Leave { connection: ConnectionId(id), how, reply: None });
    }

    /// What this connection got since the last call.
    pub(crate) fn take(&mut self, id: u64) -> Vec<Got> {
        self.got.remove(&id).unwrap_or_default()
    }

    pub(crate) fn events(&mut self, id: u64) -> Vec<Event> {
        let got = self.take(id).into_iter();
        got.filter_map(|got| if let Got::Event(event) = got { Some(event) } else { None }).collect()
    }

    /// The only refusal that this connection got.
    pub(crate) fn refusal(&mut self, id: u64) -> Refusal {
        let got = self.take(id);
        let mut refusals = got.iter().filter_map(|got| match got {
            Got::Answer(_, Err(refusal)) => Some(refusal.clone()),
            _ => None,
        });
        let first = refusals.next().unwrap_or_else(|| panic!("no refusal in {got:?}"));
        assert_eq!(refusals.next(), None, "{got:?}");
        first
    }

    pub(crate) fn text(&self) -> String {
        self.document.content().plain_text()
    }
}

/// Whoever may come again is told when, and whoever lost count the last number.
pub(crate) fn assert_says_how_to_go_on(refusal: &Refusal) {
    let passing = matches!(refusal.code, Code::RateLimited | Code::Overloaded | Code::StoreUnavailable);
    assert_eq!(refusal.retry_after_ms.is_some(), passing, "{refusal:?}");
    assert_eq!(refusal.last_seq.is_some(), refusal.code == Code::SeqGap, "{refusal:?}");
}

/// A document of this text that nobody has edited.
pub(crate) fn start(text: &str) -> Snapshot {
    let content = Delta::new().insert(text, None);
    Snapshot { at: Point { version: 0, hash: "h0".into() }, content, window: Vec::new() }
}

pub(crate) fn user(id: u64) -> User {
    let name: Arc<str> = format!("u{id}").into();
    User { id: name.clone(), name, avatar: None }
}

pub(crate) fn join(id: u64) -> Join {
    Join {
        connection: ConnectionId(id),
        user: user(id),
        client_id: format!("c{id}").into(),
        form: Form::Delta,
        version: None,
        hash: None,
        last_session: None,
        seq: None,
        session: format!("s{id}").into(),
        early: Vec::new(),
        reply: Some(ReplyId(9_000 + id)),
    }
}

/// An edit whose callback has its number.
pub(crate) fn edit(id: u64, version: Version, seq: Option<u64>, ops: Delta) -> Edit {
    let reply = seq.map(ReplyId);
    Edit { connection: ConnectionId(id), version, ops, unreadable: None, seq, session: None, reply }
}

/// What another pod commits; client `c1` belongs to user `u1`, others to `u9`.
pub(crate) fn entry(client: &str, seq: u64, session: &str, base: Version, ops: Delta) -> Entry {
    let owner = client.strip_prefix('c').map_or("u9".to_owned(), |number| format!("u{number}"));
    Entry {
        identity: Identity { id: client.into(), seq, by_gateway: false },
        client_id: client.into(),
        user_id: owner.into(),
        session: session.into(),
        base,
        ops,
    }
}

pub(crate) fn insert(at: usize, text: &str) -> Delta {
    Delta::new().retain(at, None).insert(text, None)
}

pub(crate) fn content(joined: &Joined) -> String {
    match &joined.content {
        JoinedContent::Ops(ops) => ops.plain_text(),
        JoinedContent::Text(text) => text.clone(),
        JoinedContent::Edits(entries) => format!("{} entries", entries.len()),
    }
}
