//! Sign-in and access on real servers: while Redis is stopped, killed or slow, and on two gateways at once.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code, reason = "not everything is for this file")]
#[path = "wire/harness.rs"]
mod harness;
mod servers;
mod signers;
mod web;

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use collab_gateway::{
    admin,
    config::Config,
    live::Live,
    start::{self, Running},
};
use harness::{Client, SECRET, token};
use redis::AsyncCommands;
use serde_json::{Value, json};
use servers::{Engine, Server, eventually};
use signers::{Signer, key_set};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use web::Web;

/// A gateway over a Redis server.
struct Gateway {
    address: SocketAddr,
    admin: SocketAddr,
    running: Running,
    _live: watch::Sender<Live>,
    _secret: tempfile::NamedTempFile,
}

impl Gateway {
    async fn start(redis: &Server, flags: &[&str]) -> Gateway {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), SECRET).unwrap();
        let url = format!("redis://{}", redis.address());
        let words = ["collab-gateway", "--redis-url", &url, "--jwt-secret-file", secret.path().to_str().unwrap()];
        let config = Config::load(words.iter().chain(flags).map(Into::into)).unwrap();
        let (settings, live) = watch::channel(config.live.clone());
        let running = start::start(&config, live).await.unwrap();
        let (public, private) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (address, admin) = (public.local_addr().unwrap(), private.local_addr().unwrap());
        tokio::spawn(Arc::clone(&running.server).serve(public, CancellationToken::new()));
        tokio::spawn(admin::serve(private, running.admin.clone(), std::future::pending()));
        let gateway = Gateway { address, admin, running, _live: settings, _secret: secret };
        eventually("the gateway hears what is said", async || gateway.post("{}").await.starts_with("HTTP/1.1 202 "))
            .await;
        gateway
    }

    /// A client whose CONNECT is sent.
    async fn knock(&self, user_id: &str) -> Client {
        let mut client = Client::at(self.address, "").await;
        client.send(&format!("40{}", json!({"token": token(user_id)}))).await;
        client
    }

    async fn connected(&self, user_id: &str) -> Client {
        let mut client = self.knock(user_id).await;
        let answer = client.text().await;
        assert!(answer.starts_with("40{"), "{answer}");
        client
    }

    async fn joined(&self, user_id: &str) -> Client {
        let mut client = self.connected(user_id).await;
        client.join(json!("d")).await;
        client
    }

    /// Until so many CONNECTs are held.
    async fn until_held(&self, count: usize) {
        let line = format!("collab_gateway_connects_waiting {count}\n");
        eventually("a CONNECT is held", async || self.running.server.pod().metrics.text().contains(&line)).await;
    }

    /// `POST /v1/changed`.
    async fn post(&self, body: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let length = body.len();
        let head = "POST /v1/changed HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length:";
        stream.write_all(format!("{head} {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

async fn stage(engine: Engine, flags: &[&str]) -> Option<(Server, Gateway, Gateway)> {
    let server = Server::start(engine, &["--enable-debug-command", "yes"]).await?;
    let mut redis = server.client().await;
    for user in ["ann", "bob"] {
        redis.set::<_, _, ()>(format!("user:{user}"), json!({"id": user, "name": user}).to_string()).await.unwrap();
        redis.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    let gateways = (Gateway::start(&server, flags).await, Gateway::start(&server, flags).await);
    Some((server, gateways.0, gateways.1))
}

fn signal(server: &Server, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &server.process().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn insert(version: u64, text: &str) -> Value {
    json!({"documentId": "d", "version": version, "ops": [{"insert": text}]})
}

#[tokio::test]
async fn a_connect_is_held_while_redis_is_stopped_and_gets_in_when_it_goes_on() {
    let (server, one, _two) = stage(Engine::Redis, &[]).await.unwrap();
    signal(&server, "STOP");
    let mut ann = one.knock("ann").await;
    one.until_held(1).await;
    signal(&server, "CONT");
    assert!(ann.text().await.starts_with("40{"));
    one.until_held(0).await;
}

#[tokio::test]
async fn a_connect_is_held_while_redis_is_dead_and_gets_in_when_it_is_back() {
    let (mut server, one, _two) = stage(Engine::Redis, &[]).await.unwrap();
    server.kill();
    let mut ann = one.knock("ann").await;
    let mut stranger = one.knock("stranger").await;
    one.until_held(2).await;
    server.start_again().await;
    assert!(ann.text().await.starts_with("40{"));
    assert!(stranger.text().await.contains("USER_NOT_FOUND"), "now somebody can tell");
}

#[tokio::test]
async fn while_redis_stays_away_known_users_get_in_and_unknown_ones_are_told_to_come_back() {
    let (mut server, one, _two) = stage(Engine::Redis, &[]).await.unwrap();
    drop(one.connected("ann").await);
    server.kill();
    let started = Instant::now();
    let mut bob = one.knock("bob").await;
    one.until_held(1).await;
    one.connected("ann").await;
    assert_eq!(bob.close_code().await, Some(1013));
    let held = started.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(16)).contains(&held), "{held:?}");
    let metrics = one.running.server.pod().metrics.text();
    assert!(metrics.contains("connections_refused_total{reason=\"store_unavailable\"} 1"), "{metrics}");
}

async fn changes_reach_both_gateways(engine: Engine) {
    let Some((server, one, two)) = stage(engine, &[]).await else { return };
    let mut redis = server.client().await;
    let (mut ann, mut bob) = (one.joined("ann").await, two.joined("bob").await);
    for (value, role) in [(Some("read"), json!("read")), (Some("1"), json!("write")), (None, Value::Null)] {
        match value {
            Some(value) => redis.set::<_, _, ()>("doc:d:access:bob", value).await.unwrap(),
            None => redis.del::<_, ()>("doc:d:access:bob").await.unwrap(),
        }
        let started = Instant::now();
        // Told to the gateway where bob is not.
        assert!(one.post(r#"{"documentId":"d","userId":"bob"}"#).await.starts_with("HTTP/1.1 202 "));
        assert_eq!(bob.event("access-changed").await, json!({"documentId": "d", "role": role}));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    assert_eq!(ann.ask("edit", insert(0, "secret")).await, json!({"version": 1}));
    // A new name, seen by who joins on the other gateway.
    redis.set::<_, _, ()>("user:ann", r#"{"id":"ann","name":"Anna"}"#).await.unwrap();
    redis.set::<_, _, ()>("doc:d:access:bob", "read").await.unwrap();
    assert!(two.post(r#"{"userId":"ann"}"#).await.starts_with("HTTP/1.1 202 "));
    eventually("the new name is shown", async || bob.join(json!("d")).await["activeUsers"][0]["name"] == json!("Anna"))
        .await;
    redis.del::<_, ()>("user:ann").await.unwrap();
    let started = Instant::now();
    redis.publish::<_, _, ()>("collab:changed", r#"{"userId":"ann"}"#).await.unwrap();
    assert_eq!(ann.close_code().await, Some(1008));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    for gateway in [&one, &two] {
        assert!(gateway.knock("ann").await.text().await.contains("USER_NOT_FOUND"));
    }
}

#[tokio::test]
async fn changes_reach_both_gateways_within_two_seconds_on_redis() {
    changes_reach_both_gateways(Engine::Redis).await;
}

#[tokio::test]
async fn changes_reach_both_gateways_within_two_seconds_on_valkey() {
    changes_reach_both_gateways(Engine::Valkey).await;
}

#[tokio::test]
async fn nobody_gets_a_byte_that_is_written_after_the_revocation_though_redis_is_slow() {
    let (server, one, two) = stage(Engine::Redis, &[]).await.unwrap();
    let (mut ann, mut bob) = (one.joined("ann").await, two.joined("bob").await);
    let mut eve = two.connected("bob").await;
    let mut redis = server.client().await;
    let mut version = 0;
    for round in 0..3 {
        redis.set::<_, _, ()>("doc:d:access:bob", "write").await.unwrap();
        assert!(one.post(r#"{"documentId":"d"}"#).await.starts_with("HTTP/1.1 202 "));
        if round > 0 {
            bob.join(json!("d")).await;
        }
        // The server sleeps with a join, edits and the revocation waiting behind each other.
        let mut sleeper = server.client().await;
        let sleeping =
            tokio::spawn(async move { redis::cmd("DEBUG").arg("SLEEP").arg(0.4).exec_async(&mut sleeper).await });
        tokio::task::yield_now().await;
        eve.send(r#"427["join-document","d"]"#).await;
        for number in 0..20 {
            ann.send(&format!("42{}{}", 100 + number, json!(["edit", insert(version, "before")]))).await;
        }
        redis.del::<_, ()>("doc:d:access:bob").await.unwrap();
        redis.publish::<_, _, ()>("collab:changed", r#"{"documentId":"d","userId":"bob"}"#).await.unwrap();
        // A join that began before is over, one way or the other, when the removal has been told.
        assert_eq!(bob.event("access-changed").await["role"], Value::Null);
        for number in 0..20 {
            let answer = ann.answer(100 + number).await;
            version = version.max(answer["version"].as_u64().unwrap());
        }
        for _ in 0..5 {
            version += 1;
            assert_eq!(ann.ask("edit", insert(version - 1, "secret")).await, json!({"version": version}));
        }
        for client in [&mut bob, &mut eve] {
            client.send(&format!("42{}{}", 50 + round, json!(["leave-document", "d"]))).await;
            loop {
                let text = client.text().await;
                assert!(!text.contains("secret"), "{text}");
                if text.starts_with(&format!("43{}[", 50 + round)) {
                    break;
                }
            }
        }
        sleeping.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn whose_access_changed_and_cannot_be_read_is_let_go_and_nobody_else() {
    let web = Web::start().await;
    for user in ["ann", "bob"] {
        web.says(&format!("/documents/d/access/{user}"), 200, "write");
    }
    let (_server, one, two) = stage(Engine::Redis, &["--access-url", &web.url("")]).await.unwrap();
    let (mut ann, mut bob) = (one.joined("ann").await, two.joined("bob").await);
    web.says("/documents/d/access/bob", 500, "");
    let started = Instant::now();
    assert!(one.post(r#"{"documentId":"d","userId":"bob"}"#).await.starts_with("HTTP/1.1 202 "));
    assert_eq!(bob.close_code().await, Some(1013));
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(ann.ask("edit", insert(0, "secret")).await, json!({"version": 1}));
    // He comes back and waits for the answer outside.
    let mut bob = two.connected("bob").await;
    bob.send(r#"427["join-document","d"]"#).await;
    web.until_asked("/documents/d/access/bob", web.asked("/documents/d/access/bob") + 1).await;
    web.says("/documents/d/access/bob", 404, "");
    let answer = bob.text().await;
    assert!(answer.contains("ACCESS_DENIED"), "{answer}");
}

#[tokio::test]
async fn a_word_that_may_have_been_missed_makes_everything_be_asked_again_and_lets_nobody_go() {
    let web = Web::start().await;
    let access = "/documents/d/access/ann";
    web.says(access, 200, "write");
    let (server, one, _two) = stage(Engine::Redis, &["--access-url", &web.url("")]).await.unwrap();
    let mut ann = one.joined("ann").await;
    web.says(access, 500, "");
    let asked = web.asked(access);
    servers::run(&mut server.client().await, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    web.until_asked(access, asked + 8).await;
    assert_eq!(ann.ask("edit", insert(0, "x")).await, json!({"version": 1}));
    // By what is remembered.
    assert_eq!(one.connected("ann").await.join(json!("d")).await["role"], "write");
    web.says(access, 200, "read");
    assert_eq!(ann.event("access-changed").await["role"], "read");
}

#[tokio::test]
async fn what_the_directory_told_one_pod_serves_the_others_for_an_hour_unless_it_changed() {
    let web = Web::start().await;
    web.says("/users/cid", 200, r#"{"name":"Cid"}"#);
    let (server, one, two) = stage(Engine::Redis, &["--user-directory-url", &web.url("")]).await.unwrap();
    let mut redis = server.client().await;
    // What is asked shortly after a change was heard, as at the start, is not shared; it is asked again.
    eventually("it is shared", async || {
        one.connected("cid").await;
        redis.exists::<_, bool>("cache:user:cid").await.unwrap()
    })
    .await;
    let cached: String = redis.get("cache:user:cid").await.unwrap();
    let cached: Value = serde_json::from_str(&cached).unwrap();
    assert_eq!((&cached["id"], &cached["name"]), (&json!("cid"), &json!("Cid")));
    let life: i64 = redis.ttl("cache:user:cid").await.unwrap();
    assert!((3590..=3600).contains(&life), "{life}");
    // Pods distrust what was asked until two seconds after a change, and one was heard at their start.
    let mut number = 0;
    eventually("the other pod need not ask", async || {
        number += 1;
        let user = format!("cid{number}");
        let path = format!("/users/{user}");
        web.says(&path, 200, r#"{"name":"Cid"}"#);
        // The first pod answers before it has shared what it was told.
        let key = format!("cache:user:{user}");
        eventually("it is shared", async || {
            one.connected(&user).await;
            redis.exists::<_, bool>(&key).await.unwrap()
        })
        .await;
        two.connected(&user).await;
        web.asked(&path) == 1
    })
    .await;
    // The application's own key needs no webhook.
    one.connected("ann").await;
    assert_eq!(web.asked("/users/ann"), 0);
    web.says("/users/cid", 404, "");
    assert!(one.post(r#"{"userId":"cid"}"#).await.starts_with("HTTP/1.1 202 "));
    eventually("it is not shared any more", async || !redis.exists::<_, bool>("cache:user:cid").await.unwrap()).await;
    for gateway in [&one, &two] {
        eventually("the user is gone", async || gateway.knock("cid").await.text().await.contains("USER_NOT_FOUND"))
            .await;
    }
    // With the webhook away the store alone cannot say that somebody does not exist, nor the webhook without the store.
    web.says("/users/dan", 500, "");
    let mut dan = one.knock("dan").await;
    one.until_held(1).await;
    web.says("/users/dan", 200, r#"{"name":"Dan"}"#);
    assert!(dan.text().await.starts_with("40{"));
}

/// The program itself, which trusts the certificates of this file.
struct Process(Child, SocketAddr);

impl Process {
    fn start(certificates: &str, flags: &[&str]) -> Process {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_collab-gateway"))
            .args(["--listen", &port.to_string(), "--admin-listen", "127.0.0.1:0"])
            .args(flags)
            .env("SSL_CERT_FILE", certificates)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Process(child, port)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_key_set_is_fetched_over_tls_from_servers_that_the_system_trusts_and_no_others() {
    let (web, certificate) = Web::start_tls().await;
    let (stranger, _) = Web::start_tls().await;
    let signer = Signer::ec().called("k1");
    for web in [&web, &stranger] {
        web.says("/jwks", 200, key_set(&[&signer]));
    }
    let trusted = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(trusted.path(), certificate).unwrap();
    let url = |web: &Web| format!("https://localhost:{}/jwks", web.address.port());
    for (web, is_trusted) in [(&web, true), (&stranger, false)] {
        let process = Process::start(trusted.path().to_str().unwrap(), &["--jwks-url", &url(web)]);
        eventually("it listens", async || TcpStream::connect(process.1).await.is_ok()).await;
        let mut client = Client::at(process.1, "").await;
        client.send(&format!("40{}", json!({"token": signer.token("u1")}))).await;
        if is_trusted {
            assert!(client.text().await.starts_with("40{"));
        } else {
            assert_eq!(client.close_code().await, Some(1013));
            assert_eq!(web.asked("/jwks"), 0);
        }
    }
}
