//! Going away: hints first, then paced closes, and nothing that was acknowledged is lost.

use std::time::Duration;

use collab_gateway::drain::{Drain, Outcome};
use serde_json::json;

use crate::harness::{Client, Gateway, PATIENCE, token, until};

const CLEAN: Outcome = Outcome { connections_left: 0, documents_unsettled: 0 };

fn drain(gateway: &Gateway) -> Drain {
    let drain = Drain::new(gateway.server.clone(), gateway.admin.clone(), gateway.live.subscribe());
    tokio::spawn(drain.clone().run());
    drain
}

#[tokio::test]
async fn a_drain_hints_refuses_newcomers_answers_edits_and_closes_transports() {
    let gateway = Gateway::start(collab_gateway::directory::Trust::Everything, &["--drain-rate=10"]).await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let mut bob = Client::connected(&gateway, "bob", "b1").await;
    ann.send(r#"429["edit",{"documentId":"d","version":0,"seq":1,"ops":[{"insert":"last words"}]}]"#).await;
    let drain = drain(&gateway);
    let ending = tokio::spawn(async move { drain.end(Duration::from_secs(10), Duration::from_secs(1)).await });
    assert!(bob.event("draining").await["reconnectAfterMs"].is_u64());
    let request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = gateway.http(request).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");
    assert_eq!(ann.answer(9).await, json!({"version": 1}));
    assert_eq!(ann.close_code().await, Some(1012));
    assert_eq!(bob.close_code().await, Some(1012));
    assert_eq!(tokio::time::timeout(PATIENCE, ending).await.expect("the drain ends").unwrap(), CLEAN);
    assert_eq!(gateway.server.pod().registry.count(), 0);
    assert!(gateway.server.pod().metrics.text().contains("collab_gateway_draining 1"));
}

#[tokio::test]
async fn whoever_connects_while_it_drains_hears_of_it_after_the_answer_to_connect() {
    let gateway = Gateway::start(collab_gateway::directory::Trust::Everything, &["--drain-rate=1"]).await;
    // One of them may be the first whose turn it is.
    let mut late = Vec::new();
    for _ in 0..9 {
        late.push(Client::upgraded(&gateway).await);
    }
    let drain = drain(&gateway);
    tokio::spawn(async move { drain.end(Duration::from_secs(3600), Duration::ZERO).await });
    let hinted = &gateway.server.pod().metrics.drain_connections_left;
    until("it drains", || hinted.get() == 9).await;
    let mut told = 0;
    for client in &mut late {
        client.try_send(&format!("40{}", json!({"token": token("ann")}))).await;
        // Whoever is closed already hears nothing.
        let Some(first) = client.said().await else { continue };
        assert!(first.starts_with("40{"), "{first}");
        assert!(client.event("draining").await["reconnectAfterMs"].is_u64());
        told += 1;
    }
    assert!(told > 0);
}

#[tokio::test]
async fn whoever_is_in_a_hurry_gets_everything_closed_at_once() {
    let gateway = Gateway::start(collab_gateway::directory::Trust::Everything, &["--drain-rate=1"]).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(Client::connected(&gateway, "ann", &format!("c{number}")).await);
    }
    let drain = drain(&gateway);
    let ending = tokio::spawn({
        let drain = drain.clone();
        async move { drain.end(Duration::from_secs(3600), Duration::ZERO).await }
    });
    let mut waits = Vec::new();
    for client in &mut clients {
        waits.push(client.event("draining").await["reconnectAfterMs"].as_u64().unwrap());
    }
    assert!(waits.iter().max() >= Some(&15_000), "one a second: {waits:?}");
    drain.hurry();
    for client in &mut clients {
        assert_eq!(client.close_code().await, Some(1012));
    }
    assert_eq!(tokio::time::timeout(PATIENCE, ending).await.expect("the drain ends").unwrap(), CLEAN);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_does_not_hold_up_the_end() {
    let gateway = Gateway::start(collab_gateway::directory::Trust::Everything, &["--drain-rate=100"]).await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let text = "x".repeat(500_000);
    for n in 0..8 {
        ann.ask("edit", json!({"documentId": "d", "version": n, "seq": n + 1, "ops": [{"insert": text}]})).await;
    }
    // Asks for more than the kernel's buffers take, and reads none of it.
    let mut deaf = Client::connected(&gateway, "bob", "b1").await;
    for _ in 0..4 {
        deaf.emit("join-document", json!({"documentId": "d"})).await;
    }
    let drain = drain(&gateway);
    let ending = drain.end(Duration::from_secs(20), Duration::ZERO);
    assert_eq!(tokio::time::timeout(PATIENCE, ending).await.expect("the drain ends"), CLEAN);
    assert_eq!(ann.close_code().await, Some(1012));
}
