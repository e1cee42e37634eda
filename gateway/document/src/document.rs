//! The open document itself.
//!
//! In: inputs, one at a time. Out: commands. This file keeps the parts together and decides what follows from what:
//! `joins` and `edits` take in what clients send, `batch` talks to the commit script, `learning` takes in the log,
//! `people` tells who is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Code, Command, ConnectionId, Event, Identity, Input, Logged, Member, OpenError, Point, ReplyId, Settings, Snapshot,
    Version,
    connection::{Connection, Stage},
    connections::Connections,
    cursors::Cursors,
    divergence::Digests,
    durability::Durability,
    healing::Healing,
    presence::Presence,
    queue::EditQueue,
    saving::{Saving, Turn},
    window::History,
};

/// A fetch that was not answered after this long, in milliseconds, is asked for again.
const FETCH_AGAIN_MS: u64 = 5_000;
/// So many fetches in a row that did not bring the next entry, and the document is opened anew.
const VAIN_FETCHES: u32 = 2;

/// One open document on one pod.
#[derive(Debug)]
pub struct Document {
    pub(crate) settings: Settings,
    pub(crate) history: History,
    pub(crate) connections: Connections,
    /// Connections that are gone but whose last edits are still to be committed.
    pub(crate) draining: Vec<Connection>,
    /// Connections whose join is under way.
    pub(crate) joining: BTreeSet<ConnectionId>,
    /// Connections that were told to join again and have sent edits since.
    pub(crate) early: BTreeSet<ConnectionId>,
    /// Connections with edits that wait for a version.
    pub(crate) waiting: BTreeSet<ConnectionId>,
    /// Connections with edits that are not committed.
    pub(crate) busy: BTreeSet<ConnectionId>,
    pub(crate) flight: Option<Flight>,
    /// What a history that ended had and this one does not; until it is put back joins and new edits wait.
    pub(crate) healing: Option<Healing>,
    /// The head at which the store said `behind`; nothing is sent until it moves.
    pub(crate) stalled_at: Option<Version>,
    /// Counts the edits taken in.
    pub(crate) arrivals: u64,
    /// The newest version heard of.
    pub(crate) heard: Version,
    pub(crate) fetching: Option<Fetching>,
    /// Fetches asked for so far, and the newest one that was answered.
    pub(crate) fetches: u64,
    pub(crate) fetched: u64,
    /// Fetches in a row that did not bring the next entry.
    pub(crate) vain_fetches: u32,
    /// Somebody waits for a version that may or may not be in the log.
    pub(crate) fetch_wanted: bool,
    pub(crate) away_since_ms: Option<u64>,
    /// Since when too many acknowledgements wait for anything more to be committed.
    pub(crate) full_since_ms: Option<u64>,
    pub(crate) saving: Option<Saving>,
    pub(crate) turn: Turn,
    /// Lookups under way. They may outlive the join that they were made for, and do not say which that was: a join waits
    /// for all of its connection.
    pub(crate) lookups: BTreeMap<ConnectionId, u32>,
    /// The highest number of the client `newline` that is known to be in the log.
    pub(crate) newline_seq: u64,
    /// A join waits for the newline that Quill wants at the end.
    pub(crate) newline_wanted: bool,
    pub(crate) durability: Durability,
    pub(crate) digests: Digests,
    pub(crate) presence: Presence,
    pub(crate) cursors: Cursors,
    /// When this pod tells its cursors to those who asked.
    pub(crate) answer_cursors_at_ms: Option<u64>,
    /// The time of the input that is being handled.
    pub(crate) now_ms: u64,
    /// The cursors of other pods are not known; they are asked for when it is known that there are any.
    pub(crate) ask_for_cursors: bool,
    /// Somebody has joined, or edits were put back, since the last snapshot for the last one who left.
    pub(crate) save_when_left: bool,
    /// This copy has given up; all that is left to do is to say so.
    pub(crate) reopening: bool,
    pub(crate) out: Vec<Command>,
}

/// The commit call in flight.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) head: Version,
    pub(crate) floor: Version,
    pub(crate) origins: Vec<Origin>,
}

/// Where an entry of the call came from.
#[derive(Debug)]
pub(crate) struct Origin {
    /// None: the gateway's own newline.
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) session: Arc<str>,
    pub(crate) client_id: Arc<str>,
    pub(crate) user_id: Arc<str>,
    pub(crate) identity: Identity,
    pub(crate) reply: Option<ReplyId>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetching {
    pub(crate) after: Version,
    /// The newest version that had been heard of then.
    pub(crate) heard: Version,
    since_ms: u64,
    /// Entries came meanwhile, but not the next one: the store answers.
    pub(crate) beyond_gap: bool,
}

impl Document {
    /// Opens a document from what the store holds: a snapshot and the log after it. `pod` names this pod's incarnation
    /// in presence rows.
    ///
    /// # Errors
    /// What the store holds cannot be read; see [`OpenError`].
    pub fn open(
        settings: Settings,
        pod: Arc<str>,
        snapshot: Snapshot,
        tail: Vec<Logged>,
        now_ms: u64,
    ) -> Result<Self, OpenError> {
        let history = History::open(&settings, snapshot, &tail)?;
        let presence = Presence::new(pod, &history.head().hash, now_ms);
        Ok(Self {
            settings,
            heard: history.head().version,
            history,
            connections: Connections::default(),
            draining: Vec::new(),
            joining: BTreeSet::new(),
            early: BTreeSet::new(),
            waiting: BTreeSet::new(),
            busy: BTreeSet::new(),
            flight: None,
            healing: None,
            stalled_at: None,
            arrivals: 0,
            fetching: None,
            fetches: 0,
            fetched: 0,
            vain_fetches: 0,
            fetch_wanted: false,
            away_since_ms: None,
            full_since_ms: None,
            saving: None,
            turn: Turn::default(),
            newline_seq: 0,
            newline_wanted: false,
            durability: Durability::default(),
            digests: Digests::default(),
            presence,
            answer_cursors_at_ms: None,
            ask_for_cursors: true,
            now_ms,
            cursors: Cursors::default(),
            lookups: BTreeMap::new(),
            save_when_left: false,
            reopening: false,
            out: Vec::new(),
        })
    }

    /// Takes in what happened at `now_ms` (a clock in milliseconds that does not run backwards); what is to be done
    /// comes back in order.
    pub fn handle(&mut self, input: Input, now_ms: u64) -> Vec<Command> {
        self.now_ms = now_ms;
        if self.reopening {
            self.turn_away(input, now_ms);
            return std::mem::take(&mut self.out);
        }
        match input {
            Input::Join(join) => self.on_join(join, now_ms),
            Input::LookedUp { connection, result } => self.on_looked_up(connection, result, now_ms),
            Input::Leave { connection, how, reply } => self.on_leave(connection, how, reply, now_ms),
            Input::Edit(edit) => self.on_edit(edit, now_ms),
            Input::Cursor { connection, version, position, reply } => {
                self.on_cursor(connection, version, position, reply, now_ms);
            }
            Input::Typing { connection, is_typing, reply } => self.on_typing(connection, is_typing, reply, now_ms),
            Input::Learned(entries) => self.on_learned(entries),
            Input::Hint(version) => self.heard = self.heard.max(version),
            Input::Committed(reply) => self.on_committed(reply),
            Input::StoreAway(away) => self.on_store_away(away, now_ms),
            Input::Peer { pod, peer } => self.on_peer(&pod, peer, now_ms),
            Input::Presence { members, live } => self.on_presence(members, &live, now_ms),
            Input::PresenceUnread => self.presence.unread(now_ms),
            Input::PresenceWritten(is_ok) => self.presence.written(is_ok, now_ms),
            Input::PodsLive { live, lapsed } => self.presence.pods_live(&live, lapsed, now_ms),
            Input::Missed => self.on_missed(now_ms),
            Input::User(user) => self.on_user(&user, now_ms),
            Input::Access { user_id, role } => self.on_access(&user_id, role, now_ms),
            Input::Saved(version) => self.on_saved(version),
            Input::Durable { ticket } => self.on_durable(ticket),
            Input::CatchUp { connection, after } => self.on_catch_up(connection, after),
            Input::Forked => self.reopen(),
            Input::Tick => {}
        }
        self.settle(now_ms);
        if self.reopening {
            self.out.push(Command::Reopen);
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due, on the clock of `now_ms`.
    pub fn deadline_ms(&self) -> Option<u64> {
        let fetching = self.fetching.map(|fetching| fetching.since_ms.saturating_add(FETCH_AGAIN_MS));
        [
            fetching,
            self.saving_deadline_ms(),
            self.late_deadline_ms(),
            self.durable_deadline_ms(),
            self.people_deadline_ms(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// About how many bytes of edits wait here for their join, their turn or the store.
    pub fn held_bytes(&self) -> usize {
        self.waiting_bytes()
    }

    /// About how many bytes its content and what it remembers of its history take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.history.memory_bytes()
    }

    /// Whether this connection is in the document, or on its way in.
    pub fn has(&self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection)
    }

    /// The point that this pod has reached.
    pub fn head(&self) -> &Point {
        self.history.head()
    }

    /// The content at [`Self::head`].
    pub fn content(&self) -> ot::Delta {
        self.history.rope().to_delta()
    }

    /// Whether nobody is connected, nothing is under way and nobody is expected back, so that the document may be closed.
    pub fn is_idle(&self) -> bool {
        self.is_left() && !self.presence.has_rows()
    }

    /// Whether nobody is connected and nothing is under way. People whose transport was lost may still come back.
    pub fn is_left(&self) -> bool {
        self.connections.is_empty()
            && self.draining.is_empty()
            && self.flight.is_none()
            && self.healing.is_none()
            && self.saving.is_none()
            && self.durability.waiting() == 0
    }

    /// Whether the store has all of this pod's presence rows as they are to be.
    pub fn is_presence_written(&self) -> bool {
        self.presence.is_written()
    }

    /// The document does not go on here, whoever is connected: this pod's presence rows, to be removed.
    pub fn give_up_presence(&mut self) -> Vec<Member> {
        self.presence.give_up()
    }

    /// What follows from everything that has happened so far.
    fn settle(&mut self, now_ms: u64) {
        self.note_durability_full(now_ms);
        self.expire(now_ms);
        if !self.reopening {
            self.settle_healing();
            if self.healing.is_none() {
                self.open_inboxes();
                self.progress_joins(now_ms);
            }
            self.flush();
            self.check_progress();
        }
        if !self.reopening {
            self.sweep();
            self.draining.retain(|connection| !connection.chain.pending().is_empty());
            self.fetch(now_ms);
            self.save(now_ms);
            self.ask_for_durability(now_ms);
            self.note_durability_full(now_ms);
        }
        self.tell_people(now_ms);
    }

    /// Forgets which connections had something pending, and reads on where enough of it is done.
    fn sweep(&mut self) {
        for id in self.busy.clone() {
            if self.connections.get(&id).is_none_or(|connection| connection.chain.pending().is_empty()) {
                self.busy.remove(&id);
            }
            self.check_pause(id);
        }
    }

    /// What time alone brings about.
    fn expire(&mut self, now_ms: u64) {
        let late = self.fetching.filter(|fetching| fetching.since_ms.saturating_add(FETCH_AGAIN_MS) <= now_ms);
        if let Some(fetching) = late {
            self.fetching = None;
            let stuck = fetching.beyond_gap && self.head().version <= fetching.after;
            self.vain_fetches = if stuck { self.vain_fetches + 1 } else { 0 };
            if self.vain_fetches >= VAIN_FETCHES && self.heard > self.head().version {
                // What follows the head is not in the log any more.
                return self.reopen();
            }
        }
        if self.saving_deadline_ms().is_some_and(|at| at <= now_ms) {
            self.forget_saving();
        }
        self.refuse_late(now_ms);
        self.tell_not_durable(now_ms);
        self.people_tick(now_ms);
    }

    /// Asks for what is missing. While a commit call is in flight its reply brings the tail by itself.
    fn fetch(&mut self, now_ms: u64) {
        let behind = self.heard > self.head().version && self.flight.is_none();
        if (behind || self.fetch_wanted) && self.fetching.is_none() && self.away_since_ms.is_none() {
            self.fetch_wanted = false;
            self.fetches += 1;
            let (after, heard) = (self.head().version, self.heard);
            self.fetching = Some(Fetching { after, heard, since_ms: now_ms, beyond_gap: false });
            self.out.push(Command::Fetch { after: self.head().clone() });
        }
    }

    fn on_store_away(&mut self, away: bool, now_ms: u64) {
        match (away, self.away_since_ms) {
            (true, None) => self.away_since_ms = Some(now_ms),
            (false, Some(_)) => {
                self.away_since_ms = None;
                // Publishes were lost meanwhile, and answers perhaps.
                self.fetching = None;
                self.fetch_wanted = true;
            }
            _ => {}
        }
    }

    /// Gives this copy up: everybody joins again, when [`Self::open_again`] has brought another.
    pub(crate) fn reopen(&mut self) {
        if self.reopening {
            return;
        }
        self.reopening = true;
        for (id, connection) in self.connections.iter() {
            if connection.paused {
                self.out.push(Command::PauseReading { connection: *id, pause: false });
            }
        }
        let joined = self.connections.values_mut().filter(|connection| connection.is_joined());
        let to: Vec<_> = joined
            .map(|connection| {
                connection.stage = Stage::Rejoining(EditQueue::default());
                connection.id
            })
            .collect();
        if !to.is_empty() {
            self.out.push(Command::Send { to, event: Event::Rejoin });
        }
    }

    /// Inputs that still come after [`Self::reopen`]: answers are of no interest any more.
    fn turn_away(&mut self, input: Input, now_ms: u64) {
        match input {
            Input::Join(join) => self.on_join(join, now_ms),
            Input::Leave { connection, how, reply } => self.on_leave(connection, how, reply, now_ms),
            Input::Edit(edit) => self.on_edit(edit, now_ms),
            Input::Access { user_id, role } => self.on_access(&user_id, role, now_ms),
            Input::Cursor { connection, reply, .. } | Input::Typing { connection, reply, .. } => {
                self.answer(connection, reply, Err(crate::edits::refusal(Code::NotJoined, "join the document again")));
            }
            Input::StoreAway(away) => self.on_store_away(away, now_ms),
            // It may take long until there is another copy.
            Input::Tick => self.refuse_late_joins(now_ms),
            Input::LookedUp { .. }
            | Input::Learned(_)
            | Input::Hint(_)
            | Input::Committed(_)
            | Input::Peer { .. }
            | Input::Presence { .. }
            | Input::PresenceUnread
            | Input::PresenceWritten(_)
            | Input::PodsLive { .. }
            | Input::Missed
            | Input::User(_)
            | Input::Saved(_)
            | Input::Durable { .. }
            | Input::CatchUp { .. }
            | Input::Forked => {}
        }
    }
}
