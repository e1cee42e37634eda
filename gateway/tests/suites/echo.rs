//! The servers that the suites speak to: the gateway's own, with other things to do than documents.
//!
//! In: the level that is echoed. Out: an address. Everything below that level is the product's code: the upgrade, the
//! WebSocket codec, heartbeats, time-outs, packets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use collab_gateway::{
    config::Config,
    connection::{self, Application, Attend, Event, Handled, Heartbeat, Pod, Service, SocketIo},
    outbox::{Class, Ending, Outbox},
    registry::Seat,
    server::Server,
    start::{self, Owned, Running},
    stream::Stream,
};
use document::ReplyId;
use protocol::Handshake;
use serde_json::value::RawValue;
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use websocket::Deflate;

/// What the official suites expect of their server.
const FLAGS: [&str; 7] =
    ["--ping-interval", "300ms", "--ping-timeout", "200ms", "--max-edit-bytes", "250000", "--compression"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// The largest message of the cases of WebSocket, and a little.
const RAW_MESSAGE_BYTES_MAX: usize = 17 << 20;
/// Longer than a test.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// A server until it is dropped.
pub(crate) struct Suite {
    pub(crate) address: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
    _owned: Owned,
    _settings: watch::Sender<collab_gateway::live::Live>,
    _files: tempfile::TempDir,
}

/// Serves with connections of this kind.
pub(crate) async fn serve(connections: impl FnOnce(Arc<Pod>) -> Box<dyn Attend>) -> Suite {
    let files = tempfile::tempdir().unwrap();
    let secret = files.path().join("secret");
    std::fs::write(&secret, "a secret that nobody needs here\n").unwrap();
    let words = ["collab-gateway", "--jwt-secret-file", secret.to_str().unwrap()];
    let config = Config::load(words.into_iter().chain(FLAGS).map(Into::into)).unwrap();
    let (settings, live) = watch::channel(config.live.clone());
    let Running { server, owned, .. } = start::start(&config, live.clone()).await.unwrap();
    let pod = server.shared_pod();
    let server = Server::attended_by(connections(pod.clone()), pod, live, None, Vec::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(server.serve(listener, stop.clone()));
    Suite { address, _stop: stop.drop_guard(), _owned: owned, _settings: settings, _files: files }
}

/// Engine.IO messages come back.
pub(crate) struct EngineEcho(pub(crate) Arc<Pod>);

impl Attend for EngineEcho {
    fn attend(&self, tasks: &TaskTracker, seat: Seat, stream: Stream, first: Vec<u8>) {
        tasks.spawn(connection::serve(Engine(seat), heartbeat(&self.0), stream, first));
    }
}

/// What the Socket.IO suite asks for: `auth`, `message-back`, acknowledgements, attachments, `/` and `/custom`.
pub(crate) struct SocketEcho(pub(crate) Arc<Pod>);

impl Attend for SocketEcho {
    fn attend(&self, tasks: &TaskTracker, seat: Seat, stream: Stream, first: Vec<u8>) {
        let service = SocketIo::new(Echo { seat, namespaces: Vec::new() }, CONNECT_TIMEOUT);
        tasks.spawn(connection::serve(service, heartbeat(&self.0), stream, first));
    }
}

fn heartbeat(pod: &Pod) -> Heartbeat {
    assert_eq!(pod.message_bytes_max(), MESSAGE_BYTES_MAX);
    pod.heartbeat()
}

struct Engine(Seat);

impl Service for Engine {
    fn outbox(&self) -> &Outbox {
        self.0.outbox()
    }

    fn message_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX
    }

    fn was_read(&mut self, _messages: usize, _bytes: usize) -> Duration {
        Duration::ZERO
    }

    async fn message(&mut self, text: &str) -> Handled {
        self.outbox().push_text(&format!("4{text}"));
        Ok(())
    }

    async fn binary(&mut self, bytes: Vec<u8>) -> Handled {
        self.outbox().push(websocket::binary_frame(&bytes));
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn deadline_passed(&mut self) -> Option<Ending> {
        None
    }

    async fn end(&mut self) {}
}

struct Echo {
    seat: Seat,
    namespaces: Vec<String>,
}

impl Application for Echo {
    fn outbox(&self) -> &Outbox {
        self.seat.outbox()
    }

    fn message_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX
    }

    fn attachment_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX
    }

    fn has_namespace(&self, name: &str) -> bool {
        ["/", "/custom"].contains(&name)
    }

    fn is_connected(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|connected| connected == namespace)
    }

    async fn connect(&mut self, namespace: &str, auth: Option<&str>) -> Handled {
        self.namespaces.push(namespace.to_owned());
        let head = head(namespace);
        self.outbox().push_text(&format!(r#"40{head}{{"sid":"some-id"}}"#));
        self.outbox().push_text(&format!(r#"42{head}["auth",{}]"#, auth.unwrap_or("{}")));
        Ok(())
    }

    async fn disconnect(&mut self, namespace: &str) {
        self.namespaces.retain(|connected| connected != namespace);
    }

    async fn event(&mut self, event: Event<'_>) {
        let Event { namespace, reply, name, arguments, attachments } = event;
        let head = head(namespace);
        let arguments = arguments.iter().map(|raw: &&RawValue| raw.get()).collect::<Vec<_>>().join(",");
        let (event, ack, count) = match attachments.len() {
            0 => ("42", "43", String::new()),
            count => ("45", "46", format!("{count}-")),
        };
        let text = match (name, reply) {
            ("message", _) => format!(r#"{event}{count}{head}["message-back",{arguments}]"#),
            ("message-with-ack", Some(ReplyId(id))) => format!("{ack}{count}{head}{id}[{arguments}]"),
            _ => return,
        };
        self.outbox().push_text(&text);
        for attachment in attachments {
            self.outbox().push(websocket::binary_frame(attachment));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn deadline_passed(&mut self) -> Option<Ending> {
        None
    }

    async fn end(&mut self) {}
}

fn head(namespace: &str) -> String {
    if namespace == "/" { String::new() } else { format!("{namespace},") }
}

/// WebSocket messages come back: the connection without what Engine.IO and Socket.IO add.
pub(crate) struct WebSocketEcho(pub(crate) Arc<Pod>);

impl Attend for WebSocketEcho {
    fn attend(&self, tasks: &TaskTracker, seat: Seat, stream: Stream, first: Vec<u8>) {
        // Heartbeats are Engine.IO's: none comes as long as a case takes.
        let heartbeat = Heartbeat { interval: NEVER, timeout: NEVER, ..self.0.heartbeat() };
        tasks.spawn(connection::serve(Raw(seat), heartbeat, stream, first));
    }
}

struct Raw(Seat);

impl Raw {
    /// As large as they come, and the next message is not handled before this is out.
    async fn send(&self, frame: Bytes) -> Handled {
        self.outbox().push_later(frame, Class::Snapshot);
        self.outbox().flush();
        self.outbox().snapshots_written().await;
        Ok(())
    }
}

impl Service for Raw {
    fn outbox(&self) -> &Outbox {
        self.0.outbox()
    }

    fn message_bytes_max(&self) -> usize {
        RAW_MESSAGE_BYTES_MAX
    }

    fn was_read(&mut self, _messages: usize, _bytes: usize) -> Duration {
        Duration::ZERO
    }

    fn greeting(&self, _handshake: Handshake<'_>) -> Option<String> {
        None
    }

    async fn text(&mut self, text: &str) -> Handled {
        let frame = match self.outbox().deflate() {
            None => websocket::text_frame(text),
            Some(terms) => squeezed(terms, text.as_bytes(), 0xc1, || websocket::deflated_text_frame(text)),
        };
        self.send(frame).await
    }

    async fn message(&mut self, _text: &str) -> Handled {
        unreachable!("no text is read as Engine.IO's")
    }

    async fn binary(&mut self, bytes: Vec<u8>) -> Handled {
        let frame = match self.outbox().deflate() {
            None => websocket::binary_frame(&bytes),
            Some(terms) => squeezed(terms, &bytes, 0xc2, || websocket::deflated_binary_frame(&bytes)),
        };
        self.send(frame).await
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn deadline_passed(&mut self) -> Option<Ending> {
        None
    }

    async fn end(&mut self) {}
}

/// The compressed frame, or where the codec gives none a message that says it is compressed and is not: the tool does not
/// take plain answers to compressed messages, though the RFC lets a server choose.
fn squeezed(terms: Deflate, message: &[u8], first: u8, deflated: impl FnOnce() -> Option<Bytes>) -> Bytes {
    if let Some(frame) = terms.fits(message.len()).then(deflated).flatten() {
        return frame;
    }
    let mut payload = Vec::new();
    for block in message.chunks(usize::from(u16::MAX)) {
        let length = u16::try_from(block.len()).unwrap();
        payload.push(0);
        payload.extend(length.to_le_bytes());
        payload.extend((!length).to_le_bytes());
        payload.extend(block);
    }
    payload.push(0);
    let mut frame = websocket::binary_frame(&payload).to_vec();
    frame[0] = first;
    frame.into()
}
