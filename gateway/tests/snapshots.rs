//! Pods that write to one document store it in turn, on a real server.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod servers;

use std::collections::BTreeMap;

use editor::{Editor, Gateway};
use futures_util::{StreamExt, future::join_all};
use redis::AsyncCommands;
use servers::{Engine, PATIENCE, Server};

const PODS: usize = 3;
/// Each edit, and all of them: a snapshot is due after 64 KiB.
const EDIT_BYTES: usize = 2 << 10;
const EDITS: usize = 150;
const DUE_BYTES: usize = 64 << 10;

/// Saves that pods told of until one of the last edits was in one, by version.
async fn saves(messages: impl StreamExt<Item = redis::Msg> + Unpin, until: u64) -> BTreeMap<u64, usize> {
    let mut messages = messages;
    let mut saves = BTreeMap::new();
    while saves.last_key_value().is_none_or(|(version, _)| *version < until) {
        let message = messages.next().await.unwrap();
        // A pod's word: its name, a line feed, and what it says.
        let word = message.get_payload_bytes();
        let Some(start) = word.iter().position(|byte| *byte == b'\n') else { continue };
        if let Ok((kind, version, _)) = serde_json::from_slice::<(String, u64, String)>(&word[start..])
            && kind == "saved"
        {
            *saves.entry(version).or_default() += 1;
        }
    }
    saves
}

#[tokio::test]
async fn pods_that_write_to_one_document_store_about_one_snapshot_when_it_is_due() {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let users = ["ann", "bob", "cleo"];
    let mut client = server.client().await;
    for user in users {
        client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    let redis = server.address();
    let url = format!("redis://{redis}");
    let mut ear = redis::Client::open(url).unwrap().get_async_pubsub().await.unwrap();
    ear.psubscribe("*").await.unwrap();
    let gateways = join_all((0..PODS).map(|_| Gateway::start(&redis))).await;
    let pods = gateways.iter().zip(users).zip(1..);
    let mut editors: Vec<Editor> =
        pods.map(|((gateway, user), seed)| Editor::new(user, "d", &[gateway.address], seed)).collect();
    let each = EDITS / PODS;
    let typing = join_all(editors.iter_mut().map(|editor| {
        let user = editor.user.clone();
        editor.type_all((0..each).map(|n| format!("{user}{n:0>EDIT_BYTES$}")).collect::<Vec<_>>())
    }));
    // The last one is due before two thirds of what is due are left.
    let last = (EDITS - DUE_BYTES * 5 / 3 / EDIT_BYTES) as u64;
    let messages = ear.into_on_message();
    let (_, saves) = tokio::join!(typing, tokio::time::timeout(PATIENCE, saves(messages, last)));
    let saves = saves.expect("snapshots are stored");
    let due = EDITS * EDIT_BYTES / DUE_BYTES + 1;
    let told: usize = saves.values().sum();
    // One that two pods begin at the same moment is no harm.
    assert!(told <= due + 1, "{told} saves where {due} are due: {saves:?}");
}
