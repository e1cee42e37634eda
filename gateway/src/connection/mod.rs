//! One client, from the upgrade to its end.
//!
//! In: an upgraded socket and a seat. Out: the client's events for the documents, and what its outbox collects written
//! to the socket. One task owns all of it; at rest it holds no buffer. What the peer does wrong ends this connection
//! and no other.

mod client;
mod early;
mod socket;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use document::Leaving;
use protocol::Handshake;
use tokio::{net::TcpStream, time::Instant};
use websocket::{Decoder, Message};

use crate::{
    auth::Authenticator,
    connection::{client::Client, socket::Written},
    directory::Directory,
    documents::Documents,
    metrics::Metrics,
    outbox::{Ending, Outbox},
    registry::{Registry, Seat},
};

/// How long a client may take from the upgrade to CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a closed connection may take to take its last bytes and to close its side.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages above this many times the edit limit end the connection; smaller ones are read, and refused with their
/// acknowledgement.
const MESSAGE_EDITS: usize = 4;

/// The least that is read whatever the edit limit: a token must fit.
const MESSAGE_BYTES_MIN: usize = 64 * 1024;

/// Before CONNECT nobody needs more than a token.
const UNKNOWN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What connections need of their pod.
pub struct Pod {
    /// Verifies tokens.
    pub authenticator: Authenticator,
    /// Knows people and their access.
    pub directory: Directory,
    /// The open documents.
    pub documents: Documents,
    /// All connections.
    pub registry: Registry,
    /// The counters.
    pub metrics: Metrics,
    /// Limits of events.
    pub limits: protocol::Limits,
    /// Between two heartbeats.
    pub ping_interval: Duration,
    /// How long a client may take to answer one.
    pub ping_timeout: Duration,
    /// In a demo: the host name that clients are told.
    pub demo_host: Option<String>,
}

impl Pod {
    /// The largest message that is read.
    pub fn message_bytes_max(&self) -> usize {
        self.limits.edit_bytes.saturating_mul(MESSAGE_EDITS).max(MESSAGE_BYTES_MIN)
    }
}

/// Serves one connection until it ends. `first` is what came with the upgrade.
pub async fn run(pod: Arc<Pod>, seat: Seat, stream: TcpStream, first: Vec<u8>) {
    let stream = Arc::new(stream);
    let outbox = seat.outbox().clone();
    outbox.attach(stream.clone());
    let handshake = Handshake {
        sid: &pod.registry.fresh_name(),
        ping_interval_ms: milliseconds(pod.ping_interval),
        ping_timeout_ms: milliseconds(pod.ping_timeout),
        max_payload_bytes: pod.message_bytes_max(),
    };
    outbox.push_text(&protocol::open(handshake));
    let heard = AtomicBool::new(false);
    let mut client = Client::new(pod.clone(), seat);
    let mut decoder = Decoder::new(UNKNOWN_MESSAGE_BYTES_MAX);
    let said_goodbye = {
        let writing = socket::write(&stream, &outbox, &heard, pod.ping_interval, pod.ping_timeout);
        tokio::pin!(writing);
        let over = tokio::select! {
            over = read(&stream, &mut decoder, first, &mut client, &heard) => over,
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
    Box::pin(client.end()).await;
    drop(client);
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
    stream: &TcpStream,
    decoder: &mut Decoder,
    first: Vec<u8>,
    client: &mut Client,
    heard: &AtomicBool,
) -> Over {
    let mut messages = Vec::new();
    let mut fed = decoder.feed(&first, &mut messages);
    drop(first);
    loop {
        for message in std::mem::take(&mut messages) {
            // Boxed: what handling needs must not be part of every idle connection.
            match Box::pin(handle(client, message)).await {
                None => {}
                Some(over) => return over,
            }
            if client.is_connected() {
                decoder.set_message_bytes_max(client.pod().message_bytes_max());
            }
        }
        // Messages before the violation were handled.
        if let Err(violation) = fed {
            tracing::debug!(%violation, "closing a connection");
            return Over::Close(Ending::Transport { code: violation.close_code(), reason: "" });
        }
        let outbox = client.outbox();
        let readable = async {
            outbox.resumed().await;
            stream.readable().await
        };
        let deadline = client.deadline();
        tokio::select! {
            readable = readable => {
                if readable.is_err() {
                    return Over::Lost;
                }
                match socket::read_once(stream, decoder, &mut messages) {
                    Ok(Some(result)) => {
                        heard.store(true, Ordering::Relaxed);
                        fed = result;
                    }
                    Ok(None) => {}
                    Err(_) => return Over::Lost,
                }
            }
            () = until(deadline) => {
                if let Some(ending) = client.deadline_passed() {
                    return Over::Close(ending);
                }
            }
        }
    }
}

async fn handle(client: &mut Client, message: Message) -> Option<Over> {
    let handled = match message {
        Message::Text(text) => client.text(&text).await,
        Message::Binary(_) => client.binary().await,
        Message::Ping(payload) => {
            client.outbox().push(websocket::pong_frame(&payload));
            Ok(())
        }
        Message::Pong => Ok(()),
        // A tab that is closed says this too; the people in its documents see it leave after the grace.
        Message::Close(_) => Err(Ending::Transport { code: 1000, reason: "" }),
    };
    handled.err().map(Over::Close)
}

/// Waits for a moment, or for ever where there is none.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How the people of a document see an end.
fn leaving(said: bool) -> Leaving {
    if said { Leaving::Said } else { Leaving::Lost }
}

/// Puts the WebSocket frame of a text in line.
fn push(outbox: &Outbox, text: Option<String>) {
    if let Some(text) = text {
        outbox.push_text(&text);
    }
}
