//! A pod with as many open documents as a busy one has, whose Redis is killed and comes back.
//!
//! In: a gateway as a process, a few connections that have joined thousands of documents, edits that another pod commits.
//! Out: each of these edits at its reader, by itself: once after the kill, and once more when everything had time to settle.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
#[allow(dead_code, reason = "not everything is for this file")]
#[path = "wire/harness.rs"]
mod harness;
mod pods;
mod servers;
mod signers;

use std::{collections::BTreeMap, sync::Arc};

use collab_gateway::store::{NewEntry, RedisSettings, RedisStore, Store};
use document::{Entry, Identity, Point, Version};
use editor::SECRET;
use futures_util::{StreamExt, future::join_all, stream};
use harness::Client;
use ot::Delta;
use pods::Pod;
use serde_json::{Value, json};
use servers::{Engine, PATIENCE, Server, eventually};
use signers::{FAR, hs256};

const DOCUMENTS: usize = 5_000;
const READERS: usize = 10;
const DOCUMENTS_EACH: usize = DOCUMENTS / READERS;
/// Calls of the other pod at a time.
const AT_ONCE: usize = 64;

/// A connection and where its documents are.
struct Reader {
    client: Client,
    points: BTreeMap<String, Point>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_open_documents_go_on_after_their_redis_was_killed() {
    // What was written survives the process without a flush of its own for each document.
    let mut server = Server::start(Engine::Redis, &["--appendfsync", "everysec"]).await.unwrap();
    let mut redis = server.client().await;
    let mut accesses = redis::Pipeline::with_capacity(DOCUMENTS);
    for number in 0..DOCUMENTS {
        accesses.set(format!("doc:{}:access:{}", name(number), reader(number / DOCUMENTS_EACH)), "read").ignore();
    }
    accesses.exec_async(&mut redis).await.unwrap();
    let flags = ["--max-documents-per-connection=5000", "--join-rate=100000", "--message-rate=100000"];
    let pod = Pod::start(&server.address(), &flags);
    let mut readers = join_all((0..READERS).map(|number| joined(&pod, number))).await;
    assert_eq!(pod.metric("collab_gateway_documents").await, Some(DOCUMENTS as f64));
    let held = pod.metric("collab_gateway_held_bytes{what=\"documents\"}").await.unwrap();
    assert!((4_000.0..20_000.0).contains(&(held / DOCUMENTS as f64)), "{held} bytes for empty documents");

    server.kill();
    eventually("it is missed", async || pod.metric("collab_gateway_store_up").await == Some(0.0)).await;
    server.start_again().await;
    let store = Store::Redis(RedisStore::new(Arc::new(RedisSettings::at(vec![server.address()]))));
    for version in 1..=2 {
        write_in_all(&store, &mut readers, version).await;
        join_all(readers.iter_mut().map(|reader| reader.hear_all(version))).await;
    }
    eventually("all is well", async || pod.get("/readyz").await == (200, "ok\n".to_owned())).await;
    assert_eq!(pod.metric("collab_gateway_documents").await, Some(DOCUMENTS as f64));
}

fn name(number: usize) -> String {
    format!("d{number}")
}

fn reader(number: usize) -> String {
    format!("reader{number}")
}

async fn joined(pod: &Pod, number: usize) -> Reader {
    let user = reader(number);
    let token = hs256(SECRET.as_bytes(), &json!({"sub": user, "name": user, "exp": FAR}));
    let mut client = Client::at(pod.address, "").await;
    client.send(&format!("40{}", json!({"token": token}))).await;
    assert!(client.text().await.starts_with("40{"));
    let mut points = BTreeMap::new();
    for document in (number * DOCUMENTS_EACH..(number + 1) * DOCUMENTS_EACH).map(name) {
        let joined = client.join(json!(document)).await;
        assert_eq!(joined["version"], 0);
        points.insert(document, Point { version: 0, hash: joined["hash"].as_str().unwrap().into() });
    }
    Reader { client, points }
}

/// As another pod does it.
async fn write_in_all(store: &Store, readers: &mut [Reader], version: Version) {
    let points = readers.iter_mut().flat_map(|reader| &mut reader.points);
    stream::iter(points)
        .for_each_concurrent(AT_ONCE, |(document, point)| async move {
            let entry = entry(version);
            let mut committed = None;
            eventually("the store is back", async || {
                committed = store.commit(document, point, 0, std::slice::from_ref(&entry)).await.ok();
                committed.is_some()
            })
            .await;
            *point = committed.unwrap().tail.entries.last().unwrap().at.clone();
        })
        .await;
}

fn entry(seq: u64) -> NewEntry {
    let identity = Identity { id: "writer".into(), seq, by_gateway: false };
    let entry = Entry {
        identity: identity.clone(),
        client_id: "writer".into(),
        user_id: "writer".into(),
        session: "session".into(),
        base: seq - 1,
        ops: Delta::new().insert(&format!("{seq}"), None),
    };
    NewEntry { identity, owner: "writer".into(), base: seq - 1, bytes: protocol::encode_entry(&entry).into() }
}

impl Reader {
    /// The edit of this version in each of its documents, once.
    async fn hear_all(&mut self, version: Version) {
        let mut missing: Vec<String> = self.points.keys().cloned().collect();
        let hearing = async {
            while !missing.is_empty() {
                let edit: Value = self.client.event("edit").await;
                assert_eq!(edit["version"], version, "{edit}");
                let document = edit["documentId"].as_str().unwrap();
                let place = missing.iter().position(|missing| missing == document);
                missing.swap_remove(place.unwrap_or_else(|| panic!("twice: {edit}")));
            }
        };
        assert!(tokio::time::timeout(PATIENCE, hearing).await.is_ok(), "{} documents heard nothing", missing.len());
    }
}
