//! What open documents take of a pod's memory: bounded however many are opened one after the other.
//!
//! In: a gateway as a process on a real Redis, clients that join large documents, edit them and leave. Out: the memory of
//! the process as the kernel counts it, and the pod's own account of it.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
#[allow(dead_code, reason = "not everything is for this file")]
#[path = "wire/harness.rs"]
mod harness;
mod pods;
mod servers;
mod signers;

use std::sync::atomic::{AtomicUsize, Ordering};

use editor::SECRET;
use harness::Client;
use pods::Pod;
use serde_json::json;
use servers::{Engine, Server, eventually};
use signers::{FAR, hs256};

const DOCUMENTS: usize = 120;
const DOCUMENT_BYTES: usize = 1 << 20;
/// All of them are four times as much.
const BUDGET: usize = 32 << 20;
/// A process without documents, and what passes through it while a few are opened at once.
const BESIDE: usize = 110 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_are_opened_one_after_the_other_do_not_fill_the_pod() {
    let server = Server::start(Engine::Redis, &["--appendonly", "no"]).await.unwrap();
    let mut redis = server.client().await;
    for number in 0..DOCUMENTS {
        let mut pipeline = redis::pipe();
        pipeline.set(format!("doc:large-{number}:content"), "x".repeat(DOCUMENT_BYTES)).ignore();
        for user in ["ann", "bob", "eve"] {
            pipeline.set(format!("doc:large-{number}:access:{user}"), "write").ignore();
        }
        pipeline.exec_async(&mut redis).await.unwrap();
    }
    let budget = format!("--max-documents-bytes={BUDGET}");
    let pod = Pod::start(&server.address(), &[&budget, "--join-rate=1000"]);
    let next = AtomicUsize::new(0);
    let visit = async |user: &str| {
        let mut client = signed_in(&pod, user).await;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= DOCUMENTS {
                return;
            }
            let document = format!("large-{number}");
            let version = join(&mut client, &document).await;
            // Whoever has an entry of the last half minute keeps it for a failover.
            let edit = json!({"documentId": document, "version": version, "ops": [{"insert": "y"}]});
            assert_eq!(client.ask("edit", edit).await["version"], version + 1);
            assert_eq!(client.ask("leave-document", json!(document)).await, json!({}));
            let held = held(&pod).await;
            assert!(held < BUDGET + 12 * DOCUMENT_BYTES, "{held} bytes after {number} documents");
        }
    };
    tokio::join!(visit("ann"), visit("bob"), visit("eve"));
    let peak = resident_peak(&pod);
    eprintln!("{} MiB at most, documents {} MiB", peak >> 20, held(&pod).await >> 20);
    assert!(peak < BUDGET + BESIDE, "{peak} bytes at most");
    assert!(pod.metric("collab_gateway_overloaded_total{what=\"unused\"}").await > Some(0.0));
    // All the same it may be joined by anybody, and read.
    let mut ann = signed_in(&pod, "ann").await;
    assert_eq!(join(&mut ann, "large-0").await, 1);
    eventually("the account is in order", async || held(&pod).await <= BUDGET).await;
}

/// The version that it is joined at, as soon as there is room.
async fn join(client: &mut Client, document: &str) -> u64 {
    loop {
        let answer = client.ask("join-document", json!(document)).await;
        if answer["error"].is_null() {
            return client.event("document-joined").await["version"].as_u64().unwrap();
        }
        assert_eq!(answer["error"]["code"], "OVERLOADED", "{answer}");
    }
}

async fn signed_in(pod: &Pod, user: &str) -> Client {
    let token = hs256(SECRET.as_bytes(), &json!({"sub": user, "name": user, "exp": FAR}));
    let mut client = Client::at(pod.address, "").await;
    client.send(&format!("40{}", json!({"token": token}))).await;
    assert!(client.text().await.starts_with("40{"));
    client
}

async fn held(pod: &Pod) -> usize {
    pod.metric("collab_gateway_held_bytes{what=\"documents\"}").await.unwrap() as usize
}

/// The most that the process had in memory so far.
fn resident_peak(pod: &Pod) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pod.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}
