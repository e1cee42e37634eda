//! The public port with a certificate: clients that check it, files that change, peers that shake no hands.
//!
//! In: certificates made for the test. Out: what a client sees over TLS, in the same tests' process.

use std::{path::PathBuf, sync::Arc};

use collab_gateway::directory::Trust;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::harness::{Gateway, PATIENCE, token};

/// A certificate for `localhost` that is its own root.
struct Certificate {
    pem: String,
    key_pem: String,
    roots: RootCertStore,
}

impl Certificate {
    fn new() -> Certificate {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        Certificate { pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem(), roots }
    }

    async fn connect(&self, gateway: &Gateway) -> std::io::Result<TlsStream<TcpStream>> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let stream = TcpStream::connect(gateway.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await?
    }
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
    _folder: tempfile::TempDir,
}

impl Files {
    fn of(certificate: &Certificate) -> Files {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { cert: folder.path().join("tls.crt"), key: folder.path().join("tls.key"), _folder: folder };
        files.write(&certificate.pem, &certificate.key_pem);
        files
    }

    fn write(&self, cert: &str, key: &str) {
        std::fs::write(&self.cert, cert).unwrap();
        std::fs::write(&self.key, key).unwrap();
    }

    async fn gateway(&self) -> Gateway {
        let flags = ["--tls-cert-file", self.cert.to_str().unwrap(), "--tls-key-file", self.key.to_str().unwrap()];
        Gateway::start(Trust::Everything, &flags).await
    }
}

/// A client over TLS, in Socket.IO's packets.
struct Client(WebSocketStream<TlsStream<TcpStream>>);

impl Client {
    async fn signed_in(gateway: &Gateway, certificate: &Certificate, user_id: &str) -> Client {
        let stream = certificate.connect(gateway).await.unwrap();
        let url = format!("wss://localhost:{}/socket.io/?EIO=4&transport=websocket", gateway.address.port());
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let mut client = Client(socket);
        client.until("0{").await;
        client.send(&format!("40{}", json!({"token": token(user_id)}))).await;
        client.until("40{").await;
        client
    }

    async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn until(&mut self, beginning: &str) -> String {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("a message").unwrap().unwrap() {
                Message::Text(text) if text.starts_with(beginning) => return text.as_str().to_owned(),
                Message::Text(text) if text == "2" => self.send("3").await,
                _ => {}
            }
        }
    }

    async fn ask(&mut self, event: serde_json::Value) -> String {
        self.send(&format!("427{event}")).await;
        self.until("437[").await
    }
}

#[tokio::test]
async fn a_large_document_is_written_and_read_over_tls() {
    let certificate = Certificate::new();
    let gateway = Files::of(&certificate).gateway().await;
    let mut writer = Client::signed_in(&gateway, &certificate, "u1").await;
    let mut reader = Client::signed_in(&gateway, &certificate, "u2").await;
    writer.ask(json!(["join-document", "d"])).await;
    reader.ask(json!(["join-document", "d"])).await;
    // More than any buffer on the way: the reader's socket is full in the middle of a record.
    let text = "wide ".repeat(190_000);
    let edit = json!(["edit", {"documentId": "d", "version": 0, "seq": 1, "ops": [{"insert": text}]}]);
    let answer = writer.ask(edit).await;
    assert!(answer.contains("\"version\":1"), "{answer}");
    let heard = reader.until("42[\"edit\"").await;
    assert!(heard.contains(&text), "{} bytes", heard.len());
    let mut late = Client::signed_in(&gateway, &certificate, "u3").await;
    late.send("42[\"join-document\",\"d\"]").await;
    assert!(late.until("42[\"document-joined\"").await.contains(&text));
}

#[tokio::test]
async fn a_new_certificate_is_used_and_a_broken_one_is_not() {
    let (old, new) = (Certificate::new(), Certificate::new());
    let files = Files::of(&old);
    let gateway = files.gateway().await;
    let mut before = Client::signed_in(&gateway, &old, "u1").await;
    assert!(new.connect(&gateway).await.is_err(), "the new one is not there yet");
    files.write(&new.pem, &new.key_pem);
    let by = Instant::now() + PATIENCE;
    while new.connect(&gateway).await.is_err() {
        assert!(Instant::now() < by, "the new certificate was not taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Half of a change, or the wrong key: what works stays.
    files.write(&new.pem, &old.key_pem);
    while !gateway.server.pod().metrics.text().contains("certificate_failures_total 1") {
        assert!(Instant::now() < by + PATIENCE, "the wrong key was not noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Client::signed_in(&gateway, &new, "u2").await;
    let answer = before.ask(json!(["join-document", "d"])).await;
    assert!(answer.contains("version"), "whoever was connected stays: {answer}");
}

#[tokio::test]
async fn peers_that_do_not_shake_hands_hold_nobody_up() {
    let certificate = Certificate::new();
    let gateway = Files::of(&certificate).gateway().await;
    let mut silent = Vec::new();
    for n in 0..100 {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        if n % 2 == 0 {
            // The beginning of a client's hello.
            stream.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();
        }
        silent.push(stream);
    }
    Client::signed_in(&gateway, &certificate, "u1").await;
    let mut plain = TcpStream::connect(gateway.address).await.unwrap();
    plain.write_all(b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("an end").unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(gateway.server.pod().metrics.text().contains("refused_total{reason=\"tls\"} 1"));
}
