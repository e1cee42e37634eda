//! One client, from the upgrade to its end.
//!
//! In: an upgraded socket and a seat. Out: the client's events for the documents, and what its outbox collects written
//! to the socket. One task owns all of it; at rest it holds no buffer. What the peer does wrong ends this connection
//! and no other.

mod client;
mod early;
mod inbox;
mod pace;
mod socket;
mod socketio;

pub use socketio::{Application, Event, SocketIo};

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use protocol::{EnginePacket, Handshake, Malformed};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::TaskTracker;
use websocket::{Decoder, Message, Violation};

use crate::{
    auth::Authenticator,
    clock::milliseconds,
    connection::{client::Client, inbox::Inbox, socket::Written},
    documents::Documents,
    live::Live,
    metrics::Metrics,
    outbox::{Ending, Outbox},
    registry::{Registry, Seat},
    sign_in::SignIn,
    stream::Stream,
    tickets::Tickets,
};

/// How long a client may take from the upgrade to CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a closed connection may take to take its last bytes and to close its side.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads of what has arrived already when a connection is asked to settle: no client fills it faster than it is read.
const LAST_READS: u8 = 4;
/// How long such a read may take to find out whether there is anything.
const LAST_READ_WAIT: Duration = Duration::from_millis(10);

/// Messages above this many times the edit limit end the connection; smaller ones are read, and refused with their
/// acknowledgement.
const MESSAGE_EDITS: usize = 4;

/// The least that is read whatever the edit limit: a token must fit.
const MESSAGE_BYTES_MIN: usize = 64 * 1024;

/// Before CONNECT nobody needs more than a token.
const UNKNOWN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Who stops the reading of a connection that sends too fast; no document has this id.
static PACE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("{pace}"));

/// What connections need of their pod.
pub struct Pod {
    /// Verifies tokens.
    pub authenticator: Authenticator,
    /// Signs clients in.
    pub sign_in: SignIn,
    /// The open documents.
    pub documents: Documents,
    /// All connections.
    pub registry: Registry,
    /// Checks what lets people come back first.
    pub tickets: Tickets,
    /// Limits and rates that change while it runs.
    pub live: watch::Receiver<Live>,
    /// The counters.
    pub metrics: Metrics,
    /// Limits of events.
    pub limits: protocol::Limits,
    /// Between two heartbeats.
    pub ping_interval: Duration,
    /// How long a client may take to answer one.
    pub ping_timeout: Duration,
    /// Whether messages are compressed for clients that offer it.
    pub compression: bool,
    /// In a demo: the host name that clients are told.
    pub demo_host: Option<String>,
}

impl Pod {
    /// The largest message that is read.
    pub fn message_bytes_max(&self) -> usize {
        self.limits.edit_bytes.saturating_mul(MESSAGE_EDITS).max(MESSAGE_BYTES_MIN)
    }

    /// The beginning of one more connection.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            sid: self.registry.fresh_name(),
            interval: self.ping_interval,
            timeout: self.ping_timeout,
            message_bytes_max: self.message_bytes_max(),
        }
    }
}

/// What the messages of a connection are for: the layer above Engine.IO.
pub trait Service: Send {
    /// Where answers go.
    fn outbox(&self) -> &Outbox;
    /// The largest message that is read from now on.
    fn message_bytes_max(&self) -> usize;
    /// Takes note of what one read brought, and tells how long to read nothing more.
    fn was_read(&mut self, messages: usize, bytes: usize) -> Duration;
    /// Handles the text of an Engine.IO message.
    fn message(&mut self, text: &str) -> impl Future<Output = Handled> + Send;
    /// Handles a binary message.
    fn binary(&mut self, bytes: Vec<u8>) -> impl Future<Output = Handled> + Send;
    /// When [`Service::deadline_passed`] has something to do.
    fn deadline(&self) -> Option<Instant>;
    /// Does what is due.
    fn deadline_passed(&mut self) -> Option<Ending>;
    /// Waits until everything that was handed in is answered; nothing more will be.
    fn settle(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// The connection is over.
    fn end(&mut self) -> impl Future<Output = ()> + Send;
}

/// Handled, or the way the connection is to end.
pub type Handled = Result<(), Ending>;

/// Runs the connections that a server admits.
pub trait Attend: Send + Sync {
    /// Starts the task of one connection. `first` is what came with the upgrade.
    fn attend(&self, tasks: &TaskTracker, seat: Seat, stream: Stream, first: Vec<u8>);
}

impl Attend for Arc<Pod> {
    fn attend(&self, tasks: &TaskTracker, seat: Seat, stream: Stream, first: Vec<u8>) {
        tasks.spawn(run(self.clone(), seat, stream, first));
    }
}

/// Serves a client of the documents until it ends.
pub fn run(pod: Arc<Pod>, seat: Seat, stream: Stream, first: Vec<u8>) -> impl Future<Output = ()> + Send {
    let heartbeat = pod.heartbeat();
    serve(SocketIo::new(Client::new(pod, seat), CONNECT_TIMEOUT), heartbeat, stream, first)
}

/// What Engine.IO tells first, and how it finds the dead.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// The Engine.IO session id.
    pub sid: String,
    /// Between two heartbeats.
    pub interval: Duration,
    /// How long a client may take to answer one.
    pub timeout: Duration,
    /// What clients are told of the largest message.
    pub message_bytes_max: usize,
}

/// Serves one connection until it ends. `first` is what came with the upgrade.
pub fn serve(
    service: impl Service,
    heartbeat: Heartbeat,
    stream: Stream,
    first: Vec<u8>,
) -> impl Future<Output = ()> + Send {
    let Heartbeat { sid, interval, timeout, message_bytes_max } = heartbeat;
    let stream = Arc::new(stream);
    service.outbox().attach(stream.clone());
    service.outbox().push_text(&protocol::open(Handshake {
        sid: &sid,
        ping_interval_ms: milliseconds(interval),
        ping_timeout_ms: milliseconds(timeout),
        max_payload_bytes: message_bytes_max,
    }));
    // Boxed: a future holds what it was given twice, as its argument and as its variable.
    until_end(Box::new(service), interval, timeout, stream, first)
}

async fn until_end(
    mut service: Box<impl Service>,
    interval: Duration,
    timeout: Duration,
    stream: Arc<Stream>,
    first: Vec<u8>,
) {
    let outbox = service.outbox().clone();
    let heard = AtomicBool::new(false);
    let message_bytes_max = service.message_bytes_max();
    let mut decoder = match outbox.deflate() {
        Some(_) => Decoder::inflating(message_bytes_max),
        None => Decoder::new(message_bytes_max),
    };
    let said_goodbye = {
        let writing = socket::write(&stream, &outbox, &heard, interval, timeout);
        tokio::pin!(writing);
        let over = tokio::select! {
            over = read(&stream, &mut decoder, first, &mut *service, &heard) => over,
            written = &mut writing => Over::Written(written),
        };
        match over {
            // What is still in line, the reason among it, gets a moment to be written.
            Over::Close(ending) => {
                outbox.close(ending);
                matches!(tokio::time::timeout(GOODBYE_TIMEOUT, &mut writing).await, Ok(Written::Closed))
            }
            Over::Written(written) => written == Written::Closed,
            Over::Lost => false,
        }
    };
    outbox.close(Ending::Drop);
    Box::pin(service.end()).await;
    drop(service);
    // Nobody else has it any more: the outbox gave its own up when it was told to drop.
    if let Some(mut stream) = Arc::into_inner(stream).filter(|_| said_goodbye) {
        Box::pin(socket::linger(&mut stream, GOODBYE_TIMEOUT)).await;
    }
}

/// Why reading ended.
enum Over {
    /// The connection is to be closed like this.
    Close(Ending),
    /// The writer ended first.
    Written(Written),
    /// The peer is gone.
    Lost,
}

async fn read(
    stream: &Stream,
    decoder: &mut Decoder,
    first: Vec<u8>,
    service: &mut impl Service,
    heard: &AtomicBool,
) -> Over {
    let mut messages = Vec::new();
    let mut last_reads = LAST_READS;
    let mut fed = decoder.feed(&first, &mut messages);
    // What was small on the wire counts as what it became.
    let mut length = first.len() + decoder.inflated_bytes();
    drop(first);
    let mut inbox = Inbox::new(service.outbox());
    // Until when nothing more is read, because too much came too fast.
    let mut slowed: Option<Instant> = None;
    loop {
        let wait = service.was_read(messages.len(), std::mem::take(&mut length));
        if !wait.is_zero() {
            slowed = Some(Instant::now() + wait);
            // What is not read is not heard either: the heartbeat must know.
            service.outbox().pause_reading(&PACE, true);
        }
        if !messages.is_empty()
            && let Err(ending) = inbox.inflated(decoder.inflated_bytes(), service.outbox())
        {
            return Over::Close(ending);
        }
        for message in std::mem::take(&mut messages) {
            // Boxed: what handling needs must not be part of every idle connection.
            match Box::pin(handle(service, message)).await {
                None => {}
                Some(over) => return over,
            }
            decoder.set_message_bytes_max(service.message_bytes_max());
        }
        inbox.handled();
        // Messages before the violation were handled.
        if let Err(violation) = fed {
            tracing::debug!(%violation, "closing a connection");
            return Over::Close(Ending::Transport { code: violation.close_code(), reason: "" });
        }
        if service.outbox().is_settling() {
            // What has arrived before may be an edit that its client will not send again.
            if (last_reads > 0 || decoder.has_more()) && !service.outbox().is_paused() {
                last_reads = last_reads.saturating_sub(1);
                match Box::pin(last_read(stream, decoder, &mut messages)).await {
                    Ok(Some((read, result))) => {
                        length = read;
                        fed = result;
                        continue;
                    }
                    Ok(None) => {}
                    Err(_) => return Over::Lost,
                }
            }
            Box::pin(service.settle()).await;
            service.outbox().settled();
            // Nothing is read any more; the writer sees the end, which comes when it is this connection's turn.
            return std::future::pending().await;
        }
        let outbox = service.outbox();
        if let Err(ending) = inbox.keeps(decoder.buffered_bytes(), outbox) {
            return Over::Close(ending);
        }
        // The wake-up is the writer's, which is in the same task.
        let settling = poll_fn(|_| if outbox.is_settling() { Poll::Ready(()) } else { Poll::Pending });
        let has_more = decoder.has_more();
        let readable = async {
            if let Some(until) = slowed {
                // Boxed: rare, and a timer is large.
                Box::pin(tokio::time::sleep_until(until)).await;
                outbox.pause_reading(&PACE, false);
            }
            outbox.resumed().await;
            if has_more { Ok(()) } else { stream.readable().await }
        };
        let deadline = [service.deadline(), inbox.deadline()].into_iter().flatten().min();
        tokio::select! {
            readable = readable => {
                slowed = None;
                if readable.is_err() {
                    return Over::Lost;
                }
                match socket::read_once(stream, decoder, &mut messages) {
                    Ok(Some((read, result))) => {
                        heard.store(true, Ordering::Relaxed);
                        length = read;
                        fed = result;
                    }
                    Ok(None) => {}
                    Err(_) => return Over::Lost,
                }
                if stream.has_unsent() {
                    // What TLS itself had to answer.
                    service.outbox().wake();
                }
            }
            () = settling => {}
            () = until(deadline) => {
                let passed = inbox.passed(service.outbox());
                if let Some(ending) = passed.err().or_else(|| service.deadline_passed()) {
                    return Over::Close(ending);
                }
            }
        }
    }
}

/// What is there now; nothing after [`LAST_READ_WAIT`].
async fn last_read(
    stream: &Stream,
    decoder: &mut Decoder,
    messages: &mut Vec<Message>,
) -> io::Result<Option<(usize, Result<(), Violation>)>> {
    if decoder.has_more() {
        return socket::read_once(stream, decoder, messages);
    }
    match tokio::time::timeout(LAST_READ_WAIT, stream.readable()).await {
        Ok(readable) => readable.and_then(|()| socket::read_once(stream, decoder, messages)),
        Err(_) => Ok(None),
    }
}

async fn handle(service: &mut impl Service, message: Message) -> Option<Over> {
    let handled = match message {
        Message::Text(text) => match protocol::decode_engine(&text) {
            Ok(EnginePacket::Pong | EnginePacket::Noop) => Ok(()),
            Ok(EnginePacket::Close) => Err(Ending::Transport { code: 1000, reason: "" }),
            Ok(EnginePacket::Message(text)) => service.message(text).await,
            Err(error) => Err(malformed(error)),
        },
        Message::Binary(bytes) => service.binary(bytes).await,
        Message::Ping(payload) => {
            let pong = service.outbox().budget().frame(websocket::pong_frame(&payload));
            service.outbox().push(pong);
            Ok(())
        }
        Message::Pong => Ok(()),
        // A tab that is closed says this too; the people in its documents see it leave after the grace.
        Message::Close(code) => Err(Ending::Transport { code: code.unwrap_or(1000), reason: "" }),
    };
    handled.err().map(Over::Close)
}

fn malformed(malformed: Malformed) -> Ending {
    tracing::debug!(%malformed, "closing a connection");
    Ending::Transport { code: 1002, reason: "malformed packet" }
}

/// Waits for a moment, or for ever where there is none.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Puts the WebSocket frame of a text in line.
fn push(outbox: &Outbox, text: Option<String>) {
    if let Some(text) = text {
        outbox.push_text(&text);
    }
}
