//! A gateway on a free port, and a client that speaks Socket.IO packets as text.
//!
//! In: flags and keys of the application. Out: packets, awaited with a deadline; nothing here sleeps.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use collab_gateway::{
    bus::{Bus, MemoryBus},
    config::Config,
    directory::Trust,
    metrics::Refused,
    server::Server,
    start::{self, Backend, Owned, Running},
    store::{MemoryStore, Store},
};
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};
use tokio_util::sync::CancellationToken;

/// Long for a machine that is busy, short for somebody who waits for a red test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that happens in this process.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "did not come true: {what}");
        tokio::task::yield_now().await;
    }
}

/// Signs all tokens of these tests.
pub(crate) const SECRET: &str = "a secret of these tests";

/// One gateway.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) server: Arc<Server>,
    pub(crate) store: MemoryStore,
    pub(crate) bus: MemoryBus,
    pub(crate) admin: collab_gateway::admin::State,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _owned: Owned,
    pub(crate) live: watch::Sender<collab_gateway::live::Live>,
    _files: tempfile::TempDir,
}

impl Gateway {
    /// A gateway that runs alone: every token may write everything.
    pub(crate) async fn alone() -> Gateway {
        Gateway::start(Trust::Everything, &[]).await
    }

    /// A gateway that asks the application's keys.
    pub(crate) async fn with_keys() -> Gateway {
        Gateway::start(Trust::Keys, &[]).await
    }

    pub(crate) async fn start(trust: Trust, flags: &[&str]) -> Gateway {
        let bus = MemoryBus::default();
        let store = MemoryStore::new(bus.clone());
        Gateway::over(store, bus, trust, flags).await
    }

    /// One of several gateways over the same store and bus.
    pub(crate) async fn over(store: MemoryStore, bus: MemoryBus, trust: Trust, flags: &[&str]) -> Gateway {
        let files = tempfile::tempdir().unwrap();
        let secret = files.path().join("secret");
        std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
        let arguments = ["collab-gateway", "--jwt-secret-file", secret.to_str().unwrap()];
        let config = Config::load(arguments.iter().chain(flags).map(Into::into)).unwrap();
        let (settings, live) = watch::channel(config.live.clone());
        let backend = Backend { store: Store::Memory(store.clone()), bus: Bus::Memory(bus.clone()), trust };
        let Running { server, admin, owned } = start::assemble(&config, live, backend).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(Arc::clone(&server).serve(listener, stop.clone()));
        Gateway { address, server, store, bus, admin, stop, serving, _owned: owned, live: settings, _files: files }
    }

    /// Sends a whole HTTP request and gives back the whole answer.
    pub(crate) async fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        // Up to the end of a short body: the connection may stay open.
        loop {
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("no answer").unwrap();
            answer.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                assert!(read > 0, "closed without an answer: {text}");
                continue;
            };
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if read == 0 || body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
    }

    /// Connections refused so far for this reason.
    pub(crate) fn refused(&self, reason: &'static str) -> u64 {
        self.server.pod().metrics.connections_refused.get_or_create(&Refused { reason }).get()
    }

    /// Stops taking connections; for tests that end a gateway.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

/// Whoever may come again is told when, and whoever lost count the last number.
fn assert_says_how_to_go_on(error: &Value) {
    let code = error["code"].as_str().unwrap_or_default();
    let is_passing = matches!(code, "RATE_LIMITED" | "OVERLOADED" | "STORE_UNAVAILABLE");
    assert_eq!(error["retryAfterMs"].is_u64(), is_passing, "{error}");
    assert_eq!(error["lastSeq"].is_u64(), code == "SEQ_GAP", "{error}");
}

/// A token of the user that is good for an hour.
pub(crate) fn token(user_id: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    sign(&json!({"sub": user_id, "name": format!("Name of {user_id}"), "exp": now + 3600}))
}

/// A token with these claims.
pub(crate) fn sign(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// A client of the gateway.
pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    replies: u64,
    /// Events that came while something else was awaited.
    events: Vec<(String, Value)>,
}

impl Client {
    /// Upgraded; the open packet was read.
    pub(crate) async fn upgraded(gateway: &Gateway) -> Client {
        Client::upgraded_with(gateway, "").await
    }

    /// The same with more in the query string.
    pub(crate) async fn upgraded_with(gateway: &Gateway, query: &str) -> Client {
        Client::at(gateway.address, query).await
    }

    /// The same at any gateway.
    pub(crate) async fn at(address: SocketAddr, query: &str) -> Client {
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket{query}");
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut client = Client { socket, replies: 0, events: Vec::new() };
        assert!(client.text().await.starts_with("0{\"sid\":\""));
        client
    }

    /// Signed in.
    pub(crate) async fn connected(gateway: &Gateway, user_id: &str, client_id: &str) -> Client {
        let mut client = Client::upgraded(gateway).await;
        client.send(&format!("40{}", json!({"token": token(user_id), "clientId": client_id}))).await;
        assert!(client.text().await.starts_with("40{\"sid\":\""));
        client
    }

    /// Signed in and joined; gives `document-joined` too.
    pub(crate) async fn joined(
        gateway: &Gateway,
        user_id: &str,
        client_id: &str,
        document_id: &str,
    ) -> (Client, Value) {
        let mut client = Client::connected(gateway, user_id, client_id).await;
        let joined = client.join(json!({"documentId": document_id})).await;
        (client, joined)
    }

    /// Signed in and joined through a socket that takes little: whoever does not read it is noticed soon.
    pub(crate) async fn narrow(gateway: &Gateway, user_id: &str, document_id: &str) -> (Client, Value) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(gateway.address).await.unwrap();
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", gateway.address);
        let (socket, _) = tokio_tungstenite::client_async(url, MaybeTlsStream::Plain(stream)).await.unwrap();
        let mut client = Client { socket, replies: 0, events: Vec::new() };
        assert!(client.text().await.starts_with("0{\"sid\":\""));
        client.send(&format!("40{}", json!({"token": token(user_id), "clientId": user_id}))).await;
        assert!(client.text().await.starts_with("40{\"sid\":\""));
        let joined = client.join(json!({"documentId": document_id})).await;
        (client, joined)
    }

    /// Sends if there still is somebody to send to.
    pub(crate) async fn try_send(&mut self, text: &str) {
        // The gateway may have closed it.
        let _ = self.socket.send(Message::text(text)).await;
    }

    /// Joins and gives `document-joined`.
    pub(crate) async fn join(&mut self, payload: Value) -> Value {
        let answer = self.ask("join-document", payload).await;
        assert!(answer["error"].is_null(), "{answer}");
        self.event("document-joined").await
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn send_binary(&mut self, bytes: &'static [u8]) {
        self.socket.send(Message::binary(bytes)).await.unwrap();
    }

    /// Emits without a callback.
    pub(crate) async fn emit(&mut self, name: &str, payload: Value) {
        self.send(&format!("42{}", json!([name, payload]))).await;
    }

    /// Emits with a callback and gives its argument.
    pub(crate) async fn ask(&mut self, name: &str, payload: Value) -> Value {
        let reply = self.replies;
        self.replies += 1;
        self.send(&format!("42{reply}{}", json!([name, payload]))).await;
        let answer = self.answer(reply).await;
        assert_says_how_to_go_on(&answer["error"]);
        answer
    }

    /// The argument of the callback `reply`; events meanwhile are kept.
    pub(crate) async fn answer(&mut self, reply: u64) -> Value {
        loop {
            let text = self.text().await;
            match text.strip_prefix(&format!("43{reply}[")) {
                Some(rest) => return serde_json::from_str(rest.strip_suffix(']').unwrap()).unwrap(),
                None => self.keep(&text),
            }
        }
    }

    /// The next event of this name; others meanwhile are kept.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|(kept, _)| kept == name) {
                return self.events.remove(at).1;
            }
            let text = self.text().await;
            self.keep(&text);
        }
    }

    /// The next text message; heartbeats are answered.
    pub(crate) async fn text(&mut self) -> String {
        loop {
            match self.message().await {
                Some(Message::Text(text)) if text.as_str() == "2" => self.send("3").await,
                Some(Message::Text(text)) => return text.as_str().to_owned(),
                other => panic!("a text was due and {other:?} came; kept: {:?}", self.events),
            }
        }
    }

    /// The next text message, unless the connection is closed before.
    pub(crate) async fn said(&mut self) -> Option<String> {
        let message = self.message().await?;
        message.is_text().then(|| message.to_text().unwrap().to_owned())
    }

    /// The code of the close frame that comes next, whatever comes before it; none if the connection just ends.
    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.message().await {
                Some(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Some(_) => {}
                None => return None,
            }
        }
    }

    async fn message(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
        next.unwrap_or_else(|_| panic!("nothing came; kept: {:?}", self.events))?.ok()
    }

    fn keep(&mut self, text: &str) {
        let event = text.strip_prefix("42").unwrap_or_else(|| panic!("an event was due and {text} came"));
        let (name, payload): (String, Value) = serde_json::from_str(event).unwrap();
        self.events.push((name, payload));
    }
}
