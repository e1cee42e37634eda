//! What only a server can show: fences, trimming by age, lost connections, passwords, `kill -9`.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "pressure/proxy.rs"]
mod proxy;
mod servers;

use std::{io::Write, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use collab_gateway::{
    bus::{Bus, Heard, RedisBus, document_channel},
    store::{Creation, NewEntry, PRESENCE_PAGE_ROWS, RedisSettings, RedisStore, Saved, Store, StoreError},
};
use document::{Identity, Point, Verdict};
use proxy::Proxy;
use redis::aio::MultiplexedConnection;
use servers::{Engine, PATIENCE, Server, eventually};

/// Runs a scenario against both engines.
macro_rules! scenarios {
    ($($name:ident)*) => {
        mod redis_server { $(#[tokio::test] async fn $name() {
            super::$name(super::Server::start(super::Engine::Redis, &[]).await.unwrap()).await;
        })* }
        mod valkey_server { $(#[tokio::test] async fn $name() {
            if let Some(server) = super::Server::start(super::Engine::Valkey, &[]).await { super::$name(server).await; }
        })* }
    };
}

scenarios! {
    a_fenced_server_changes_nothing
    the_script_refuses_batches_of_too_many_bytes
    every_change_moves_the_position
    keys_and_fields_are_those_of_the_design
    what_is_older_than_ten_minutes_and_the_snapshot_is_trimmed
    the_log_of_the_last_ten_minutes_stays
    chunks_of_an_old_snapshot_are_removed
    rows_of_clients_are_remembered_for_a_week
    old_numbered_rows_make_room_for_new_ones
    old_rows_of_clients_make_room_though_nobody_saves
    damage_is_told_apart_from_absence
    a_snapshot_that_is_replaced_whenever_it_is_read_is_not_damaged
    ten_thousand_people_are_read_page_by_page
    channels_are_heard_again_after_the_connection_was_killed
    commits_go_on_after_kill_9_and_nothing_is_lost_or_doubled
    the_next_password_is_tried_when_one_is_refused
    a_user_of_the_servers_acl_signs_in
    servers_that_the_file_names_later_are_found
    a_follower_is_not_taken_for_the_primary
    a_script_is_loaded_again_after_the_server_forgot_it
}

async fn a_fenced_server_changes_nothing(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let root = create(&store, "d").await;
    let commit = async |seq| store.commit("d", &root, 0, &[entry("a", seq, 0)]).await;
    let (soon, just_now) = (after(&mut client, 60_000).await, after(&mut client, -1).await);
    set(&mut client, &["HSET", "collab:fence", "epoch", "4", "until", &soon]).await;
    assert_eq!(commit(1).await.unwrap().verdicts, [Verdict::Ok(1)]);
    set(&mut client, &["HSET", "collab:fence", "until", &just_now]).await;
    assert!(matches!(commit(2).await, Err(StoreError::Fenced)));
    let head = store.open("d").await.unwrap().unwrap().head;
    assert_eq!(head.version, 1, "reading goes on");
    assert!(matches!(store.save("d", &head, &Bytes::from_static(b"s")).await, Err(StoreError::Fenced)));
    assert!(matches!(store.create("e", creation()).await, Err(StoreError::Fenced)));
    set(&mut client, &["DEL", "collab:fence"]).await;
    assert_eq!(commit(2).await.unwrap().verdicts, [Verdict::Ok(2)]);
}

async fn the_script_refuses_batches_of_too_many_bytes(server: Server) {
    let script = [include_str!("../src/store/common.lua"), include_str!("../src/store/commit.lua")].concat();
    let root = create(&store(&server), "d").await;
    let mut client = server.client().await;
    let mut commit = async |sizes: &[usize]| {
        let mut command = redis::cmd("EVAL");
        command.arg(&script).arg(5).arg(["meta", "log", "clients"].map(|name| format!("{{doc:d}}:{name}")).as_slice());
        command.arg("collab:fence").arg("collab:position").arg("{doc:d}").arg(0).arg(&*root.hash).arg(0);
        command.arg(sizes.len());
        for (n, size) in sizes.iter().enumerate() {
            command.arg(format!("c{n}")).arg(1).arg(0).arg("owner").arg(0).arg(vec![b'x'; *size]);
        }
        command.query_async::<redis::Value>(&mut client).await
    };
    let refused = commit(&[131_072, 131_073]).await.unwrap_err();
    assert_eq!(refused.code(), Some("BOUNDS"), "{refused}");
    commit(&[600_000]).await.unwrap();
    assert_eq!(store(&server).open("d").await.unwrap().unwrap().head.version, 1);
}

async fn every_change_moves_the_position(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let root = create(&store, "d").await;
    let head = commit_one(&store, "d", &root, 1).await;
    store.save("d", &head, &Bytes::from_static(b"s")).await.unwrap();
    assert_eq!(text(&mut client, &["GET", "collab:position"]).await, "3");
    store.commit("d", &root, 0, &[entry("filler", 1, 0)]).await.unwrap();
    store.save("d", &head, &Bytes::from_static(b"s")).await.unwrap();
    assert_eq!(text(&mut client, &["GET", "collab:position"]).await, "3", "what changes nothing moves nothing");
}

async fn keys_and_fields_are_those_of_the_design(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let root = create(&store, "d").await;
    let head = commit_one(&store, "d", &root, 1).await;
    store.save("d", &head, &Bytes::from_static(b"snapshot")).await.unwrap();
    store.write_presence("d", &[("p/u".to_owned(), Some(Bytes::from_static(b"{}")))]).await.unwrap();
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut client).await.unwrap();
    keys.sort();
    let of_document = ["clients", "log", "meta", "presence", "snapshot:1:0"].map(|name| format!("{{doc:d}}:{name}"));
    assert_eq!(keys, ["collab:position"].map(String::from).into_iter().chain(of_document).collect::<Vec<_>>());
    for (field, value) in [("v", "1"), ("hash", &*head.hash), ("floor", "0")] {
        assert_eq!(text(&mut client, &["HGET", "{doc:d}:meta", field]).await, value);
    }
    let log: Vec<(String, Vec<(String, String)>)> =
        redis::cmd("XRANGE").arg("{doc:d}:log").arg("-").arg("+").query_async(&mut client).await.unwrap();
    let fields = [("e", "filler 1"), ("h", &*head.hash)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(log, [("1-0".to_owned(), fields.to_vec())]);
}

async fn what_is_older_than_ten_minutes_and_the_snapshot_is_trimmed(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let root = create(&store, "d").await;
    let mut head = root.clone();
    for _ in 0..600 {
        head = commit_one(&store, "d", &head, head.version + 1).await;
    }
    age(&mut client, "d", 700_000).await;
    assert_eq!(store.save("d", &head, &Bytes::from_static(b"s")).await.unwrap(), Saved::Stored);
    // The window stays, and the entry below it, which proves the point that entries may be based on.
    assert_eq!(text(&mut client, &["XLEN", "{doc:d}:log"]).await, "513");
    assert!(store.tail("d", &root).await.unwrap().forked, "a pod that is so far behind opens the document anew");
    let opened = store.open("d").await.unwrap().unwrap();
    assert_eq!((opened.snapshot_at, opened.tail.entries.len()), (head.clone(), 0));
    commit_one(&store, "d", &head, 601).await;
}

async fn the_log_of_the_last_ten_minutes_stays(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let mut head = create(&store, "d").await;
    for _ in 0..300 {
        head = commit_one(&store, "d", &head, head.version + 1).await;
    }
    age(&mut client, "d", 700_000).await;
    for _ in 0..600 {
        head = commit_one(&store, "d", &head, head.version + 1).await;
    }
    store.save("d", &head, &Bytes::from_static(b"s")).await.unwrap();
    // 300 are old, of them the last one proves its point; the window alone would be 512.
    assert_eq!(text(&mut client, &["XLEN", "{doc:d}:log"]).await, "601");
}

async fn chunks_of_an_old_snapshot_are_removed(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let head = commit_one(&store, "d", &create(&store, "d").await, 1).await;
    store.save("d", &head, &Bytes::from(vec![b'x'; 600 << 10])).await.unwrap();
    for n in 0..3 {
        assert_eq!(text(&mut client, &["TTL", &format!("{{doc:d}}:snapshot:1:{n}")]).await, "-1", "stored for good");
    }
    let head = commit_one(&store, "d", &head, 2).await;
    store.save("d", &head, &Bytes::from_static(b"s")).await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("{doc:d}:snapshot:*").query_async(&mut client).await.unwrap();
    assert_eq!(keys, ["{doc:d}:snapshot:2:0"]);
}

async fn rows_of_clients_are_remembered_for_a_week(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let root = create(&store, "d").await;
    let head = commit_one(&store, "d", &root, 1).await;
    let now: i64 = after(&mut client, 0).await.parse::<i64>().unwrap() / 1000;
    let row = |days: i64| format!("5 1 {} owner", now - days * 24 * 3600);
    set(&mut client, &["HSET", "{doc:d}:clients", "six", &row(6), "eight", &row(8), "~one", &row(1)]).await;
    set(&mut client, &["HSET", "{doc:d}:meta", "numbered", "1"]).await;
    store.save("d", &head, &Bytes::from_static(b"s")).await.unwrap();
    let mut left: Vec<String> = redis::cmd("HKEYS").arg("{doc:d}:clients").query_async(&mut client).await.unwrap();
    left.sort();
    assert_eq!(left, ["filler", "six"]);
    assert_eq!(text(&mut client, &["HGET", "{doc:d}:meta", "numbered"]).await, "0");
}

async fn old_numbered_rows_make_room_for_new_ones(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let root = create(&store, "d").await;
    let now: i64 = after(&mut client, 0).await.parse::<i64>().unwrap() / 1000;
    let mut command = redis::cmd("HSET");
    command.arg("{doc:d}:clients");
    for n in 0..1000 {
        command.arg(format!("~c{n}")).arg(format!("1 1 {} owner", now - if n < 10 { 601 } else { 60 }));
    }
    command.exec_async(&mut client).await.unwrap();
    set(&mut client, &["HSET", "{doc:d}:meta", "numbered", "1000"]).await;
    let numbered = |n: u64| NewEntry {
        identity: Identity { id: format!("new{n}").into(), seq: 1, by_gateway: true },
        ..entry("", 1, 0)
    };
    // A scan of the hash may take several calls until it has met every old row.
    eventually("ten old rows made room", async || {
        let batch: Vec<_> = (0..11).map(numbered).collect();
        let verdicts = store.commit("d", &root, 0, &batch).await.unwrap().verdicts;
        verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Ok(_) | Verdict::Dup(_))).count() == 10
    })
    .await;
    assert_eq!(text(&mut client, &["HLEN", "{doc:d}:clients"]).await, "1000");
    // Whoever goes on after that is told that nothing of its count is known, and begins another.
    let forgotten = |seq| NewEntry {
        identity: Identity { id: "c0".into(), seq, by_gateway: true },
        owner: "owner".into(),
        ..entry("", 1, 0)
    };
    let verdicts = store.commit("d", &root, 0, &[forgotten(2)]).await.unwrap().verdicts;
    assert_eq!(verdicts, [Verdict::Gap(0)]);
}

async fn old_rows_of_clients_make_room_though_nobody_saves(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let root = create(&store, "d").await;
    let now: i64 = after(&mut client, 0).await.parse::<i64>().unwrap() / 1000;
    let mut command = redis::cmd("HSET");
    command.arg("{doc:d}:clients");
    for n in 0..20_000 {
        let days = if n == 17_000 { 8 } else { 6 };
        command.arg(format!("c{n}")).arg(format!("1 1 {} owner", now - days * 24 * 3600));
    }
    command.exec_async(&mut client).await.unwrap();
    // Each call looks at some of the rows, and the next one at others.
    eventually("one old row made room", async || {
        let verdicts = store.commit("d", &root, 0, &[entry("new", 1, 0), entry("newer", 1, 0)]).await.unwrap().verdicts;
        matches!(verdicts[..], [Verdict::Ok(1) | Verdict::Dup(1), Verdict::Overloaded])
    })
    .await;
    assert_eq!(text(&mut client, &["HLEN", "{doc:d}:clients"]).await, "20000");
}

async fn damage_is_told_apart_from_absence(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let head = commit_one(&store, "d", &create(&store, "d").await, 1).await;
    store.save("d", &head, &Bytes::from_static(b"s")).await.unwrap();
    set(&mut client, &["DEL", "{doc:d}:snapshot:1:0"]).await;
    assert!(matches!(store.open("d").await, Err(StoreError::Damaged(_))));
    set(&mut client, &["SET", "{doc:e}:meta", "no hash"]).await;
    assert!(matches!(store.open("e").await, Err(StoreError::Damaged(_))));
    set(&mut client, &["HSET", "{doc:f}:meta", "v", "three"]).await;
    assert!(matches!(store.open("f").await, Err(StoreError::Damaged(_))));
    let head = commit_one(&store, "g", &create(&store, "g").await, 1).await;
    store.save("g", &head, &Bytes::from(vec![b'x'; 300 << 10])).await.unwrap();
    set(&mut client, &["DEL", "{doc:g}:snapshot:1:1"]).await;
    assert!(matches!(store.open("g").await, Err(StoreError::Damaged(_))));
}

/// Its chunks are asked for one answer later, and answers are late.
async fn a_snapshot_that_is_replaced_whenever_it_is_read_is_not_damaged(server: Server) {
    let near = store(&server);
    let way = Proxy::to(server.address()).await;
    let far = Store::Redis(RedisStore::new(RedisSettings::at(vec![way.address.clone()]).into()));
    let mut head = create(&near, "d").await;
    assert!(far.open("d").await.unwrap().is_some(), "it is connected");
    way.delay(Duration::from_millis(100));
    // Where this machine stands still for so long between two saves, one is read as a whole.
    let refusal = async {
        loop {
            match far.open("d").await {
                Ok(opened) => assert!(opened.is_some()),
                Err(error) => break error,
            }
        }
    };
    tokio::pin!(refusal);
    let refusal = loop {
        head = commit_one(&near, "d", &head, head.version + 1).await;
        near.save("d", &head, &Bytes::from(vec![b'x'; 300 << 10])).await.unwrap();
        if let Poll::Ready(refusal) = futures_util::poll!(&mut refusal) {
            break refusal;
        }
    };
    assert!(matches!(refusal, StoreError::Unavailable(_)), "{refusal}");
    way.delay(Duration::ZERO);
    let opened = far.open("d").await.unwrap().unwrap();
    assert_eq!((opened.snapshot_at, opened.snapshot.unwrap().len()), (head, 300 << 10));
}

async fn ten_thousand_people_are_read_page_by_page(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let row = |n: usize, row: &'static [u8]| (format!("p/u{n}"), Some(Bytes::from_static(row)));
    store.write_presence("small", &[row(1, b"{}"), row(2, b"{}")]).await.unwrap();
    assert_eq!(store.presence("small").await.unwrap().len(), 2);
    assert_eq!(calls(&mut client, "hscan").await, 1, "a document of a few people costs one call");
    let people: Vec<_> = (0..10_000).map(|n| row(n, b"{}")).collect();
    for some in people.chunks(1_000) {
        store.write_presence("large", some).await.unwrap();
    }
    // Others come and go meanwhile, so that the server's table grows and shrinks under the reader.
    let done = std::sync::atomic::AtomicBool::new(false);
    let guests = async {
        let guests: Vec<_> = (20_000..22_000).map(|n| row(n, b"{}")).collect();
        let gone: Vec<_> = guests.iter().map(|(name, _)| (name.clone(), None)).collect();
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            store.write_presence("large", &guests).await.unwrap();
            store.write_presence("large", &gone).await.unwrap();
        }
    };
    let reading = async {
        for _ in 0..3 {
            let read: std::collections::BTreeSet<String> =
                store.presence("large").await.unwrap().into_iter().map(|(name, _)| name).collect();
            let missing: Vec<_> = people.iter().filter(|(name, _)| !read.contains(name)).collect();
            assert_eq!(missing, [] as [&(String, Option<Bytes>); 0], "who stays is read, whatever else happens");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(guests, reading);
    let pages = calls(&mut client, "hscan").await - 1;
    assert!(pages >= 3 * (people.len() / (2 * PRESENCE_PAGE_ROWS)), "{pages} pages");
    assert_eq!(calls(&mut client, "hgetall").await, 0);
}

/// How often the server was given this command.
async fn calls(client: &mut MultiplexedConnection, command: &str) -> usize {
    let stats = text(client, &["INFO", "commandstats"]).await;
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

async fn channels_are_heard_again_after_the_connection_was_killed(server: Server) {
    let bus = Bus::Redis(RedisBus::new(server.settings()));
    let mut hearing = Vec::new();
    for document in ["a", "b", "c"] {
        hearing.push((document, bus.subscribe(&document_channel(document)).await.unwrap()));
    }
    set(&mut server.client().await, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    for (document, subscription) in &mut hearing {
        let heard = tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap();
        assert_eq!(heard, Some(Heard::Missed), "{document}");
        let mut heard = heard;
        // A busy machine may lose the connection once more.
        while heard == Some(Heard::Missed) {
            bus.publish(&document_channel(document), Bytes::from_static(b"word"));
            heard = tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap();
        }
        assert_eq!(heard, Some(Heard::Message(Bytes::from_static(b"word"))), "{document}");
    }
}

async fn commits_go_on_after_kill_9_and_nothing_is_lost_or_doubled(mut server: Server) {
    let store = store(&server);
    let mut head = create(&store, "d").await;
    let mut subscription =
        Bus::Redis(RedisBus::new(server.settings())).subscribe(&document_channel("d")).await.unwrap();
    for round in 0..3u64 {
        // One call is in flight while the server dies: nobody knows its fate.
        let seq = head.version + 1;
        let batch = [entry("filler", seq, head.version)];
        let (in_flight, ()) = tokio::join!(store.commit("d", &head, 0, &batch), async { server.kill() });
        assert!(in_flight.is_err() || in_flight.unwrap().verdicts == [Verdict::Ok(seq)]);
        assert!(matches!(store.commit("d", &head, 0, &batch).await, Err(StoreError::Unavailable(_))));
        server.start_again().await;
        let mut answer = None;
        eventually("the repeated call is answered", async || {
            answer = store.commit("d", &head, 0, &batch).await.ok();
            answer.is_some()
        })
        .await;
        let committed = answer.unwrap();
        assert!(matches!(committed.verdicts[..], [Verdict::Ok(v) | Verdict::Dup(v)] if v == seq), "round {round}");
        head = committed.tail.entries.last().unwrap().at.clone();
        assert_eq!(head.version, seq, "round {round}");
    }
    while tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap().unwrap() != Heard::Missed {}
}

async fn the_next_password_is_tried_when_one_is_refused(server: Server) {
    let mut client = server.client().await;
    set(&mut client, &["CONFIG", "SET", "requirepass", "new"]).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let settings = Arc::new(RedisSettings {
        password_file: Some(file.path().to_owned()),
        ..RedisSettings::at(vec![server.address()])
    });
    let store = Store::Redis(RedisStore::new(Arc::clone(&settings)));
    writeln!(file, "old").unwrap();
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    writeln!(file, "new").unwrap();
    eventually("the file is read again", async || store.ping().await.is_ok()).await;
    let bus = Bus::Redis(RedisBus::new(settings));
    eventually("the bus knows it too", async || bus.subscribe("c").await.is_ok()).await;
}

async fn a_user_of_the_servers_acl_signs_in(server: Server) {
    let mut client = server.client().await;
    set(&mut client, &["ACL", "SETUSER", "gateway", "on", ">word", "allkeys", "allchannels", "allcommands"]).await;
    set(&mut client, &["ACL", "SETUSER", "default", "resetpass", ">other"]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "word\n").unwrap();
    let settings = |username: Option<&str>| RedisSettings {
        username: username.map(str::to_owned),
        password_file: Some(file.path().to_owned()),
        ..RedisSettings::at(vec![server.address()])
    };
    let nobody = Store::Redis(RedisStore::new(Arc::new(settings(None))));
    assert!(matches!(nobody.ping().await, Err(StoreError::Unavailable(_))));
    let gateway = Arc::new(settings(Some("gateway")));
    Store::Redis(RedisStore::new(Arc::clone(&gateway))).ping().await.unwrap();
    let bus = Bus::Redis(RedisBus::new(gateway));
    eventually("the bus signs in too", async || bus.subscribe("c").await.is_ok()).await;
}

async fn servers_that_the_file_names_later_are_found(server: Server) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    write!(file, "redis://{gone}").unwrap();
    let url_file = Some(file.path().to_owned());
    let settings = RedisSettings { url_file, ..RedisSettings::at(vec![gone.to_string()]) };
    let store = Store::Redis(RedisStore::new(Arc::new(settings)));
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    std::fs::write(file.path(), format!("redis://{gone},{}\n", server.address())).unwrap();
    eventually("the file is read again", async || store.ping().await.is_ok()).await;
}

async fn a_follower_is_not_taken_for_the_primary(server: Server) {
    let follower = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = follower.client().await;
    // The follower need not be in step, or even able to be: what counts is its role.
    set(&mut client, &["REPLICAOF", "127.0.0.1", &server.port.to_string()]).await;
    let addresses = vec![follower.address(), server.address()];
    let settings = RedisSettings::at(addresses);
    let store = Store::Redis(RedisStore::new(Arc::new(settings)));
    create(&store, "d").await;
    assert_eq!(text(&mut server.client().await, &["EXISTS", "{doc:d}:meta"]).await, "1");
}

async fn a_script_is_loaded_again_after_the_server_forgot_it(server: Server) {
    let (store, mut client) = (store(&server), server.client().await);
    let root = create(&store, "d").await;
    set(&mut client, &["SCRIPT", "FLUSH"]).await;
    commit_one(&store, "d", &root, 1).await;
}

fn store(server: &Server) -> Store {
    Store::Redis(RedisStore::new(server.settings()))
}

fn creation() -> Creation {
    Creation { root: format!("{:011x}", rand::random::<u64>() >> 20).into(), snapshot: None }
}

async fn create(store: &Store, document: &str) -> Point {
    store.create(document, creation()).await.unwrap().head
}

fn entry(client: &str, seq: u64, base: u64) -> NewEntry {
    NewEntry {
        identity: Identity { id: client.into(), seq, by_gateway: false },
        owner: "owner".into(),
        base,
        bytes: format!("{client} {seq}").into(),
    }
}

async fn commit_one(store: &Store, document: &str, head: &Point, seq: u64) -> Point {
    let committed = store.commit(document, head, 0, &[entry("filler", seq, head.version)]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Ok(head.version + 1)]);
    committed.tail.entries[0].at.clone()
}

async fn set(client: &mut MultiplexedConnection, words: &[&str]) {
    command(words).exec_async(client).await.unwrap();
}

async fn text(client: &mut MultiplexedConnection, words: &[&str]) -> String {
    command(words).query_async(client).await.unwrap()
}

fn command(words: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command
}

/// The server's time in so many milliseconds.
async fn after(client: &mut MultiplexedConnection, ms: i64) -> String {
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(client).await.unwrap();
    (seconds * 1000 + micros / 1000 + ms).to_string()
}

/// Makes all commits so far this much older.
async fn age(client: &mut MultiplexedConnection, document: &str, ms: i64) {
    let at = after(client, -ms).await;
    set(client, &["HSET", &format!("{{doc:{document}}}:meta"), "time", &at, "marks", &format!("{at}:0")]).await;
}
