//! Clients that read slowly or not at all, among others who type.
//!
//! In: sockets with small buffers. Out: nobody waits for them, they are not closed as long as they read now and then, and
//! they get every version once.

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::harness::{Client, Gateway, PATIENCE};

const WRITERS: usize = 2;
/// Of one edit: all together are far more than kernel buffers and outbox take.
const EDIT_BYTES: usize = 16 << 10;
const ROUNDS: u64 = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_reading_holds_nobody_up_and_catches_up_with_every_version_once() {
    let gateway = Gateway::alone().await;
    let (mut sleeper, joined) = Client::narrow(&gateway, "sleeper", "d").await;
    let mut version = joined["version"].as_u64().unwrap();
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        let name = format!("w{n}");
        let mut client = Client::connected(&gateway, &name, &name).await;
        let joined = client.join(json!({"documentId": "d"})).await;
        let mut version = joined["version"].as_u64().unwrap();
        writers.push(tokio::spawn(async move {
            for round in 1..=ROUNDS {
                // Each puts a text at the beginning and takes it away again, on a version it knows.
                let text = "x".repeat(EDIT_BYTES);
                let ops = json!([{"insert": text}]);
                let edit = json!({"documentId": "d", "version": version, "seq": 2 * round - 1, "ops": ops});
                version = client.ask("edit", edit).await["version"].as_u64().expect("saved");
                let gone = json!({"documentId": "d", "version": version, "seq": 2 * round,
                    "ops": [{"delete": EDIT_BYTES}]});
                version = client.ask("edit", gone).await["version"].as_u64().expect("saved");
            }
        }));
    }
    let start = Instant::now();
    for writer in writers {
        timeout(PATIENCE * 3, writer).await.expect("nobody waits for the sleeper").unwrap();
    }
    let edits = WRITERS as u64 * ROUNDS * 2;
    eprintln!("{edits} edits of up to {EDIT_BYTES} bytes in {:?} beside a client that does not read", start.elapsed());
    let metrics = gateway.server.pod().metrics.clone();
    assert!(metrics.slow_consumers.get() >= 1, "the sleeper was never slow: make the edits larger");
    // It reads again, and joins again if it is told to.
    let last = edits;
    while version < last {
        let text = sleeper.text().await;
        let Some(event) = text.strip_prefix("42") else { continue };
        let (name, payload): (String, Value) = serde_json::from_str(event).unwrap();
        match name.as_str() {
            "edit" => {
                let next = payload["version"].as_u64().unwrap();
                assert_eq!(next, version + 1, "no gap, nothing twice");
                version = next;
            }
            "rejoin" => sleeper.emit("join-document", json!({"documentId": "d"})).await,
            "document-joined" => version = payload["version"].as_u64().unwrap(),
            _ => {}
        }
    }
    assert_eq!(version, last);
    let answer = sleeper.ask("leave-document", json!("d")).await;
    assert!(answer["error"].is_null(), "its connection lived through it: {answer}");
}

#[tokio::test]
async fn a_peer_that_talks_and_never_reads_is_closed() {
    let flags = ["--ping-interval", "500ms", "--ping-timeout", "500ms"];
    let gateway = Gateway::start(collab_gateway::directory::Trust::Everything, &flags).await;
    let (mut mute, _) = Client::narrow(&gateway, "mute", "d").await;
    let (mut writer, _) = Client::joined(&gateway, "w", "w", "d").await;
    let by = Instant::now() + 3 * PATIENCE;
    let mut seq = 0;
    let mut version = 0;
    while gateway.server.pod().registry.count() > 1 {
        assert!(Instant::now() < by, "it is still there");
        // Proof of life without reading anything.
        mute.try_send("3").await;
        if seq < 400 {
            for ops in [json!([{"insert": "x".repeat(EDIT_BYTES)}]), json!([{"delete": EDIT_BYTES}])] {
                seq += 1;
                let edit = json!({"documentId": "d", "version": version, "seq": seq, "ops": ops});
                version = writer.ask("edit", edit).await["version"].as_u64().expect("saved");
            }
        } else {
            writer.ask("cursor-position", json!({"documentId": "d", "position": null})).await;
        }
    }
    assert!(gateway.server.pod().metrics.slow_consumers.get() >= 1);
}
