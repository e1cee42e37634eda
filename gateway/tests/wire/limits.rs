//! Limits and rates of one connection and of one user, as clients see them.

use std::time::{Duration, Instant};

use collab_gateway::{
    bus::{Bus, CHANGED_CHANNEL},
    directory::Trust,
};
use serde_json::{Value, json};

use crate::harness::{Client, Gateway};

#[tokio::test]
async fn cursors_typing_and_joins_that_come_too_fast_are_told_when_to_come_again() {
    let flags = ["--cursor-rate", "2", "--join-rate", "1"];
    let gateway = Gateway::start(Trust::Everything, &flags).await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    for (event, payload) in [
        ("cursor-position", json!({"documentId": "d", "position": null})),
        ("typing", json!({"documentId": "d", "isTyping": true})),
        ("join-document", json!("d")),
    ] {
        let error = loop {
            let answer = ann.ask(event, payload.clone()).await;
            if !answer["error"].is_null() {
                break answer["error"].clone();
            }
        };
        assert_eq!((&error["code"], &error["documentId"]), (&json!("RATE_LIMITED"), &json!("d")), "{event}");
        assert!((1..=2000).contains(&error["retryAfterMs"].as_u64().unwrap()), "{error}");
        assert_eq!(bob.ask(event, payload).await["error"], Value::Null, "another connection's rate is its own");
    }
    // Nothing of this is about edits, and nobody was closed.
    let joined = bob.ask("edit", json!({"documentId": "d", "version": 0, "ops": [{"insert": "x"}]})).await;
    assert_eq!(joined, json!({"version": 1}));
    assert_eq!(ann.ask("leave-document", json!("d")).await, json!({}));
}

#[tokio::test]
async fn many_connections_of_one_user_share_what_joins_a_user_has() {
    // Of each connection 8 at once, of a user 32.
    let gateway = Gateway::start(Trust::Everything, &["--join-rate", "1"]).await;
    let (mut joined, mut refused) = (0, 0);
    let mut clients = Vec::new();
    for number in 0..8 {
        let mut ann = Client::connected(&gateway, "ann", &format!("a{number}")).await;
        for _ in 0..7 {
            match ann.ask("join-document", json!("d")).await["error"]["code"].as_str() {
                None => joined += 1,
                code => {
                    assert_eq!(code, Some("RATE_LIMITED"));
                    refused += 1;
                }
            }
        }
        clients.push(ann);
    }
    // And four more with each second that this took.
    assert!(joined >= 32 && refused > 0, "{joined} joins, {refused} were refused");
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    assert_eq!(bob.ask("leave-document", json!("d")).await, json!({}), "another user's are his own");
    assert!(gateway.server.pod().metrics.text().contains("rate_limited_total{event=\"user_join\"}"));
}

#[tokio::test]
async fn rates_change_while_connections_live() {
    let gateway = Gateway::start(Trust::Everything, &["--cursor-rate", "1"]).await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let cursor = json!({"documentId": "d", "position": null});
    while ann.ask("cursor-position", cursor.clone()).await["error"].is_null() {}
    gateway.live.send_modify(|live| live.cursor_rate = 100_000);
    assert_eq!(ann.ask("cursor-position", cursor).await, json!({}));
}

#[tokio::test]
async fn edits_are_never_refused_for_their_rate_only_read_more_slowly() {
    // So slow that the time of reading is longer than the heartbeat's patience: being slowed is not being dead.
    let flags = ["--message-rate", "25", "--ping-interval", "1s", "--ping-timeout", "1s"];
    let gateway = Gateway::start(Trust::Everything, &flags).await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let start = Instant::now();
    for seq in 1..=250 {
        let edit = json!({"documentId": "d", "version": 0, "seq": seq, "ops": [{"insert": "x"}]});
        ann.send(&format!("42{}{}", 1000 + seq, json!(["edit", edit]))).await;
    }
    for seq in 1..=250 {
        assert_eq!(ann.answer(1000 + seq).await, json!({"version": seq}));
    }
    // The next message is read when its turn comes.
    assert_eq!(ann.ask("leave-document", json!("d")).await, json!({}));
    assert!(start.elapsed() >= Duration::from_secs(1), "five seconds' worth at once, the rest later");
    assert!(gateway.server.pod().metrics.reads_slowed.get() > 0);
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_documents() {
    let gateway = Gateway::start(Trust::Everything, &["--max-documents-per-connection", "2"]).await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "one").await;
    ann.join(json!("two")).await;
    let error = ann.ask("join-document", json!("three")).await["error"].clone();
    assert_eq!(error["code"], "OVERLOADED");
    assert!(error["message"].as_str().unwrap().contains("leave one"), "{error}");
    ann.join(json!("two")).await;
    assert_eq!(ann.ask("leave-document", json!("one")).await, json!({}));
    ann.join(json!("three")).await;
}

#[tokio::test]
async fn documents_that_were_refused_or_taken_away_do_not_count() {
    let gateway = Gateway::start(Trust::Keys, &["--max-documents-per-connection", "2"]).await;
    gateway.store.set("user:ann", Some(r#"{"id": "ann", "name": "Ann"}"#));
    for document in ["a", "b", "c"] {
        gateway.store.set(&format!("doc:{document}:access:ann"), Some("write"));
    }
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    for document in ["x", "y", "z"] {
        assert_eq!(ann.ask("join-document", json!(document)).await["error"]["code"], "ACCESS_DENIED");
    }
    ann.join(json!("a")).await;
    ann.join(json!("b")).await;
    assert_eq!(ann.ask("join-document", json!("c")).await["error"]["code"], "OVERLOADED");
    // What it has stays what it has.
    let edit = json!({"documentId": "a", "version": 0, "ops": [{"insert": "x"}]});
    assert_eq!(ann.ask("edit", edit).await, json!({"version": 1}));
    gateway.store.set("doc:b:access:ann", None);
    Bus::Memory(gateway.bus.clone()).publish(CHANGED_CHANNEL, r#"{"documentId":"b"}"#.into());
    assert_eq!(ann.event("access-changed").await, json!({"documentId": "b", "role": null}));
    ann.join(json!("c")).await;
}

#[tokio::test]
async fn one_connection_too_many_ends_the_oldest_of_its_user_for_good() {
    let gateway = Gateway::start(Trust::Everything, &["--max-connections-per-user", "2"]).await;
    let mut oldest = Client::connected(&gateway, "ann", "a1").await;
    let mut second = Client::connected(&gateway, "ann", "a2").await;
    let _other = Client::connected(&gateway, "bob", "a1").await;
    let mut third = Client::connected(&gateway, "ann", "a3").await;
    let error = oldest.event("error").await;
    assert_eq!(error["code"], "CLIENT_REPLACED");
    assert!(error["message"].as_str().unwrap().contains("too many connections"), "{error}");
    assert_eq!(oldest.text().await, "41", "stock clients must not come back by themselves");
    second.join(json!("d")).await;
    third.join(json!("d")).await;
    let metrics = gateway.server.pod().metrics.text();
    assert!(metrics.contains("refused_total{reason=\"max_connections_per_user\"} 1"), "{metrics}");
}
