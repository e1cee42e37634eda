//! Readers that are slow in different ways beside many who write into one large document at once.
//!
//! In: real sockets, a real Redis, and four readers: one who takes a message now and then, one who reads in bursts, one who
//! sleeps until the others are done, and one who sends heartbeats and never reads. Out: what waits for a connection,
//! looked at all the time, stays within the bound of each class of traffic; the writers finish; whoever reads on ends
//! with what everybody has; who never reads is closed, and counted.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod servers;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use collab_gateway::{
    connection::Pod,
    outbox::{EDIT_BYTES_MAX, LATEST_BYTES_MAX, Outbox, WAITING_BYTES_MAX, Waiting},
};
use editor::{Editor, Gateway, Socket, connect, token};
use futures_util::{SinkExt, StreamExt, future::join_all};
use ot::Delta;
use redis::AsyncCommands;
use serde_json::json;
use servers::{Engine, PATIENCE, Server, eventually, within};
use tokio::sync::{Barrier, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

const WRITERS: usize = 64;
/// Edits of each: all together are more than the kernel's buffers (4 MiB), an outbox and the window of the log (1 MiB) take,
/// so that whoever sleeps must ask for the content.
const ROUNDS: u64 = 24;
/// Of the value that each edit writes: nearly the longest that is allowed.
const VALUE_BYTES: usize = 4000;
/// Of the text, put there by some large edits.
const TEXT_BYTES: usize = 2 << 20;
/// What JSON and the envelope add to a value or a text, amply.
const ENVELOPE_BYTES: usize = 512;
/// The content with everybody's value in one frame.
const CONTENT_BYTES_MAX: usize = TEXT_BYTES + (WRITERS + 1) * (VALUE_BYTES + ENVELOPE_BYTES);
/// Of the pod with the readers.
const BUDGET: usize = 64 << 20;
/// All edits, on a busy machine.
const WRITTEN_WITHIN: Duration = PATIENCE.saturating_mul(6);
const SLOW: [&str; 3] = ["crawls", "bursts", "sleeps"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_slow_readers_is_bounded_and_they_end_with_what_everybody_has() {
    let writers: Vec<String> = (0..WRITERS).map(|n| format!("w{n}")).collect();
    let server = server(&writers).await;
    // Whoever is slow here finds a heartbeat late, behind all that waits, and must not be taken for dead.
    let (budget, patient) = (format!("--max-buffer-bytes={BUDGET}"), "--ping-timeout=600s");
    let one = Gateway::start_with(&server.address(), &[&budget, patient]).await;
    let two = Gateway::start_with(&server.address(), &[patient]).await;
    let deaf = Gateway::start_with(&server.address(), &["--ping-interval", "2s", "--ping-timeout", "2s"]).await;
    let mut eve = Editor::new("eve", "d", &[two.address], 9);
    // Before there is much to read: a writer reads all the time and is never sent away.
    let joining =
        (1..).zip(&writers).map(|(place, user): (usize, _)| Writer::join([&one, &two][place % 2].address, user, place));
    let joined = join_all(joining).await;
    fill(&mut eve).await;
    let filled = eve.version;
    eve.cut();
    let [mut crawls, mut bursts, mut sleeps] = SLOW.map(|user| Editor::new(user, "d", &[one.address], 1));
    for reader in [&mut crawls, &mut bursts, &mut sleeps] {
        reader.is_narrow = true;
        reader.until("the reader is in", Editor::is_joined).await;
    }
    let before = sleeps.version;
    let never = never_reads(&deaf).await;
    let (pod, quiet) = (pod(&one), pod(&deaf));
    let (commits, done) = (watch::Sender::new(0), CancellationToken::new());
    let start = Instant::now();
    let writing = async {
        // One that is late is behind by less than two edits of everybody, which is half the window of the log.
        let round = Barrier::new(WRITERS);
        let places = joined.into_iter().map(|writer| writer.write(filled, &round, &commits));
        let newest =
            tokio::time::timeout(WRITTEN_WITHIN, join_all(places)).await.expect("nobody waits for the slow ones");
        eprintln!("{} edits by {WRITERS} writers in {:?}", WRITERS as u64 * ROUNDS, start.elapsed());
        done.cancel();
        newest.into_iter().max().unwrap()
    };
    let crawling = async {
        let mut commits = commits.subscribe();
        for at in (0..).step_by(4) {
            tokio::select! {
                () = done.cancelled() => break,
                // Its messages come with the commits.
                () = async { commits.wait_for(|count| *count > at).await.unwrap(); crawls.step().await } => {}
            }
        }
    };
    let bursting = async {
        while !done.is_cancelled() {
            let fell_behind = async || done.is_cancelled() || edits(pod, "bursts") > EDIT_BYTES_MAX / 2;
            within(WRITTEN_WITHIN, "it fell behind", fell_behind).await;
            while !done.is_cancelled() && outbox(pod, "bursts").is_some_and(|outbox| outbox.waiting().bytes() > 0) {
                bursts.step().await;
            }
        }
    };
    let watching = watch(pod, &done);
    let (newest, (), (), mut seen) = tokio::join!(writing, crawling, bursting, watching);
    assert_eq!(sleeps.version, before, "it read nothing so far");
    // Still looked at while they catch up.
    let caught_up = CancellationToken::new();
    let catching_up = async {
        let readers = [&mut crawls, &mut bursts, &mut sleeps]
            .map(|reader| reader.until("it has it all", move |reader| reader.is_joined() && reader.version >= newest));
        join_all(readers).await;
        caught_up.cancel();
    };
    let ((), since) = tokio::join!(catching_up, watch(pod, &caught_up));
    seen.add(since);
    eve.until("eve has it all", |eve| eve.version >= newest).await;
    for reader in [&crawls, &bursts, &sleeps] {
        assert_eq!(reader.content(), eve.content(), "{}", reader.user);
        assert_eq!(reader.closes, [], "{} lived through it", reader.user);
    }
    for (place, op) in json(&eve.content()).as_array().unwrap()[..=WRITERS].iter().enumerate().skip(1) {
        assert_eq!(op["attributes"]["k"], value(place, ROUNDS), "the last of writer {place}");
    }
    assert_eq!(sleeps.joins_with_content, 2, "it was too far behind for anything else");
    seen.check();
    eventually("who never reads is closed", async || quiet.registry.count() == 0).await;
    assert_eq!(quiet.metrics.slow_consumers.get(), 2, "it fell behind, and it was closed");
    never.abort();
}

/// The most that was seen waiting.
#[derive(Debug, Default)]
struct Seen {
    by_user: BTreeMap<&'static str, Waiting>,
    anybody: Waiting,
    budget: usize,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        for (user, waiting) in other.by_user {
            self.by_user.entry(user).or_default().raise(waiting);
        }
        self.anybody.raise(other.anybody);
        self.budget = self.budget.max(other.budget);
    }

    fn check(&self) {
        eprintln!("{self:?}");
        for user in SLOW {
            let most = self.by_user[user];
            assert!(most.edit > EDIT_BYTES_MAX / 2, "{user} was never slow: make the edits larger");
        }
        let Waiting { must, snapshot, edit, latest } = self.anybody;
        assert!(edit <= EDIT_BYTES_MAX && latest <= LATEST_BYTES_MAX && must <= WAITING_BYTES_MAX, "{self:?}");
        assert!(snapshot <= CONTENT_BYTES_MAX, "more than one content waits: {self:?}");
        assert!(self.budget <= BUDGET, "{self:?}");
    }
}

trait Raise {
    fn raise(&mut self, other: Waiting);
}

impl Raise for Waiting {
    fn raise(&mut self, other: Waiting) {
        self.must = self.must.max(other.must);
        self.snapshot = self.snapshot.max(other.snapshot);
        self.edit = self.edit.max(other.edit);
        self.latest = self.latest.max(other.latest);
    }
}

/// Looks at what waits, again and again.
async fn watch(pod: &Pod, done: &CancellationToken) -> Seen {
    let mut seen = Seen::default();
    while !done.is_cancelled() {
        for outbox in pod.registry.outboxes() {
            seen.anybody.raise(outbox.waiting());
            seen.budget = seen.budget.max(outbox.budget().held());
        }
        for user in SLOW {
            let waiting = outbox(pod, user).map(|outbox| outbox.waiting()).unwrap_or_default();
            seen.by_user.entry(user).or_default().raise(waiting);
        }
        // Polling interval, not a wait for something to happen.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    seen
}

fn pod(gateway: &Gateway) -> &Pod {
    gateway.running.as_ref().unwrap().server.pod()
}

fn outbox(pod: &Pod, user: &str) -> Option<Outbox> {
    pod.registry.outboxes_of(user).pop()
}

fn edits(pod: &Pod, user: &str) -> usize {
    outbox(pod, user).map_or(0, |outbox| outbox.waiting().edit)
}

async fn server(writers: &[String]) -> Server {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    for user in writers.iter().map(String::as_str).chain(SLOW).chain(["eve", "never"]) {
        client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    server
}

/// A text that takes a while to send.
async fn fill(eve: &mut Editor) {
    const PIECE_BYTES: usize = 512 << 10;
    eve.type_all(vec!["x".repeat(PIECE_BYTES); TEXT_BYTES / PIECE_BYTES]).await;
}

/// One who signs in and joins, shows that it lives, and reads nothing.
async fn never_reads(gateway: &Gateway) -> tokio::task::JoinHandle<()> {
    let mut socket = connect(gateway.address, true).await.unwrap();
    for text in [format!("40{}", json!({"token": token("never")})), format!("42{}", json!(["join-document", "d"]))] {
        socket.send(Message::text(text)).await.unwrap();
    }
    let pod = pod(gateway);
    eventually("it is in", async || pod.documents.count() > 0).await;
    tokio::spawn(async move {
        while socket.send(Message::text("3")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

/// One who formats a character of its own and looks at nothing but versions: as its edits do not move any text, each
/// applies to whatever version it has heard of.
struct Writer {
    socket: Socket,
    place: usize,
    version: u64,
    session: String,
}

impl Writer {
    async fn join(gateway: std::net::SocketAddr, user: &str, place: usize) -> Self {
        let socket = connect(gateway, false).await.unwrap();
        let mut writer = Self { socket, place, version: 0, session: String::new() };
        writer.say(format!("40{}", json!({"token": token(user), "clientId": user}))).await;
        writer.say(format!("42{}", json!(["join-document", {"documentId": "d", "as": "delta"}]))).await;
        writer.until(|text| text.starts_with(r#"42["document-joined""#)).await;
        writer
    }

    /// All its edits, one in each round; the version of the last.
    async fn write(mut self, filled: u64, round: &Barrier, commits: &watch::Sender<u64>) -> u64 {
        while self.version < filled {
            self.until(|_| true).await;
        }
        for seq in 1..=ROUNDS {
            round.wait().await;
            let ops = json!([{"retain": self.place},
                {"retain": 1, "attributes": {"k": value(self.place, seq)}}]);
            let (version, session) = (self.version, &self.session);
            let edit = json!({"documentId": "d", "version": version, "seq": seq, "session": session, "ops": ops});
            self.say(format!("42{seq}{}", json!(["edit", edit]))).await;
            let acknowledgement = format!("43{seq}[");
            let answer = self.until(|text| text.starts_with(&acknowledgement)).await;
            self.version = field(&answer, "version").unwrap_or_else(|| panic!("{answer}")).parse().unwrap();
            commits.send_modify(|count| *count += 1);
        }
        self.version
    }

    async fn say(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Reads up to such a message, and keeps what is the newest.
    async fn until(&mut self, is_it: impl Fn(&str) -> bool) -> String {
        loop {
            let message = tokio::time::timeout(2 * PATIENCE, self.socket.next()).await.expect("something comes");
            let Message::Text(text) = message.unwrap().unwrap() else { continue };
            let text = text.as_str();
            assert!(!text.starts_with(r#"42["rejoin""#), "a writer reads all the time");
            if text == "2" {
                self.say("3".to_owned()).await;
            } else if text.starts_with(r#"42["edit""#) || text.starts_with(r#"42["document-joined""#) {
                self.version = field(text, "version").unwrap().parse().unwrap();
                self.session = field(text, "session").map_or(std::mem::take(&mut self.session), str::to_owned);
            }
            if is_it(text) {
                return text.to_owned();
            }
        }
    }
}

/// The first field of this name in a JSON text, a number or a plain string.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\"{name}\":"))?;
    Some(rest.split([',', '}']).next()?.trim_matches('"'))
}

fn value(place: usize, seq: u64) -> String {
    format!("{:.<VALUE_BYTES$}", format!("{place} {seq} "))
}

fn json(delta: &Delta) -> serde_json::Value {
    serde_json::to_value(protocol::DeltaJson(delta)).unwrap()
}
