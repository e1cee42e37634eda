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
    pin::pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use protocol::{EnginePacket, Handshake, Malformed};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;
use websocket::{Decoder, Message};

use crate::{
    auth::Authenticator,
    clock::milliseconds,
    connection::{
        client::Client,
        inbox::Inbox,
        socket::{Read, Writer, Written},
    },
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
    /// What the peer is told first: Engine.IO's handshake, unless this speaks another protocol over WebSocket.
    fn greeting(&self, handshake: Handshake<'_>) -> Option<String> {
        Some(protocol::open(handshake))
    }
    /// Handles the text of a WebSocket message: an Engine.IO packet, unless this speaks another protocol.
    fn text(&mut self, text: &str) -> impl Future<Output = Handled> + Send {
        async move {
            match protocol::decode_engine(text) {
                Ok(EnginePacket::Pong | EnginePacket::Noop) => Ok(()),
                Ok(EnginePacket::Close) => Err(Ending::Transport { code: 1000, reason: "" }),
                Ok(EnginePacket::Message(text)) => self.message(text).await,
                Err(error) => Err(malformed(error)),
            }
        }
    }
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
    let outbox = service.outbox();
    outbox.attach(stream.clone());
    let handshake = Handshake {
        sid: &sid,
        ping_interval_ms: milliseconds(interval),
        ping_timeout_ms: milliseconds(timeout),
        max_payload_bytes: message_bytes_max,
    };
    push(outbox, service.greeting(handshake));
    let message_bytes_max = service.message_bytes_max();
    let decoder = match outbox.deflate() {
        Some(_) => Decoder::inflating(message_bytes_max),
        None => Decoder::new(message_bytes_max),
    };
    let inbox = Inbox::new(outbox);
    let writer = Writer::new(stream.clone(), outbox.clone(), interval, timeout);
    // Boxed: a future holds what it was given twice, as its argument and as its variable.
    let line = Box::new(Line { service, stream, decoder, inbox, writer, slowed: None, last_reads: LAST_READS });
    line.serve(first)
}

/// One connection. What happens to it is found out by polling, one thing after the other: as futures, everything that it
/// may have to wait for would be part of it all the time.
struct Line<S> {
    service: S,
    stream: Arc<Stream>,
    decoder: Decoder,
    inbox: Inbox,
    writer: Writer,
    /// Until when nothing more is read, because too much came too fast.
    slowed: Option<Instant>,
    /// Reads that are left when it is asked to settle.
    last_reads: u8,
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

/// What a connection waited for.
enum Next {
    /// Something was read.
    Read(Read),
    /// It is to settle.
    Settle,
}

impl<S: Service> Line<S> {
    async fn serve(mut self: Box<Self>, first: Vec<u8>) {
        let over = self.read(first).await;
        Box::pin(self.end(over)).await;
    }

    async fn read(&mut self, first: Vec<u8>) -> Over {
        let mut read = Read::new(&first, &mut self.decoder);
        drop(first);
        loop {
            // Boxed: what handling needs must not be part of every idle connection.
            if let Err(over) = Box::pin(self.take(read)).await {
                return over;
            }
            let next = match poll_fn(|context| self.poll_next(context)).await {
                Ok(Next::Read(read)) => Ok(read),
                Ok(Next::Settle) => Box::pin(self.settle()).await,
                Err(over) => Err(over),
            };
            read = match next {
                Ok(read) => read,
                Err(over) => return over,
            };
        }
    }

    /// Handles what was read.
    async fn take(&mut self, read: Read) -> Result<(), Over> {
        let Line { service, decoder, inbox, writer, .. } = self;
        let wait = service.was_read(read.messages.len(), read.bytes);
        if !wait.is_zero() {
            self.slowed = Some(Instant::now() + wait);
            // What is not read is not heard either: the heartbeat must know.
            service.outbox().pause_reading(&PACE, true);
        }
        if !read.messages.is_empty() {
            inbox.inflated(decoder.inflated_bytes(), service.outbox()).map_err(Over::Close)?;
        }
        for message in read.messages {
            beside(writer, handle(service, message)).await?.map_err(Over::Close)?;
            decoder.set_message_bytes_max(service.message_bytes_max());
        }
        inbox.handled();
        // Messages before the violation were handled.
        read.fed.map_err(|violation| {
            tracing::debug!(%violation, "closing a connection");
            Over::Close(Ending::Transport { code: violation.close_code(), reason: "" })
        })?;
        if !service.outbox().is_settling() {
            inbox.keeps(decoder.buffered_bytes(), service.outbox()).map_err(Over::Close)?;
        }
        Ok(())
    }

    /// Writes, watches the time, and reads.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Next, Over>> {
        loop {
            let deadline = [self.service.deadline(), self.inbox.deadline(), self.slowed].into_iter().flatten().min();
            if let Poll::Ready(written) = self.writer.poll(context, deadline) {
                return Poll::Ready(Err(Over::Written(written)));
            }
            if self.service.outbox().is_settling() {
                return Poll::Ready(Ok(Next::Settle));
            }
            if deadline.is_none_or(|deadline| Instant::now() < deadline) {
                return self.poll_read(context);
            }
            self.deadline_passed().map_err(Over::Close)?;
        }
    }

    fn deadline_passed(&mut self) -> Handled {
        let outbox = self.service.outbox();
        if self.slowed.is_some_and(|until| until <= Instant::now()) {
            self.slowed = None;
            outbox.pause_reading(&PACE, false);
        }
        self.inbox.passed(outbox)?;
        self.service.deadline_passed().map_or(Ok(()), Err)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Next, Over>> {
        let outbox = self.service.outbox();
        loop {
            if outbox.is_paused() {
                return Poll::Pending;
            }
            if !self.decoder.has_more() && ready!(self.stream.poll_readable(context)).is_err() {
                return Poll::Ready(Err(Over::Lost));
            }
            let read = socket::read_once(&self.stream, &mut self.decoder);
            if self.stream.has_unsent() {
                // What TLS itself had to answer.
                outbox.wake();
            }
            match read {
                Ok(Some(read)) => {
                    self.writer.heard();
                    return Poll::Ready(Ok(Next::Read(read)));
                }
                Ok(None) => {}
                Err(_) => return Poll::Ready(Err(Over::Lost)),
            }
        }
    }

    /// Reads what has arrived before: it may be an edit that its client will not send again. Then everything is answered and
    /// nothing more is read; the writer sees the end, which comes when it is this connection's turn.
    async fn settle(&mut self) -> Result<Read, Over> {
        let Line { service, stream, decoder, writer, last_reads, .. } = self;
        if (*last_reads > 0 || decoder.has_more()) && !service.outbox().is_paused() {
            *last_reads = last_reads.saturating_sub(1);
            match beside(writer, last_read(stream, decoder)).await? {
                Ok(Some(read)) => return Ok(read),
                Ok(None) => {}
                Err(_) => return Err(Over::Lost),
            }
        }
        beside(writer, service.settle()).await?;
        service.outbox().settled();
        beside(writer, std::future::pending()).await
    }

    async fn end(self, over: Over) {
        let Line { mut service, stream, mut writer, .. } = self;
        let outbox = service.outbox().clone();
        let said_goodbye = match over {
            // What is still in line, the reason among it, gets a moment to be written.
            Over::Close(ending) => {
                outbox.close(ending);
                let writing = poll_fn(|context| writer.poll(context, None));
                matches!(timeout(GOODBYE_TIMEOUT, writing).await, Ok(Written::Closed))
            }
            Over::Written(written) => written == Written::Closed,
            Over::Lost => false,
        };
        drop(writer);
        outbox.close(Ending::Drop);
        service.end().await;
        drop(service);
        // Nobody else has it any more: the outbox gave its own up when it was told to drop.
        if let Some(mut stream) = Arc::into_inner(stream).filter(|_| said_goodbye) {
            socket::linger(&mut stream, GOODBYE_TIMEOUT).await;
        }
    }
}

/// Does something while the writer goes on.
///
/// # Errors
/// When that ends first.
async fn beside<T>(writer: &mut Writer, work: impl Future<Output = T>) -> Result<T, Over> {
    let mut work = pin!(work);
    let both = poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => writer.poll(context, None).map(|written| Err(Over::Written(written))),
    });
    both.await
}

/// What is there now; nothing after [`LAST_READ_WAIT`].
async fn last_read(stream: &Stream, decoder: &mut Decoder) -> io::Result<Option<Read>> {
    if !decoder.has_more() {
        match timeout(LAST_READ_WAIT, stream.readable()).await {
            Ok(readable) => readable?,
            Err(_) => return Ok(None),
        }
    }
    socket::read_once(stream, decoder)
}

async fn handle(service: &mut impl Service, message: Message) -> Handled {
    match message {
        Message::Text(text) => service.text(&text).await,
        Message::Binary(bytes) => service.binary(bytes).await,
        Message::Ping(payload) => {
            let pong = service.outbox().budget().frame(websocket::pong_frame(&payload));
            service.outbox().push(pong);
            Ok(())
        }
        Message::Pong => Ok(()),
        // A tab that is closed says this too; the people in its documents see it leave after the grace.
        Message::Close(code) => Err(Ending::Transport { code: code.unwrap_or(1000), reason: "" }),
    }
}

fn malformed(malformed: Malformed) -> Ending {
    tracing::debug!(%malformed, "closing a connection");
    Ending::Transport { code: 1002, reason: "malformed packet" }
}

/// Puts the WebSocket frame of a text in line.
fn push(outbox: &Outbox, text: Option<String>) {
    if let Some(text) = text {
        outbox.push_text(&text);
    }
}
