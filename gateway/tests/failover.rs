//! What several servers show: who the primary is, what followers have, TLS, Cluster mode, subscriptions that come back.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod servers;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use collab_gateway::{
    bus::{Bus, Heard, RedisBus, document_channel},
    store::{Creation, Durability, NewEntry, RedisSettings, RedisStore, Store},
};
use document::{Identity, Point, Verdict};
use redis::aio::MultiplexedConnection;
use servers::{Engine, PATIENCE, Server, eventually, run};

/// Documents that a busy pod has open.
const MANY: usize = 5_000;
/// Of them are spoken in at once.
const AT_ONCE: usize = 100;

macro_rules! on_both {
    ($($name:ident)*) => {
        mod redis_server { $(#[tokio::test] async fn $name() { super::$name(super::Engine::Redis).await; })* }
        mod valkey_server { $(#[tokio::test] async fn $name() {
            if super::Server::start(super::Engine::Valkey, &[]).await.is_some() { super::$name(super::Engine::Valkey).await; }
        })* }
    };
}

on_both! {
    what_was_made_durable_survives_the_primary
    a_wait_without_a_write_promises_nothing
    a_lost_connection_leaves_open_whether_it_is_durable
    disks_that_write_every_second_make_it_durable
    a_follower_without_a_disk_makes_nothing_synced
    a_commit_of_another_era_is_not_called_durable
    the_primary_with_the_highest_epoch_is_used
    commits_and_subscriptions_work_in_cluster_mode
    five_thousand_subscriptions_come_back_after_a_kill
    five_thousand_subscriptions_come_back_after_kill_9
}

async fn what_was_made_durable_survives_the_primary(engine: Engine) {
    let (mut primary, follower) = pair(engine).await;
    let store = store(&[&primary, &follower], Durability::Replicated);
    let mut head = store.create("d", creation()).await.unwrap().head;
    let mut durable = 0;
    for _ in 0..20 {
        let (next, era) = commit(&store, &head).await;
        tokio::time::timeout(PATIENCE, store.make_durable(era)).await.unwrap().unwrap();
        (head, durable) = (next.clone(), next.version);
    }
    // The follower stops, and what comes now is on the primary alone.
    follower.signal("-STOP");
    let (next, era) = commit(&store, &head).await;
    let waiting = tokio::time::timeout(Duration::from_millis(1_500), store.make_durable(era)).await;
    assert!(waiting.is_err(), "nobody has version {}: {waiting:?}", next.version);
    primary.kill();
    follower.signal("-CONT");
    follower.promote(1).await;
    eventually("the promoted one is used", async || store.open("d").await.is_ok()).await;
    let opened = store.open("d").await.unwrap().unwrap();
    assert!(opened.head.version >= durable, "{} of {durable}", opened.head.version);
    assert!(store.make_durable(era).await.is_err(), "that era is over");
}

async fn a_wait_without_a_write_promises_nothing(engine: Engine) {
    let (primary, follower) = pair(engine).await;
    let mut client = primary.client().await;
    run(&mut client, &["SET", "k", "1"]).await;
    follower.signal("-STOP");
    run(&mut client, &["SET", "k", "2"]).await;
    let mut other = primary.client().await;
    let without: i64 = redis::cmd("WAIT").arg(1).arg(200).query_async(&mut other).await.unwrap();
    run(&mut other, &["SET", "w", "1"]).await;
    let with: i64 = redis::cmd("WAIT").arg(1).arg(200).query_async(&mut other).await.unwrap();
    follower.signal("-CONT");
    assert_eq!((without, with), (1, 0), "without a write of its own a connection waits for nothing");
}

/// A WAIT that was cut off proves nothing, and neither does the empty one of a new connection: it is asked again.
async fn a_lost_connection_leaves_open_whether_it_is_durable(engine: Engine) {
    let levels: &[Durability] = match engine {
        Engine::Redis => &[Durability::Replicated],
        Engine::Valkey => &[Durability::Replicated, Durability::Synced],
    };
    for level in levels {
        let (primary, follower) = pair(engine).await;
        let store = store(&[&primary, &follower], *level);
        let head = store.create("d", creation()).await.unwrap().head;
        follower.signal("-STOP");
        let (_, era) = commit(&store, &head).await;
        let asked = tokio::spawn(async move { store.make_durable(era).await });
        let mut client = primary.client().await;
        for _ in 0..3 {
            eventually("it waits for the follower", async || blocked(&mut client).await > 0).await;
            run(&mut client, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        }
        eventually("it waits again", async || blocked(&mut client).await > 0).await;
        assert!(!asked.is_finished(), "nobody but the primary has it");
        follower.signal("-CONT");
        tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap();
    }
}

async fn disks_that_write_every_second_make_it_durable(engine: Engine) {
    if engine == Engine::Redis {
        // WAITAOF came with 7.2.
        return;
    }
    let (primary, follower) = pair_with(engine, &["--appendfsync", "everysec"]).await;
    let store = store(&[&primary, &follower], Durability::Synced);
    let mut head = store.create("d", creation()).await.unwrap().head;
    for _ in 0..3 {
        let (next, era) = commit(&store, &head).await;
        let start = Instant::now();
        tokio::time::timeout(PATIENCE, store.make_durable(era)).await.unwrap().unwrap();
        eprintln!("on both disks after {:?}", start.elapsed());
        head = next;
    }
    let version: String =
        redis::cmd("HGET").arg("{doc:d}:meta").arg("v").query_async(&mut follower.client().await).await.unwrap();
    assert_eq!(version, "3");
}

async fn a_follower_without_a_disk_makes_nothing_synced(engine: Engine) {
    let primary = Server::start(engine, &["--repl-diskless-sync-delay", "0"]).await.unwrap();
    let follower = Server::start(engine, &["--appendonly", "no"]).await.unwrap();
    follower.follow(&primary).await;
    let store = store(&[&primary, &follower], Durability::Synced);
    let head = store.create("d", creation()).await.unwrap().head;
    let (_, era) = commit(&store, &head).await;
    // On Redis 7.0 for want of WAITAOF: nothing is acknowledged there either.
    let waiting = tokio::time::timeout(Duration::from_millis(1_500), store.make_durable(era)).await;
    assert!(waiting.is_err(), "{waiting:?}");
}

async fn blocked(client: &mut MultiplexedConnection) -> u32 {
    let info: String = redis::cmd("INFO").arg("clients").query_async(client).await.unwrap();
    info.lines().find_map(|line| line.strip_prefix("blocked_clients:")).unwrap().trim().parse().unwrap()
}

async fn a_commit_of_another_era_is_not_called_durable(engine: Engine) {
    let (mut primary, follower) = pair(engine).await;
    let third = Server::start(engine, &[]).await.unwrap();
    third.follow(&primary).await;
    let store = store(&[&primary, &follower, &third], Durability::Replicated);
    let head = store.create("d", creation()).await.unwrap().head;
    let (_, era) = commit(&store, &head).await;
    let before = *store.history_changes().borrow();
    primary.kill();
    follower.promote(1).await;
    third.follow(&follower).await;
    eventually("the promoted one is used", async || store.ping().await.is_ok()).await;
    assert!(*store.history_changes().borrow() > before, "whoever holds a history must check it");
    // The new primary has a follower: only the era tells that this commit may be lost.
    assert!(tokio::time::timeout(PATIENCE, store.make_durable(era)).await.unwrap().is_err());
}

async fn the_primary_with_the_highest_epoch_is_used(engine: Engine) {
    let (old, new) = (Server::start(engine, &[]).await.unwrap(), Server::start(engine, &[]).await.unwrap());
    let store = store(&[&old, &new], Durability::Async);
    run(&mut old.client().await, &["HSET", "collab:fence", "epoch", "3"]).await;
    let head = store.create("d", creation()).await.unwrap().head;
    assert!(exists(&old, "{doc:d}:meta").await);
    let changes = store.history_changes();
    let before = *changes.borrow();
    // Both call themselves primary; the old one still answers.
    run(&mut new.client().await, &["HSET", "collab:fence", "epoch", "4"]).await;
    eventually("the servers are asked without a cause", async || *changes.borrow() > before).await;
    store.create("e", creation()).await.unwrap();
    assert!(exists(&new, "{doc:e}:meta").await && !exists(&old, "{doc:e}:meta").await);
    assert!(store.commit("d", &head, 0, &[entry(1, 0)]).await.unwrap().tail.forked, "that history is not here");
    // With the newer one gone the older one is still none.
    drop(new);
    assert!(store.open("d").await.is_err());
    assert!(store.open("d").await.is_err());
}

async fn commits_and_subscriptions_work_in_cluster_mode(engine: Engine) {
    let server = Server::start(engine, &["--cluster-enabled", "yes"]).await.unwrap();
    run(&mut server.client().await, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let (store, bus) = (store(&[&server], Durability::Async), Bus::Redis(RedisBus::new(server.settings())));
    eventually("the cluster serves its slots", async || store.create("d", creation()).await.is_ok()).await;
    let mut hearing = Vec::new();
    for document in ["d", "e", "f"] {
        hearing.push(bus.subscribe(&document_channel(document)).await.unwrap());
    }
    let mut every_pod = bus.subscribe("collab:changed").await.unwrap();
    let head = store.open("d").await.unwrap().unwrap().head;
    let (head, _) = commit(&store, &head).await;
    assert!(matches!(hearing[0].next().await, Some(Heard::Message(_))));
    store.save("d", &head, &Bytes::from_static(b"snapshot")).await.unwrap();
    store.write_presence("d", &[("p/u".to_owned(), Some(Bytes::from_static(b"{}")))]).await.unwrap();
    store.hold_lease("p", 5).await.unwrap();
    assert_eq!(store.living(&["p".into(), "q".into()]).await.unwrap(), [true, false]);
    bus.publish("collab:changed", Bytes::from_static(b"{}"));
    assert_eq!(every_pod.next().await, Some(Heard::Message(Bytes::from_static(b"{}"))));
    run(&mut server.client().await, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    for (subscription, document) in hearing.iter_mut().zip(["d", "e", "f"]) {
        until_missed(subscription).await;
        bus.publish(&document_channel(document), Bytes::from_static(b"word"));
        assert_eq!(subscription.next().await, Some(Heard::Message(Bytes::from_static(b"word"))), "{document}");
    }
}

async fn five_thousand_subscriptions_come_back_after_a_kill(engine: Engine) {
    for arguments in [&[][..], &["--cluster-enabled", "yes"]] {
        let server = Server::start(engine, arguments).await.unwrap();
        if !arguments.is_empty() {
            run(&mut server.client().await, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
        }
        let bus = Bus::Redis(RedisBus::new(server.settings()));
        let mut hearing = subscribe_to_many(&bus).await;
        run(&mut server.client().await, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        all_are_back(&bus, &mut hearing).await;
    }
}

async fn five_thousand_subscriptions_come_back_after_kill_9(engine: Engine) {
    for arguments in [&[][..], &["--cluster-enabled", "yes"]] {
        let mut server = Server::start(engine, arguments).await.unwrap();
        if !arguments.is_empty() {
            run(&mut server.client().await, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
        }
        let bus = Bus::Redis(RedisBus::new(server.settings()));
        let mut hearing = subscribe_to_many(&bus).await;
        server.kill();
        server.start_again().await;
        all_are_back(&bus, &mut hearing).await;
    }
}

#[tokio::test]
async fn tls_is_spoken_with_the_right_certificate_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=redis",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port_text, certificate, key) = (port.to_string(), path("cert.pem"), path("key.pem"));
    let tls =
        ["--tls-port", &port_text, "--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let _server = Server::start(Engine::Redis, &tls).await.unwrap();
    let at = RedisSettings { tls: true, ..RedisSettings::at(vec![format!("127.0.0.1:{port}")]) };
    let trusted = RedisSettings { ca_file: Some(certificate.into()), ..at.clone() };
    let store = Store::Redis(RedisStore::new(Arc::new(trusted.clone())));
    store.create("d", creation()).await.unwrap();
    let bus = Bus::Redis(RedisBus::new(Arc::new(trusted)));
    let mut subscription = bus.subscribe("c").await.unwrap();
    bus.publish("c", Bytes::from_static(b"word"));
    assert_eq!(subscription.next().await, Some(Heard::Message(Bytes::from_static(b"word"))));
    let stranger = Store::Redis(RedisStore::new(Arc::new(at)));
    assert!(stranger.ping().await.is_err(), "nobody vouches for this certificate");
}

/// A primary, and a follower that has all of it.
async fn pair(engine: Engine) -> (Server, Server) {
    pair_with(engine, &[]).await
}

async fn pair_with(engine: Engine, arguments: &[&str]) -> (Server, Server) {
    let arguments = [&["--repl-diskless-sync-delay", "0"], arguments].concat();
    let primary = Server::start(engine, &arguments).await.unwrap();
    let follower = Server::start(engine, &arguments).await.unwrap();
    follower.follow(&primary).await;
    (primary, follower)
}

async fn exists(server: &Server, key: &str) -> bool {
    redis::cmd("EXISTS").arg(key).query_async(&mut server.client().await).await.unwrap()
}

fn store(servers: &[&Server], durability: Durability) -> Store {
    let addresses = servers.iter().map(|server| server.address()).collect();
    Store::Redis(RedisStore::new(Arc::new(RedisSettings { durability, ..RedisSettings::at(addresses) })))
}

fn creation() -> Creation {
    Creation { root: format!("{:011x}", rand::random::<u64>() >> 20).into(), snapshot: None }
}

fn entry(seq: u64, base: u64) -> NewEntry {
    let identity = Identity { id: "filler".into(), seq, by_gateway: false };
    NewEntry { identity, owner: "owner".into(), base, bytes: format!("entry {seq}").into() }
}

async fn commit(store: &Store, head: &Point) -> (Point, collab_gateway::store::Era) {
    let seq = head.version + 1;
    let committed = store.commit("d", head, 0, &[entry(seq, head.version)]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Ok(seq)]);
    (committed.tail.entries[0].at.clone(), committed.era)
}

async fn subscribe_to_many(bus: &Bus) -> Vec<collab_gateway::bus::Subscription> {
    let subscribing = (0..MANY).map(|n| async move { bus.subscribe(&document_channel(&n.to_string())).await.unwrap() });
    futures_util::future::join_all(subscribing).await
}

async fn all_are_back(bus: &Bus, hearing: &mut [collab_gateway::bus::Subscription]) {
    let start = Instant::now();
    for subscription in hearing.iter_mut() {
        until_missed(subscription).await;
    }
    eprintln!("{} subscriptions were back after {:?}", hearing.len(), start.elapsed());
    // Some at a time: what a pod publishes waits in a line that has an end.
    for (chunk, subscriptions) in hearing.chunks_mut(AT_ONCE).enumerate() {
        let word = |place: usize| Bytes::from(format!("word {}", chunk * AT_ONCE + place));
        for place in 0..subscriptions.len() {
            bus.publish(&document_channel(&(chunk * AT_ONCE + place).to_string()), word(place));
        }
        for (place, subscription) in subscriptions.iter_mut().enumerate() {
            let heard = tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap();
            assert_eq!(heard, Some(Heard::Message(word(place))), "document {}", chunk * AT_ONCE + place);
        }
    }
}

async fn until_missed(subscription: &mut collab_gateway::bus::Subscription) {
    while tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap().unwrap() != Heard::Missed {}
}
