//! What nobody may read in logs, metrics and traces: tokens, tickets, secrets, passwords.
//!
//! In: a gateway as a process that logs all it can, clients that get in and clients that do everything wrong, with words that
//! occur nowhere else. Out: nothing of what was told has any of those words.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod collector;
mod editor;
#[allow(dead_code, reason = "not everything is for this file")]
#[path = "wire/harness.rs"]
mod harness;
mod pods;
mod servers;
mod signers;
mod web;

use std::{net::SocketAddr, path::Path, process::Command};

use collector::{ALL, Collector};
use editor::SECRET;
use harness::Client;
use pods::Pod;
use serde_json::{Value, json};
use servers::{Engine, PATIENCE, Server, eventually};
use signers::{FAR, hs256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use web::Web;

/// Marks what is made up here.
const CANARY: &str = "canary";
const HOOK: &str = "/hook-canary";
const PASSWORD: &str = "canary-password";

/// Tokens of these claims that get in, are forged, have expired, and are of nobody's making.
struct Tokens {
    good: String,
    fresh: String,
    others: String,
    forged: String,
    expired: String,
    unsigned: String,
}

impl Tokens {
    fn new() -> Tokens {
        let claims = |user: &str, exp: u64| json!({"sub": user, "name": user, "exp": exp});
        let sign = |claims: &Value| hs256(SECRET.as_bytes(), claims);
        Tokens {
            good: sign(&claims("ann", FAR)),
            fresh: sign(&claims("ann", FAR + 1)),
            others: sign(&claims("bob", FAR)),
            forged: hs256(b"another secret", &claims("ann", FAR)),
            expired: sign(&claims("ann", 1)),
            // {"alg":"none"}
            unsigned: "eyJhbGciOiJub25lIn0.canaryunsigned.".to_owned(),
        }
    }

    fn all(&self) -> [&str; 6] {
        [&self.good, &self.fresh, &self.others, &self.forged, &self.expired, &self.unsigned]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_told_in_logs_metrics_or_traces() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = Server::start(Engine::Redis, &["--requirepass", PASSWORD]).await.unwrap();
    let (web, collector) = (Web::start().await, Collector::start().await);
    web.says(&format!("{HOOK}/documents/d/access/ann"), 200, "write");
    web.says(&format!("{HOOK}/documents/broken/access/ann"), 500, "canary-of-the-webhook");
    web.says("/keys", 500, "canary-of-the-set");
    let file = |name: &str, text: &str| write(folder.path(), name, text);
    // The first of them is refused.
    let passwords = file("passwords", &format!("canary-old-password\n{PASSWORD}\n"));
    let resume_key = file("resume", "canary-resume-key-canary-resume-key\n");
    let (hook, keys) = (web.url(HOOK), web.url("/keys?key=canary-set"));
    let flags = ["--log-level", "trace", "--redis-password-file", &passwords, "--resume-key-file", &resume_key];
    let flags = [&flags[..], &["--access-url", &hook, "--jwks-url", &keys]].concat();
    let endpoint = format!("http://{}/v1/traces?key=canary-otlp", collector.address);
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=canary-otlp-header"),
    ];
    let mut pod = Pod::start_in(&redis.address(), &flags, &[&ALL[..], &variables].concat());
    let tokens = Tokens::new();

    let ticket = edit_and_refresh(&pod, &tokens).await;
    for query in [format!("&resume={ticket}"), format!("&resume={ticket}canary"), "&resume=canary&token=canary".into()]
    {
        drop(signed_in(pod.address, &query, &tokens.good).await);
    }
    knock_in_vain(&pod, &tokens).await;
    speak_http(&pod, &tokens).await;
    redis.kill();
    let mut ann = signed_in(pod.address, "", &tokens.good).await;
    ann.emit("join-document", json!("d")).await;
    eventually("the store is missed", async || pod.metric("collab_gateway_store_up").await == Some(0.0)).await;
    assert_eq!(ann.event("error").await["code"], "STORE_UNAVAILABLE");
    redis.start_again().await;
    eventually("it is back", async || ann.ask("join-document", json!("d")).await["error"].is_null()).await;
    drop(ann);

    let (_, metrics) = pod.get("/metrics").await;
    for reason in ["TOKEN_INVALID", "TOKEN_EXPIRED", "TOKEN_REQUIRED", "unknown_transport", "bad_http"] {
        let name = format!("connections_refused_total{{reason=\"{reason}\"}}");
        assert!(metrics.contains(&name), "{reason} did not happen: {metrics}");
    }
    let (_, ready) = pod.get("/readyz").await;
    eventually("spans came", async || collector.named("connect").len() >= 10).await;
    pod.signal("TERM");
    pod.exit_code().await;
    let log = pod.log();
    for level in ["TRACE", "DEBUG", "INFO", "WARN"] {
        assert!(log.iter().any(|line| line["level"] == level), "no {level}");
    }
    let told = log.iter().map(Value::to_string).chain([metrics, ready]);
    let traced = format!("{:?}", *collector.got.lock().unwrap());
    let secrets = [CANARY, SECRET, &ticket];
    let parts = tokens.all().into_iter().flat_map(|token| token.split('.').skip(1)).filter(|part| !part.is_empty());
    let secrets: Vec<&str> = secrets.into_iter().chain(parts).collect();
    for text in told.chain([traced]) {
        for secret in &secrets {
            assert!(!text.contains(secret), "{secret} is told: {text}");
        }
    }
}

/// Everything that a good client does with its tokens, and some things that it should not; its resume ticket.
async fn edit_and_refresh(pod: &Pod, tokens: &Tokens) -> String {
    let mut ann = signed_in(pod.address, "", &tokens.good).await;
    let joined = ann.join(json!("d")).await;
    let edit = |ops| json!({"documentId": "d", "version": 0, "ops": ops});
    assert_eq!(ann.ask("edit", edit(json!([{"insert": "canary text"}]))).await, json!({"version": 1}));
    assert!(ann.ask("token-refresh", json!({"token": tokens.fresh})).await["expiresAt"].is_u64());
    for payload in [
        json!({"token": tokens.others}),
        json!({"token": tokens.forged}),
        json!({"token": tokens.expired}),
        json!({"token": tokens.unsigned}),
        json!({"token": {"canary": "canary"}}),
        json!(["canary"]),
        json!(tokens.good),
        json!({"tokem": "canary"}),
    ] {
        let answer = ann.ask("token-refresh", payload.clone()).await;
        assert!(answer["error"]["code"].is_string(), "{payload}: {answer}");
    }
    for (name, payload) in [
        ("join-document", json!({"documentId": "d", "as": "canary"})),
        ("join-document", json!("canary canary")),
        ("join-document", json!("broken")),
        ("edit", edit(json!("canary"))),
        ("edit", edit(json!([{"insert": "canary", "attributes": "canary"}]))),
        ("cursor-position", json!({"documentId": "d", "position": "canary".repeat(500)})),
        ("event-canary", json!({"token": tokens.good})),
    ] {
        let answer = ann.ask(name, payload.clone()).await;
        assert!(answer["error"]["code"].is_string(), "{name} {payload}: {answer}");
    }
    joined["resume"].as_str().unwrap().to_owned()
}

/// Clients that do not get in.
async fn knock_in_vain(pod: &Pod, tokens: &Tokens) {
    for auth in [
        json!({"token": tokens.forged}),
        json!({"token": tokens.expired}),
        json!({"token": tokens.unsigned}),
        json!({"token": "canary"}),
        json!({"token": "canary.canary.canary"}),
        json!({"token": {"canary": "canary"}}),
        json!({"token": 7, "password": "canary"}),
        json!({"canary": "canary"}),
    ] {
        let mut client = Client::at(pod.address, "").await;
        client.send(&format!("40{auth}")).await;
        let answer = client.text().await;
        assert!(answer.starts_with("44{"), "{auth}: {answer}");
    }
    for packet in [
        "40{\"token\":\"canary".to_owned(),
        "40[\"canary\"]".to_owned(),
        "40\"canary\"".to_owned(),
        format!("40{{\"token\":\"{}\"", tokens.good),
        format!("42[\"canary\",\"{}\"]", tokens.good),
        format!("9{}", tokens.good),
    ] {
        let mut client = Client::at(pod.address, "").await;
        client.send(&packet).await;
        client.close_code().await;
    }
}

/// Requests that are no upgrade, to both ports.
async fn speak_http(pod: &Pod, tokens: &Tokens) {
    let good = &tokens.good;
    let close = format!("Connection: close\r\nCookie: canary\r\nAuthorization: Bearer {good}\r\n\r\n");
    for line in [
        format!("GET /socket.io/?EIO=4&transport=polling&token={good} HTTP/1.1\r\nHost: x\r\n"),
        format!("GET /socket.io/?EIO=3&transport=websocket&token={good} HTTP/1.1\r\nHost: x\r\n"),
        format!("POST /socket.io/?EIO=4&transport=websocket&sid={good} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"),
        format!("GET /{good} HTTP/1.1\r\nHost: x\r\n"),
        format!("GET /{good} canary\r\nHost: x\r\n"),
        format!("canary {good}\r\n"),
    ] {
        say(pod.address, &format!("{line}{close}")).await;
    }
    for line in [
        format!(
            "POST /v1/changed?token={good} HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n{close}{{\"canary\":\"x\"}}"
        ),
        format!("GET /v1/{good} HTTP/1.1\r\nHost: x\r\n{close}"),
    ] {
        say(pod.admin, &line).await;
    }
}

/// Sends a request and waits for the end, with an answer or without one.
async fn say(address: SocketAddr, request: &str) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("an end");
}

async fn signed_in(address: SocketAddr, query: &str, token: &str) -> Client {
    let mut client = Client::at(address, query).await;
    client.send(&format!("40{}", json!({"token": token, "clientId": "ann-editor"}))).await;
    let answer = client.text().await;
    assert!(answer.starts_with("40{"), "{answer}");
    client
}

#[test]
fn a_mistake_in_the_configuration_tells_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let url = write(folder.path(), "url", "redis://name:canary@redis");
    let secret = write(folder.path(), "secret", "canary");
    for (flags, variables) in [
        (&["--redis-url", "redis://name:canary@redis"][..], &[][..]),
        (&["--redis-url-file", &url], &[]),
        (&[], &[("COLLAB_REDIS_URL", "redis://:canary@redis")]),
        (&["--jwks-url", "https://name:canary@keys/set"], &[]),
        (&["--user-directory-url", "https://name:canary@users"], &[]),
        (&["--access-url", "https://access/?key=canary"], &[]),
        (&["--otlp-endpoint", "http://name:canary@collector"], &[]),
        (&["--redis-password=canary"], &[]),
        (&["--jwt-secret", "canary"], &[]),
        (&["--jwt-public-key-file", &secret], &[]),
        (&["--tls-cert-file", &secret, "--tls-key-file", &secret], &[]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_collab-gateway"));
        command.args(["--jwt-secret-file", &secret]).args(flags).envs(variables.iter().copied());
        let output = command.output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?} {variables:?}: {said}");
        assert!(!said.contains(CANARY) && said.trim().lines().count() == 1, "{flags:?} {variables:?}: {said}");
    }
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
