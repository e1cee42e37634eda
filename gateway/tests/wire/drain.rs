//! Going away: hints first, then paced closes, and nothing that was acknowledged is lost.

use std::time::Duration;

use collab_gateway::drain::{self, Pace};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{Client, Gateway, PATIENCE};

#[tokio::test]
async fn a_drain_hints_refuses_newcomers_answers_edits_and_closes_transports() {
    let gateway = Gateway::alone().await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let mut bob = Client::connected(&gateway, "bob", "b1").await;
    ann.send(r#"429["edit",{"documentId":"d","version":0,"seq":1,"ops":[{"insert":"last words"}]}]"#).await;
    let pace = Pace { per_second: 1000, deadline: Duration::from_secs(10), closing: Duration::from_secs(1) };
    let draining = tokio::spawn({
        let (server, admin) = (gateway.server.clone(), gateway.admin.clone());
        async move {
            admin.drain();
            drain::drain(&server, pace, &CancellationToken::new()).await;
        }
    });
    assert!(bob.event("draining").await["reconnectAfterMs"].is_u64());
    let request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = gateway.http(request).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");
    assert_eq!(ann.answer(9).await, json!({"version": 1}));
    assert_eq!(ann.close_code().await, Some(1012));
    assert_eq!(bob.close_code().await, Some(1012));
    tokio::time::timeout(PATIENCE, draining).await.expect("the drain ends").unwrap();
    assert_eq!(gateway.server.pod().registry.count(), 0);
    assert!(gateway.server.pod().metrics.text().contains("collab_gateway_draining 1"));
}

#[tokio::test]
async fn whoever_is_in_a_hurry_gets_everything_closed_at_once() {
    let gateway = Gateway::alone().await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(Client::connected(&gateway, "ann", &format!("c{number}")).await);
    }
    let pace = Pace { per_second: 1, deadline: Duration::from_secs(3600), closing: Duration::ZERO };
    let hurry = CancellationToken::new();
    let draining = tokio::spawn({
        let (server, hurry) = (gateway.server.clone(), hurry.clone());
        async move { drain::drain(&server, pace, &hurry).await }
    });
    let mut waits = Vec::new();
    for client in &mut clients {
        waits.push(client.event("draining").await["reconnectAfterMs"].as_u64().unwrap());
    }
    assert!(waits.iter().max() >= Some(&15_000), "one a second: {waits:?}");
    hurry.cancel();
    for client in &mut clients {
        assert_eq!(client.close_code().await, Some(1012));
    }
    tokio::time::timeout(PATIENCE, draining).await.expect("the drain ends").unwrap();
}
