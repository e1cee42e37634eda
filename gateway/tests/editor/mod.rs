//! A gateway in this process and an editor that keeps the client's rule, for tests over real sockets.
//!
//! In: addresses of gateways, tokens to type. Out: the document as the editor has it. The editor reconnects to the next
//! gateway, joins again as the contract says, and resends what is not confirmed.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    collections::{HashMap, VecDeque},
    io::Write,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use collab_gateway::{
    config::Config,
    start::{self, Running},
};
use futures_util::{SinkExt, StreamExt};
use ot::{Delta, Rope};
use protocol::DeltaJson;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message},
};
use tokio_util::sync::CancellationToken;

use crate::servers::PATIENCE;

pub const SECRET: &str = "a secret that only tests know";
/// Edits that an editor has under way; enough for batches and contexts to matter.
const UNDER_WAY: usize = 6;
/// Between two edits of a steady typist.
const KEY_PACE: Duration = Duration::from_millis(10);

/// A gateway with a runtime of its own, so that it can die like a process.
pub struct Gateway {
    pub address: SocketAddr,
    pub running: Option<Running>,
    runtime: Option<tokio::runtime::Runtime>,
    _secret: tempfile::NamedTempFile,
}

impl Gateway {
    pub async fn start(redis: &str) -> Self {
        Self::start_with(redis, &[]).await
    }

    /// The same with further flags.
    pub async fn start_with(redis: &str, flags: &[&str]) -> Self {
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        secret.write_all(SECRET.as_bytes()).unwrap();
        let url = format!("redis://{redis}");
        let words: [&std::ffi::OsStr; 7] = [
            "collab-gateway".as_ref(),
            "--redis-url".as_ref(),
            url.as_ref(),
            "--jwt-secret-file".as_ref(),
            secret.path().as_ref(),
            "--users-from-claims".as_ref(),
            "--listen=127.0.0.1:0".as_ref(),
        ];
        let words = words.iter().map(|word| (*word).to_owned()).chain(flags.iter().map(Into::into));
        let config = Config::load(words).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let started = runtime.spawn(async move {
            let (_, live) = tokio::sync::watch::channel(config.live.clone());
            let running = start::start(&config, live).await.unwrap();
            let listener = TcpListener::bind(config.listen).await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(Arc::clone(&running.server).serve(listener, CancellationToken::new()));
            (address, running)
        });
        let (address, running) = started.await.unwrap();
        Self { address, running: Some(running), runtime: Some(runtime), _secret: secret }
    }

    /// Documents that are open on it.
    pub fn documents(&self) -> usize {
        self.running.as_ref().unwrap().server.pod().documents.count()
    }

    /// Its incarnation.
    pub fn pod(&self) -> String {
        self.running.as_ref().unwrap().owned.lease().pod().to_string()
    }

    /// Dies as with `kill -9`: every socket closes, nothing is said.
    pub fn kill(&mut self) {
        self.running = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One editor of one document.
pub struct Editor {
    pub user: String,
    pub client_id: String,
    pub document: String,
    gateways: Vec<SocketAddr>,
    next_gateway: usize,
    /// Its sockets take little: whatever it does not read waits at the gateway.
    pub is_narrow: bool,
    socket: Option<Socket>,
    session: Option<String>,
    pub version: u64,
    hash: Option<String>,
    confirmed: Rope,
    unconfirmed: VecDeque<(u64, Delta)>,
    next_seq: u64,
    is_joined: bool,
    pub joins_with_content: usize,
    pub joins_with_edits: usize,
    /// It asks for acknowledgements; these came, in order: the number and the version.
    pub asks: bool,
    pub acknowledged: Vec<(u64, u64)>,
    /// What it typed under its present name, by number.
    pub typed: HashMap<u64, String>,
    /// What it typed under earlier names and was acknowledged.
    pub acknowledged_before: Vec<String>,
    /// Events other than edits, for tests that look at them.
    pub heard: Vec<(String, Value)>,
    /// The last `document-joined`.
    pub joined: Option<Value>,
    /// When its socket was closed, and with which code.
    pub closes: Vec<(Instant, Option<u16>)>,
    /// When it was told of a drain, and after how many milliseconds it was to be closed.
    pub hints: Vec<(Instant, u64)>,
    random: StdRng,
}

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Editor {
    pub fn new(user: &str, document: &str, gateways: &[SocketAddr], seed: u64) -> Self {
        Self {
            user: user.to_owned(),
            client_id: format!("{user}-editor"),
            document: document.to_owned(),
            gateways: gateways.to_vec(),
            next_gateway: 0,
            is_narrow: false,
            socket: None,
            session: None,
            version: 0,
            hash: None,
            confirmed: Rope::from_delta(&Delta::new()).unwrap(),
            unconfirmed: VecDeque::new(),
            next_seq: 1,
            is_joined: false,
            joins_with_content: 0,
            joins_with_edits: 0,
            asks: false,
            acknowledged: Vec::new(),
            typed: HashMap::new(),
            acknowledged_before: Vec::new(),
            heard: Vec::new(),
            joined: None,
            closes: Vec::new(),
            hints: Vec::new(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// What a page keeps of itself where a reload does not reach.
    pub fn stored(&self) -> String {
        let unconfirmed: Vec<_> = self.unconfirmed.iter().map(|(seq, ops)| json!([seq, DeltaJson(ops)])).collect();
        let text = DeltaJson(&self.confirmed.to_delta());
        json!([self.client_id, self.session, self.version, self.hash, text, unconfirmed, self.next_seq]).to_string()
    }

    /// The page after a reload: nothing is left of it but what it had stored.
    pub fn reloaded(user: &str, document: &str, gateways: &[SocketAddr], seed: u64, stored: &str) -> Self {
        type Stored = (String, Option<String>, u64, Option<String>, Value, Vec<(u64, Value)>, u64);
        let (client_id, session, version, hash, text, unconfirmed, next_seq): Stored =
            serde_json::from_str(stored).unwrap();
        let confirmed = Rope::from_delta(&delta(&text)).unwrap();
        let unconfirmed = unconfirmed.iter().map(|(seq, ops)| (*seq, delta(ops))).collect();
        let fresh = Self::new(user, document, gateways, seed);
        Self { client_id, session, version, hash, confirmed, unconfirmed, next_seq, ..fresh }
    }

    /// Connects to these gateways from now on.
    pub fn move_to(&mut self, gateways: &[SocketAddr]) {
        self.gateways = gateways.to_vec();
    }

    /// Everything whose acknowledgement came.
    pub fn acknowledged_tokens(&self) -> Vec<String> {
        let mut tokens = self.acknowledged_before.clone();
        tokens.extend(self.acknowledged.iter().filter_map(|(seq, _)| self.typed.get(seq).cloned()));
        tokens
    }

    pub fn text(&self) -> String {
        self.confirmed.text()
    }

    /// What is confirmed, with its formats.
    pub fn content(&self) -> Delta {
        self.confirmed.to_delta()
    }

    /// Moves to the next gateway at the next step, as if the network had failed.
    pub fn cut(&mut self) {
        self.socket = None;
        self.is_joined = false;
        self.next_gateway += 1;
    }

    /// Types these tokens at random places and returns when all of them are confirmed.
    pub async fn type_all(&mut self, tokens: Vec<String>) {
        self.type_with(tokens, |_| false).await;
    }

    /// The same, with the transport cut before every token that `cut` names.
    pub async fn type_with(&mut self, tokens: Vec<String>, mut cut: impl FnMut(usize) -> bool) {
        let mut tokens = tokens.into_iter().enumerate().peekable();
        let work = async {
            loop {
                while self.is_joined() && self.unconfirmed.len() < UNDER_WAY {
                    let Some((number, token)) = tokens.next() else { break };
                    self.insert(&token).await;
                    if cut(number) {
                        self.cut();
                    }
                }
                if tokens.peek().is_none() && self.is_joined() && self.unconfirmed.is_empty() {
                    return;
                }
                self.step().await;
            }
        };
        let is_done = tokio::time::timeout(4 * PATIENCE, work).await.is_ok();
        let heard = &self.heard[self.heard.len().saturating_sub(3)..];
        let (user, version, first) = (&self.user, self.version, self.unconfirmed.front().map(|(seq, _)| seq));
        assert!(
            is_done,
            "not confirmed in time: {user} at {version}, joined {}, first {first:?}, {heard:?}",
            self.is_joined
        );
    }

    /// Types at a steady pace until it is told to stop, and returns what it typed when all of it is confirmed.
    pub async fn type_until(&mut self, stop: &CancellationToken) -> Vec<String> {
        let mut typed = Vec::new();
        let work = async {
            loop {
                if !stop.is_cancelled() && self.is_joined() && self.unconfirmed.len() < UNDER_WAY {
                    let token = format!("{}{:05}", self.user, typed.len());
                    self.insert(&token).await;
                    typed.push(token);
                    tokio::time::sleep(KEY_PACE).await;
                    continue;
                }
                if stop.is_cancelled() && self.is_joined() && self.unconfirmed.is_empty() {
                    return;
                }
                // Something is unconfirmed, or it is not joined: there will be an answer.
                self.step().await;
            }
        };
        tokio::time::timeout(8 * PATIENCE, work).await.expect("everything typed is confirmed in time");
        typed
    }

    /// Goes on until a condition holds.
    pub async fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let work = async {
            while !condition(self) {
                self.step().await;
            }
        };
        assert!(tokio::time::timeout(2 * PATIENCE, work).await.is_ok(), "did not come true: {what}");
    }

    pub fn is_joined(&self) -> bool {
        self.is_joined
    }

    /// Takes in one message, or connects.
    pub async fn step(&mut self) {
        if self.socket.is_none() {
            self.connect().await;
            return;
        }
        let message = self.socket.as_mut().unwrap().next().await;
        match message {
            Some(Ok(Message::Text(text))) => self.message(&text).await,
            Some(Ok(Message::Close(frame))) => {
                self.closes.push((Instant::now(), frame.map(|frame| frame.code.into())));
                self.cut();
            }
            Some(Err(_)) | None => {
                self.closes.push((Instant::now(), None));
                self.cut();
            }
            Some(Ok(_)) => {}
        }
    }

    async fn connect(&mut self) {
        let address = self.gateways[self.next_gateway % self.gateways.len()];
        match connect(address, self.is_narrow).await {
            Ok(socket) => {
                self.socket = Some(socket);
                let auth = json!({"token": token(&self.user), "clientId": self.client_id});
                self.send(format!("40{auth}")).await;
            }
            Err(_) => {
                self.next_gateway += 1;
                // A client's reconnection delay.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn message(&mut self, text: &str) {
        if text == "2" {
            self.send("3".to_owned()).await;
        } else if text.starts_with("40") {
            self.join().await;
        } else if let Some(answer) = text.strip_prefix("431") {
            let answer: Value = serde_json::from_str(answer).unwrap();
            if let Some(error) = answer[0].get("error") {
                self.heard.push(("join-error".to_owned(), error.clone()));
                self.again(error).await;
            }
        } else if let Some(answer) = text.strip_prefix("432") {
            let (seq, answer) = answer.split_at(answer.find('[').unwrap());
            let answer: Value = serde_json::from_str(answer).unwrap();
            match answer[0].get("error") {
                Some(error) => {
                    self.heard.push(("edit-error".to_owned(), error.clone()));
                    self.again(&error.clone()).await;
                }
                None => self.acknowledged.push((seq.parse().unwrap(), answer[0]["version"].as_u64().unwrap())),
            }
        } else if let Some(event) = text.strip_prefix("42") {
            let event: Value = serde_json::from_str(event).unwrap();
            self.event(event[0].as_str().unwrap(), &event[1]).await;
        } else {
            assert!(!text.starts_with("44"), "{text}");
        }
    }

    /// Joins again after an error that says when, or at once.
    async fn again(&mut self, error: &Value) {
        self.is_joined = false;
        if error["code"] != "JOIN_FAILED" && error["code"] != "ACCESS_DENIED" {
            tokio::time::sleep(Duration::from_millis(error["retryAfterMs"].as_u64().unwrap_or(0).min(200))).await;
            self.join().await;
        }
    }

    async fn join(&mut self) {
        let mut join = json!({"documentId": self.document, "as": "delta"});
        if let (Some(session), Some(hash)) = (&self.session, &self.hash) {
            let first = self.unconfirmed.front().map_or(self.next_seq, |(seq, _)| *seq);
            join = json!({"documentId": self.document, "as": "delta", "version": self.version, "hash": hash,
                "session": session, "seq": first});
        }
        self.send(format!("421{}", json!(["join-document", join]))).await;
    }

    async fn event(&mut self, name: &str, payload: &Value) {
        match name {
            "document-joined" => self.joined(payload).await,
            "edit" => {
                let version = payload["version"].as_u64().unwrap();
                if version > self.version {
                    self.remote(&delta(&payload["ops"]));
                    self.at(payload);
                }
            }
            "edit-committed" => {
                if payload["version"].as_u64().unwrap() > self.version {
                    self.committed(payload);
                }
            }
            "rejoin" => {
                self.is_joined = false;
                // Without a version: the pod cannot go on from what this editor has.
                self.hash = None;
                let first = self.unconfirmed.front().map_or(self.next_seq, |(seq, _)| *seq);
                let join = json!({"documentId": self.document, "as": "delta", "session": self.session, "seq": first});
                self.send(format!("421{}", json!(["join-document", join]))).await;
            }
            "draining" => self.hints.push((Instant::now(), payload["reconnectAfterMs"].as_u64().unwrap())),
            "error" => {
                self.heard.push((name.to_owned(), payload.clone()));
                if payload["code"] != "NOT_DURABLE_YET" {
                    self.again(payload).await;
                }
            }
            _ => self.heard.push((name.to_owned(), payload.clone())),
        }
    }

    async fn joined(&mut self, payload: &Value) {
        assert_eq!(payload["clientId"].as_str(), Some(&*self.client_id));
        self.joined = Some(payload.clone());
        let last_seq = payload["lastSeq"].as_u64().unwrap();
        if let Some(edits) = payload["edits"].as_array() {
            self.joins_with_edits += 1;
            let had = self.version;
            for edit in edits.iter().filter(|edit| edit["version"].as_u64().unwrap() > had) {
                if edit["clientId"].as_str() == Some(&self.client_id) {
                    self.committed(edit);
                } else {
                    self.remote(&delta(&edit["ops"]));
                    self.at(edit);
                }
            }
            assert_eq!(Some(self.version), payload["version"].as_u64());
        } else {
            self.joins_with_content += 1;
            let content = delta(&payload["ops"]);
            while self.unconfirmed.front().is_some_and(|(seq, _)| *seq <= last_seq) {
                let (_, dropped) = self.unconfirmed.pop_front().unwrap();
                self.confirmed.apply(&dropped).unwrap();
            }
            if self.unconfirmed.is_empty() {
                self.confirmed = Rope::from_delta(&content).unwrap();
            } else {
                let difference = difference(&self.confirmed.text(), &content.plain_text());
                self.remote(&difference);
            }
            assert_eq!(self.confirmed.to_delta(), content);
        }
        self.at(payload);
        let first = self.unconfirmed.front().map_or(self.next_seq, |(seq, _)| *seq);
        if self.session.is_some() && first > last_seq + 1 {
            // The log has lost edits that were confirmed: the numbers of this name do not fit any more.
            return self.rename();
        }
        self.next_seq = self.next_seq.max(last_seq + 1);
        self.session = Some(payload["session"].as_str().unwrap().to_owned());
        self.is_joined = true;
        for (seq, ops) in self.unconfirmed.clone() {
            self.send_edit(seq, &ops).await;
        }
    }

    fn rename(&mut self) {
        self.acknowledged_before = self.acknowledged_tokens();
        self.acknowledged.clear();
        self.client_id.push('x');
        let typed = std::mem::take(&mut self.typed);
        for (number, (seq, _)) in self.unconfirmed.iter_mut().enumerate() {
            let token = typed.get(seq).cloned().unwrap_or_default();
            *seq = number as u64 + 1;
            self.typed.insert(*seq, token);
        }
        self.next_seq = self.unconfirmed.len() as u64 + 1;
        (self.session, self.socket, self.is_joined) = (None, None, false);
    }

    fn at(&mut self, payload: &Value) {
        self.version = payload["version"].as_u64().unwrap();
        self.hash = Some(payload["hash"].as_str().unwrap().to_owned());
    }

    fn committed(&mut self, payload: &Value) {
        let (seq, ops) = self.unconfirmed.pop_front().expect("something was to be confirmed");
        assert_eq!(payload["seq"].as_u64(), Some(seq));
        self.confirmed.apply(&ops).unwrap();
        self.at(payload);
    }

    /// The client's rule.
    fn remote(&mut self, committed: &Delta) {
        self.confirmed.apply(committed).unwrap();
        let mut over = committed.clone();
        for (_, pending) in &mut self.unconfirmed {
            (*pending, over) = ot::cross(pending, &over);
        }
    }

    /// From now on it connects here only.
    pub fn moves_to(&mut self, gateway: SocketAddr) {
        self.gateways = vec![gateway];
        self.cut();
    }

    /// Types one token at a random place, without waiting.
    pub async fn insert(&mut self, token: &str) {
        let mut length = self.confirmed.length_utf16();
        for (_, ops) in &self.unconfirmed {
            length += ops.plain_text().len();
        }
        // Tokens must stay whole to be counted: only between them, where there is a space or an end.
        let shown = {
            let mut shown = self.confirmed.clone();
            for (_, ops) in &self.unconfirmed {
                shown.apply(ops).unwrap();
            }
            shown.text()
        };
        assert_eq!(shown.len(), length, "the text is ASCII");
        let mut place = self.random.random_range(0..=length);
        while place > 0 && shown.as_bytes()[place - 1] != b' ' {
            place -= 1;
        }
        let ops = Delta::new().retain(place, None).insert(&format!("{token} "), None);
        let seq = self.next_seq;
        self.next_seq += 1;
        self.unconfirmed.push_back((seq, ops.clone()));
        self.typed.insert(seq, token.to_owned());
        self.send_edit(seq, &ops).await;
    }

    pub async fn send_edit(&mut self, seq: u64, ops: &Delta) {
        let edit = json!({"documentId": self.document, "version": self.version, "ops": DeltaJson(ops), "seq": seq,
            "session": self.session});
        let callback = if self.asks { format!("2{seq}") } else { String::new() };
        self.send(format!("42{callback}{}", json!(["edit", edit]))).await;
    }

    async fn send(&mut self, text: String) {
        let Some(socket) = &mut self.socket else { return };
        if socket.send(Message::text(text)).await.is_err() {
            self.cut();
        }
    }
}

/// A WebSocket to this gateway; a narrow one takes little that is not read.
pub async fn connect(address: SocketAddr, is_narrow: bool) -> Result<Socket, tungstenite::Error> {
    let socket = TcpSocket::new_v4()?;
    if is_narrow {
        socket.set_recv_buffer_size(4096)?;
    }
    let stream = MaybeTlsStream::Plain(socket.connect(address).await?);
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
    Ok(tokio_tungstenite::client_async(url, stream).await?.0)
}

/// An HS256 token of this user.
pub fn token(user: &str) -> String {
    let claims = json!({"userId": user, "name": user.to_uppercase(), "exp": 4_102_444_800u64});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

fn delta(ops: &Value) -> Delta {
    protocol::parse_delta(&ops.to_string()).unwrap()
}

/// One edit that makes `new` of `old`: what is between their common beginning and their common end, in whole tokens, so
/// that what is typed meanwhile lands between tokens too.
fn difference(old: &str, new: &str) -> Delta {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split_inclusive(' ').collect(), new.split_inclusive(' ').collect());
    let prefix = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let suffix = old[prefix..].iter().rev().zip(new[prefix..].iter().rev()).take_while(|(a, b)| a == b).count();
    let length = |tokens: &[&str]| tokens.iter().map(|token| token.len()).sum();
    let inserted = new[prefix..new.len() - suffix].concat();
    Delta::new()
        .retain(length(&old[..prefix]), None)
        .insert(&inserted, None)
        .delete(length(&old[prefix..old.len() - suffix]))
}
