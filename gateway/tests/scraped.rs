//! What a scraper reads while people edit: every metric of CONTRACT section 3, with the right meaning.
//!
//! In: two gateways as processes on a real Redis, two editors, somebody without a valid token. Out: the numbers.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod pods;
mod servers;

use std::collections::BTreeSet;

use editor::Editor;
use futures_util::{SinkExt, StreamExt};
use pods::Pod;
use redis::AsyncCommands;
use servers::{Engine, Server, eventually};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_the_contract_says_what_happened() {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    for user in ["ann", "bob"] {
        client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    let (one, two) = (Pod::start(&server.address(), &[]), Pod::start(&server.address(), &[]));
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    bob.until("bob is in", Editor::is_joined).await;
    ann.type_all((0..20).map(|n| format!("ann{n}")).collect()).await;
    bob.until("bob has it all", |bob| bob.version >= 20).await;
    let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", one.address);
    let (mut stranger, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    stranger.send(Message::text(r#"40{"token":"nonsense"}"#)).await.unwrap();
    while let Some(Ok(message)) = stranger.next().await {
        if message.is_close() {
            break;
        }
    }
    drop(stranger);
    eventually("the stranger is gone", async || one.metric("collab_gateway_connections").await == Some(1.0)).await;
    for (pod, name, expected) in [
        (&one, "collab_gateway_connections_accepted_total", 1.0),
        (&one, "collab_gateway_connections_refused_total{reason=\"TOKEN_INVALID\"}", 1.0),
        (&one, "collab_gateway_documents", 1.0),
        (&one, "collab_gateway_edits_committed_total", 20.0),
        (&two, "collab_gateway_edits_committed_total", 0.0),
        (&one, "collab_gateway_deliveries_total", 0.0),
        (&two, "collab_gateway_deliveries_total", 20.0),
        (&one, "collab_gateway_edit_commit_seconds_count", 20.0),
        (&two, "collab_gateway_edit_commit_seconds_count", 0.0),
        (&one, "collab_gateway_slow_consumers_total", 0.0),
        (&one, "collab_gateway_divergence_total", 0.0),
        (&one, "collab_gateway_draining", 0.0),
        (&one, "collab_gateway_drain_connections_left", 0.0),
    ] {
        assert_eq!(pod.metric(name).await, Some(expected), "{name}");
    }
    // Several edits share a publish.
    let publishes = two.metric("collab_gateway_edit_delivery_seconds_count").await.unwrap();
    assert!((1.0..=20.0).contains(&publishes), "{publishes}");
    let sum = two.metric("collab_gateway_edit_delivery_seconds_sum").await.unwrap();
    assert!(sum < 10.0, "{sum} s for {publishes} deliveries");
    let (code, text) = one.get("/metrics").await;
    assert!(code == 200 && text.ends_with("# EOF\n"), "OpenMetrics: {text}");
    // Labels have few values and never name a person or a document.
    let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let labels: BTreeSet<_> =
        series.iter().filter_map(|line| line.split_once('{')?.1.split_once('=')).map(|(label, _)| label).collect();
    let known = BTreeSet::from(["le", "reason", "kind", "what", "outcome", "state", "cause"]);
    assert!(labels.is_subset(&known) && series.len() < 300, "{labels:?}, {} series", series.len());
    assert!(!text.contains("ann") && !text.contains("nonsense"));
    // Everything that counts what is there goes back.
    drop(ann);
    eventually("ann is gone", async || one.metric("collab_gateway_connections").await == Some(0.0)).await;
    eventually("the document is closed", async || one.metric("collab_gateway_documents").await == Some(0.0)).await;
}
