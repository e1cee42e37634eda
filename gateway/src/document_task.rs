//! The task of one open document: drives the state machine of the `document` crate and carries out its commands.
//!
//! In: mail of this pod's connections, notices of other pods, answers of the store, time. Out: frames in outboxes, calls
//! to the store, notices. The task never waits for the store while there is something else to do: calls are futures that
//! it drives beside its mailbox, and their answers are inputs like any other.

mod access;
mod commits;
mod deliveries;
mod durable;
mod ending;
mod healing;
mod hearing;
mod memory;
mod people;
mod rare;
mod sending;
mod settling;
mod traced;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use document::{
    Batch, Command, CommitReply, ConnectionId, Document, Input, Logged, Lookup, Member, Peer, Point, Refusal, Role,
    Version,
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};
use tracing::{Span, field::Empty};

use self::rare::{Rare, RareEvents};
use crate::{
    budget::{Charge, Use},
    bus::{Subscription, document_channel},
    clock,
    document_io::{self as io, Trouble},
    documents::{Inner, Mail},
    lease::Living,
    outbox::Outbox,
    resting::Rest,
    store::{Era, NewEntry, StoreError},
    telemetry::{bounded, number, root, step, within},
};

/// A document stays open for this long after its last connection left: reloads and reconnects find it ready.
const LINGER: Duration = Duration::from_secs(5);
/// While pods drain nobody comes back here; only mail that is under way is waited for.
const LINGER_DRAINING: Duration = Duration::from_millis(10);
/// What a document takes besides its content and history: its task, its mailbox, its subscription.
const DOCUMENT_BYTES: usize = 16 << 10;

/// Runs until the document is closed. Its opening is traced under the span of the join that asked for it.
pub(crate) async fn run(inner: Arc<Inner>, id: Arc<str>, mail: mpsc::Receiver<Box<Mail>>, span: Span) {
    let mut first_join = Some(span);
    let living = inner.parts.lease.living();
    let lapses = living.borrow().lapses;
    let mut history = inner.parts.store.history_changes();
    history.mark_unchanged();
    let draining = inner.is_draining();
    let rare = RareEvents::new(living.clone(), draining.clone(), history);
    let held = inner.parts.budget.charge(Use::Edits);
    let mut memory = inner.parts.document_memory.charge(Use::Documents);
    memory.set(DOCUMENT_BYTES);
    let owed = durable::Owed::new(inner.parts.metrics.acknowledgements_waiting.clone());
    let mut task = Task {
        channel: document_channel(&id),
        living,
        draining,
        inner,
        id,
        mail,
        outboxes: HashMap::new(),
        behind: sending::Behind::default(),
        left: Vec::new(),
        dirty: Vec::new(),
        work: FuturesUnordered::new(),
        away: false,
        committing: false,
        seen: BTreeSet::new(),
        lapses,
        access: access::Accesses::default(),
        settling: Vec::new(),
        rare,
        grew: None,
        held,
        memory,
        gives_way: false,
        promises: durable::Promises::default(),
        owed,
        joins: traced::Joins::default(),
        deliveries: deliveries::Deliveries::default(),
    };
    let mut given_up: Option<Document> = None;
    loop {
        let opened = match given_up.take() {
            // Boxed: a document is opened once and rests for long.
            None => Box::pin(task.open(first_join.take().unwrap_or_else(Span::none))).await,
            Some(mut document) => match Box::pin(task.open_again(&mut document)).await {
                Ok(subscription) => Ok((document, subscription)),
                Err(trouble) => {
                    task.say_rejoin();
                    Box::pin(task.remove_rows(&mut document)).await;
                    Err(trouble)
                }
            },
        };
        match opened {
            Ok((mut document, mut subscription)) => {
                let end = task.serve(&mut document, &mut subscription).await;
                // Nobody drives its calls any more; one that has begun may hold what the next ones of all documents need.
                task.forget();
                match end {
                    End::Closed => break,
                    End::Reopen => given_up = Some(document),
                    End::Broken(trouble) => {
                        tracing::error!(document = %task.id, %trouble, "the document is closed");
                        task.say_rejoin();
                        // Before anybody can open it anew, and write rows.
                        Box::pin(task.remove_rows(&mut document)).await;
                        task.refuse(&trouble.refusal()).await;
                        break;
                    }
                }
            }
            Err(trouble) => {
                tracing::warn!(document = %task.id, %trouble, "the document cannot be opened");
                task.refuse(&trouble.refusal()).await;
                break;
            }
        }
    }
    for outbox in task.outboxes.values() {
        outbox.pause_reading(&task.id, false);
    }
    task.inner.parts.lease.unwatch(&task.seen);
}

struct Task {
    inner: Arc<Inner>,
    id: Arc<str>,
    channel: String,
    mail: mpsc::Receiver<Box<Mail>>,
    /// Of everybody who asked to join, until they leave.
    outboxes: HashMap<ConnectionId, Outbox>,
    /// Of everybody who is told of edits later.
    behind: sending::Behind,
    /// Left, but acknowledgements may still come for them.
    left: Vec<ConnectionId>,
    /// What this turn put frames in line for.
    dirty: Vec<Outbox>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The store does not answer commits.
    away: bool,
    committing: bool,
    living: watch::Receiver<Living>,
    draining: watch::Receiver<bool>,
    /// Pods in this document's rows, whose leases are watched.
    seen: BTreeSet<Arc<str>>,
    /// How often this pod's lease had run out when the document was told last.
    lapses: u64,
    access: access::Accesses,
    /// Whoever wants to know when nobody waits for an answer.
    settling: Vec<settling::Settling>,
    rare: RareEvents,
    /// When the newest entry came.
    grew: Option<Instant>,
    /// Edits that wait here.
    held: Charge,
    /// The document itself.
    memory: Charge,
    /// Its memory is wanted for others.
    gives_way: bool,
    promises: durable::Promises,
    owed: durable::Owed,
    /// Joins that are traced, until they are answered.
    joins: traced::Joins,
    deliveries: deliveries::Deliveries,
}

/// A future's answer.
enum Done {
    LookedUp {
        wanted: Box<Wanted>,
        result: Result<Lookup, Result<Refusal, Trouble>>,
    },
    Committed {
        batch: Arc<Sent>,
        result: Result<(CommitReply, Era), Trouble>,
        repeats: u32,
    },
    Access {
        user_id: Arc<str>,
        role: Result<Option<Role>, StoreError>,
    },
    Fetched {
        /// In Unix milliseconds.
        asked_ms: u64,
        result: Result<(Vec<Logged>, bool), Trouble>,
    },
    Saved(Result<Version, Trouble>),
    People(Result<(Vec<Member>, BTreeSet<Arc<str>>), Trouble>),
    /// The rows that are stored now.
    RowsWritten(Option<Vec<Member>>),
    /// Nothing follows from it.
    Nothing,
    /// The log is to be asked once more.
    AskAgain,
}

/// A lookup, to be made again if an access changed meanwhile.
struct Wanted {
    connection: ConnectionId,
    user_id: Arc<str>,
    clients: Vec<Arc<str>>,
    after: Point,
    /// Changes that were heard before.
    heard: u64,
}

/// A batch that is being committed, as often as it takes.
struct Sent {
    head: Point,
    floor: Version,
    entries: Vec<NewEntry>,
    since: Instant,
    span: Span,
}

enum End {
    Closed,
    Reopen,
    Broken(Trouble),
}

/// Whether the document goes on.
type Flow = Result<(), End>;

impl Task {
    async fn open(&mut self, join: Span) -> Result<(Document, Subscription), Trouble> {
        let parts = &self.inner.parts;
        let span = step!(&join, "document.open", document.id = bounded(&self.id));
        // At the same time, to spare a round trip. What is committed before this hears is in the log that each join is
        // looked up in, which comes after this; presence is read once more.
        let nobody = BTreeSet::new();
        let opening = Mutex::new(parts.document_memory.charge(Use::Documents));
        let fits = |bytes| {
            // Nothing panics while it is held.
            opening.lock().unwrap_or_else(PoisonError::into_inner).set(bytes);
            let fits = self.inner.make_room();
            if !fits {
                parts.metrics.overload("join");
            }
            fits
        };
        let (subscription, loaded, people) = tokio::join!(
            within(step!(&span, "bus.subscribe", otel.kind = "client"), parts.bus.subscribe(&self.channel)),
            within(step!(&span, "store.open", otel.kind = "client"), io::load(parts, &self.id, fits)),
            within(step!(&span, "store.presence", otel.kind = "client"), io::people(parts, &self.id, &nobody))
        );
        let subscription = subscription?;
        let (loaded, (members, live)) = (loaded?, people?);
        let pod = Arc::clone(parts.lease.pod());
        let mut document = Document::open(parts.settings.clone(), pod, loaded.snapshot, loaded.tail, now_ms())
            .map_err(|error| Trouble::Unreadable(error.to_string()))?;
        // Nobody is connected yet, so there is nobody to tell.
        self.deliveries.start_at(document.head().version);
        let _ = self.feed(&mut document, Input::Presence { members, live });
        let _ = self.feed(&mut document, Input::Missed);
        Ok((document, subscription))
    }

    async fn serve(&mut self, document: &mut Document, subscription: &mut Subscription) -> End {
        let mut unused: Option<(Instant, Rest)> = None;
        self.read_doubted();
        loop {
            let draining = *self.draining.borrow();
            // Whoever lost the transport may come back, but not to a pod that drains: its rows end with its lease.
            let is_unused = if draining { document.is_left() } else { document.is_idle() };
            // What others go on typing elsewhere, and what is read of it, keeps nothing open here.
            if is_unused && document.is_presence_written() {
                unused.get_or_insert_with(|| (Instant::now(), self.rest()));
            } else {
                (unused, self.gives_way) = (None, false);
            }
            let due = unused.as_ref().map(|(since, _)| match (draining, self.gives_way) {
                (_, true) => *since,
                (true, _) => *since + LINGER_DRAINING,
                (false, false) => self.kept_until(*since),
            });
            if due.is_some_and(|due| due <= Instant::now()) {
                if self.inner.close_unused(&self.id, &self.mail) {
                    return End::Closed;
                }
                // Somebody has mail for it: it begins to rest anew.
                (unused, self.gives_way) = (Some((Instant::now(), self.rest())), false);
                continue;
            }
            let tick = document
                .deadline_ms()
                .map(|at| Instant::now() + Duration::from_millis(at.saturating_sub(now_ms()).max(1)));
            let let_go = self.access.deadline().map(Into::into);
            let wake = [due, tick, let_go].into_iter().flatten().min();
            let flow = tokio::select! {
                mail = self.mail.recv() => match mail {
                    Some(mail) => self.take(document, *mail),
                    None => return End::Closed,
                },
                Some(done) = self.work.next(), if !self.work.is_empty() => self.finish(document, done),
                heard = subscription.next() => self.hear(document, heard),
                answered = self.promises.answered() => self.answered(document, answered),
                () = sleep_until(wake) => {
                    self.let_go_late();
                    self.feed(document, Input::Tick)
                }
                () = self.behind.drained(), if self.behind.is_anybody() => self.catch_up(document),
                Some(rare) = self.rare.next() => self.happened(document, rare),
            };
            if let Err(end) = flow {
                return end;
            }
            self.tell_settled(document);
            if !self.committing {
                let outboxes = &self.outboxes;
                // Whoever only left the document still hears what is durable.
                let stays = |connection: &ConnectionId| {
                    document.owes(*connection)
                        && outboxes.get(connection).is_some_and(|outbox| !outbox.is_closing() && !outbox.is_dropped())
                };
                let gone: Vec<_> = self.left.extract_if(.., |connection| !stays(connection)).collect();
                for connection in gone {
                    self.access.left(connection);
                    self.behind.remove(connection);
                    self.joins.end(connection, "left");
                    self.outboxes.remove(&connection);
                }
            }
        }
    }

    fn happened(&mut self, document: &mut Document, rare: Rare) -> Flow {
        match rare {
            Rare::PodsChanged => return self.pods_changed(document),
            // What it means is looked at in every turn.
            Rare::Drains => {}
            Rare::HistoryChanged => self.history_changed(document),
            Rare::ReadAccesses => self.read_accesses(),
            Rare::RenewPresence => self.renew_presence(),
        }
        Ok(())
    }

    fn take(&mut self, document: &mut Document, mail: Mail) -> Flow {
        match mail {
            Mail::Join { outbox, join, span } => {
                self.joins.begin(join.connection, span);
                self.left.retain(|connection| *connection != join.connection);
                self.access.arrived(join.connection, &join.user.id);
                self.outboxes.insert(join.connection, outbox);
                self.feed(document, Input::Join(join))
            }
            // The charge ends when the document counts the edit as its own.
            Mail::Input(mut input, _charge) => {
                if let Input::Edit(edit) = &mut input {
                    self.hold_down(edit);
                }
                let leaving = if let Input::Leave { connection, .. } = &input { Some(*connection) } else { None };
                let flow = self.feed(document, input);
                self.left.extend(leaving);
                flow
            }
            Mail::AccessChanged { user_id, word } => {
                self.access_changed(user_id.as_ref(), word);
                Ok(())
            }
            Mail::GiveWay => {
                self.gives_way = true;
                Ok(())
            }
            Mail::IsHere { connection, answer } => {
                // Whoever asked may have gone.
                let _ = answer.send(document.has(connection));
                Ok(())
            }
            Mail::Settle { connection, settled } => {
                self.settling.push(settling::Settling { connection, settled });
                Ok(())
            }
        }
    }

    fn feed(&mut self, document: &mut Document, input: Input) -> Flow {
        let head = document.head().version;
        let commands = document.handle(input, now_ms());
        if document.head().version != head {
            self.grew = Some(Instant::now());
        }
        self.held.set(document.held_bytes());
        self.owed.set(document.acknowledgements_waiting());
        self.weigh(document);
        let flow = commands.into_iter().try_for_each(|command| self.carry_out(command));
        self.flush();
        self.observe_deliveries(document);
        flow
    }

    fn carry_out(&mut self, command: Command) -> Flow {
        match command {
            Command::Send { to, event } => self.send(&to, &event),
            Command::Answer { to, reply, answer } => {
                self.joins.answered(to, &answer);
                self.answer(to, reply, &answer);
            }
            Command::Lookup { connection, user_id, clients, after } => {
                let heard = self.access.heard();
                self.look_up(Box::new(Wanted { connection, user_id, clients, after, heard }));
            }
            Command::Commit(batch) => {
                let entries = io::encode_batch(&batch);
                let Batch { head, floor, .. } = batch;
                let span = root!(
                    "commit",
                    document.id = bounded(&self.id),
                    entries = number(entries.len()),
                    attempts = Empty,
                    appended = Empty,
                    otel.status_code = Empty
                );
                let sent = Sent { head, floor, entries, since: Instant::now(), span };
                self.committing = true;
                self.commit(Arc::new(sent), 0);
            }
            Command::Fetch { after } => self.fetch(after),
            Command::Save(snapshot) => {
                let (parts, id) = (Arc::clone(&self.inner.parts), Arc::clone(&self.id));
                // A snapshot is a second copy.
                let mut copy = parts.document_memory.charge(Use::Documents);
                copy.set(self.memory.bytes());
                self.start(async move {
                    let saved = io::save(&parts, &id, snapshot).await;
                    drop(copy);
                    Done::Saved(saved)
                });
            }
            Command::Publish(peer) => self.publish(&peer),
            Command::WritePresence(rows) => self.write_rows(rows),
            Command::ReadPresence => self.read_people(),
            Command::WatchPods(pods) => self.watch_pods(pods),
            Command::PauseReading { connection, pause } => {
                if let Some(outbox) = self.outboxes.get(&connection) {
                    outbox.pause_reading(&self.id, pause);
                }
            }
            Command::MakeDurable { ticket, at, by_commit } => self.make_durable(ticket, at, by_commit),
            Command::Diverged { version } => self.diverged(version),
            Command::GivenUp { edits } => self.gave_up(edits),
            Command::Reopen => return Err(End::Reopen),
        }
        Ok(())
    }

    fn start(&self, work: impl Future<Output = Done> + Send + 'static) {
        self.work.push(Box::pin(work));
    }

    fn finish(&mut self, document: &mut Document, done: Done) -> Flow {
        match done {
            Done::LookedUp { wanted, .. } if self.access.changed_since(&wanted.user_id, wanted.heard) => {
                // What it read of the access may be what was changed.
                self.look_up(Box::new(Wanted { heard: self.access.heard(), ..*wanted }));
                Ok(())
            }
            Done::Access { user_id, role } => self.access_read(document, user_id, role),
            Done::LookedUp { wanted, result } => {
                let connection = wanted.connection;
                let (result, end) = match result {
                    Ok(lookup) => (Ok(lookup), None),
                    Err(Ok(refusal)) => (Err(refusal), None),
                    Err(Err(trouble)) => (Err(trouble.refusal()), Some(trouble)),
                };
                let fed = self.feed(document, Input::LookedUp { connection, result });
                self.joins.end(connection, "joined");
                fed?;
                end.map_or(Ok(()), |trouble| self.trouble(document, trouble))
            }
            Done::Committed { batch, result, repeats } => self.committed(document, batch, result, repeats),
            Done::Fetched { asked_ms, result: Ok((entries, more)) } => {
                let last = entries.last().map(|last| last.at.version);
                // What no notice told of is late at least since it was asked for.
                self.deliveries.told(document.head().version.max(last.unwrap_or_default()), asked_ms);
                let beyond = last.map(|last| last + 1).filter(|_| more);
                self.feed(document, Input::Learned(entries))?;
                beyond.map_or(Ok(()), |version| self.feed(document, Input::Hint(version)))
            }
            Done::Saved(Ok(version)) => self.feed(document, Input::Saved(version)),
            Done::People(Ok((members, live))) => self.feed(document, Input::Presence { members, live }),
            Done::People(Err(trouble)) => {
                tracing::debug!(document = %self.id, %trouble, "the presence rows could not be read");
                self.feed(document, Input::PresenceUnread)
            }
            Done::Nothing => Ok(()),
            Done::AskAgain => {
                self.ask_the_log(document);
                Ok(())
            }
            Done::RowsWritten(rows) => {
                let is_ok = rows.is_some();
                // Only now: whoever hears of a row finds it in the store.
                if let Some(rows) = rows {
                    self.publish(&Peer::Members(rows));
                }
                self.feed(document, Input::PresenceWritten(is_ok))
            }
            Done::Fetched { result: Err(trouble), .. } | Done::Saved(Err(trouble)) => self.trouble(document, trouble),
        }
    }

    /// What a failed call means for the document; one that may succeed later is asked for again by whoever needs it.
    fn trouble(&mut self, document: &mut Document, trouble: Trouble) -> Flow {
        if let Trouble::Forked = trouble {
            return self.feed(document, Input::Forked);
        }
        if !trouble.is_passing() {
            return Err(End::Broken(trouble));
        }
        tracing::debug!(document = %self.id, %trouble, "a call to the store failed");
        Ok(())
    }

    /// Calls of a copy that has ended are of no interest.
    fn forget(&mut self) {
        self.work = FuturesUnordered::new();
        self.behind.clear();
        self.away = false;
        self.committing = false;
        self.promises = durable::Promises::default();
        self.access.forget_reads();
    }
}

/// Unix milliseconds that do not run backwards.
fn now_ms() -> u64 {
    static START: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), clock::unix()));
    clock::milliseconds(START.1 + START.0.elapsed())
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
