//! Access that changes while documents are open: nobody gets a byte of what they may not read.

use std::time::{Duration, Instant};

use collab_gateway::{
    bus::{Bus, CHANGED_CHANNEL, MemoryBus},
    directory::Trust,
    store::MemoryStore,
};
use serde_json::{Value, json};

use crate::harness::{Client, Gateway};

async fn stage() -> (Gateway, Bus) {
    let bus = MemoryBus::default();
    let store = MemoryStore::new(bus.clone());
    for user in ["ann", "bob"] {
        store.set(&format!("user:{user}"), Some(&json!({"id": user, "name": user}).to_string()));
        store.set(&format!("doc:d:access:{user}"), Some("write"));
    }
    let gateway = Gateway::over(store, bus.clone(), Trust::Keys, &[]).await;
    (gateway, Bus::Memory(bus))
}

fn changed(bus: &Bus, what: &Value) {
    bus.publish(CHANGED_CHANNEL, what.to_string().into());
}

fn insert(version: u64, text: &str) -> Value {
    json!({"documentId": "d", "version": version, "ops": [{"insert": text}]})
}

#[tokio::test]
async fn whoever_lost_access_is_removed_at_once_and_gets_no_more_bytes() {
    let (gateway, bus) = stage().await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    gateway.store.set("doc:d:access:bob", None);
    changed(&bus, &json!({"documentId": "d", "userId": "bob"}));
    assert_eq!(bob.event("access-changed").await, json!({"documentId": "d", "role": null}));
    assert_eq!(ann.event("user-left").await["userId"], "bob");
    for version in 0..20 {
        assert_eq!(ann.ask("edit", insert(version, "secret")).await, json!({"version": version + 1}));
    }
    // Everything that was sent to bob before these answers comes before them.
    for _ in 0..3 {
        bob.send(r#"427["join-document","d"]"#).await;
        let answer = bob.text().await;
        assert!(answer.starts_with("437[") && answer.contains("ACCESS_DENIED"), "{answer}");
    }
    bob.send(&format!("428{}", json!(["edit", insert(20, "mine")]))).await;
    let answer = bob.text().await;
    assert!(answer.contains("NOT_JOINED") || answer.contains("ACCESS_DENIED"), "{answer}");
}

#[tokio::test]
async fn a_downgraded_role_refuses_edits_and_still_reads() {
    let (gateway, bus) = stage().await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    gateway.store.set("doc:d:access:bob", Some("read"));
    changed(&bus, &json!({"documentId": "d"}));
    assert_eq!(bob.event("access-changed").await, json!({"documentId": "d", "role": "read"}));
    assert_eq!(bob.ask("edit", insert(0, "mine")).await["error"]["code"], "READ_ONLY");
    assert_eq!(ann.ask("edit", insert(0, "news")).await, json!({"version": 1}));
    assert_eq!(bob.event("edit").await["ops"], json!([{"insert": "news"}]));
}

#[tokio::test]
async fn an_access_that_nobody_said_changed_is_read_again_within_a_minute() {
    let gateway = Gateway::start(Trust::Keys, &["--ping-interval", "10h"]).await;
    gateway.store.set("user:ann", Some(r#"{"id": "ann", "name": "ann"}"#));
    gateway.store.set("doc:d:access:ann", Some("write"));
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    for (key, role) in [(Some("read"), json!("read")), (None, Value::Null)] {
        gateway.store.set("doc:d:access:ann", key);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(50)).await;
        tokio::time::resume();
        let started = Instant::now();
        assert_eq!(ann.event("access-changed").await, json!({"documentId": "d", "role": role}));
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn whoever_may_only_read_shows_a_cursor_and_no_typing() {
    let (gateway, _) = stage().await;
    gateway.store.set("doc:d:access:bob", Some("read"));
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    let error = bob.ask("typing", json!({"documentId": "d", "isTyping": true})).await["error"].clone();
    assert_eq!((&error["code"], &error["documentId"]), (&json!("READ_ONLY"), &json!("d")));
    let position = json!({"index": 0, "length": 0});
    assert_eq!(bob.ask("cursor-position", json!({"documentId": "d", "position": position})).await, json!({}));
    assert_eq!(ann.event("cursor-update").await["position"], position);
}

#[tokio::test]
async fn a_permission_that_is_revoked_with_edits_in_flight_loses_nothing_that_was_acknowledged() {
    let (gateway, bus) = stage().await;
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    for seq in 1..=50_u64 {
        let text = format!("<{seq}>");
        let edit = json!({"documentId": "d", "version": 0, "seq": seq, "ops": [{"insert": text}]});
        bob.send(&format!("42{}{}", seq + 100, json!(["edit", edit]))).await;
    }
    gateway.store.set("doc:d:access:bob", None);
    changed(&bus, &json!({"userId": "bob", "documentId": "d"}));
    let mut acknowledged = Vec::new();
    loop {
        let text = bob.text().await;
        if text.starts_with("42[\"access-changed\"") {
            break;
        }
        if let Some((reply, _)) = text.strip_prefix("43").and_then(|rest| rest.split_once("[{\"version\"")) {
            acknowledged.push(reply.parse::<u64>().unwrap() - 100);
        }
    }
    let (_, joined) = Client::joined(&gateway, "ann", "a1", "d").await;
    let content = joined["content"].as_str().unwrap();
    for seq in acknowledged {
        assert_eq!(content.matches(&format!("<{seq}>")).count(), 1, "{seq} in {content}");
    }
}

#[tokio::test]
async fn a_user_whom_the_directory_forgot_is_closed_and_refused() {
    let (gateway, bus) = stage().await;
    let mut bob = Client::connected(&gateway, "bob", "b1").await;
    gateway.store.set("user:bob", None);
    changed(&bus, &json!({"userId": "bob"}));
    assert_eq!(bob.close_code().await, Some(1008));
    let mut again = Client::upgraded(&gateway).await;
    again.send(&format!("40{}", json!({"token": crate::harness::token("bob")}))).await;
    assert!(again.text().await.contains("USER_NOT_FOUND"));
}

#[tokio::test]
async fn a_change_of_anything_and_one_that_cannot_be_read_are_about_users_too() {
    let (gateway, bus) = stage().await;
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    for (user, said) in [("bob", "{}"), ("eve", "not JSON")] {
        gateway.store.set(&format!("user:{user}"), Some(r#"{"name": "somebody"}"#));
        let mut client = Client::connected(&gateway, user, user).await;
        gateway.store.set(&format!("user:{user}"), None);
        let started = Instant::now();
        bus.publish(CHANGED_CHANNEL, said.into());
        assert_eq!(client.close_code().await, Some(1008));
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
    ann.join(json!("d")).await;
    // And new names are told.
    gateway.store.set("user:ann", Some(r#"{"name": "Anna"}"#));
    bus.publish(CHANGED_CHANNEL, "{}".into());
    gateway.store.set("doc:d:access:zoe", Some("read"));
    gateway.store.set("user:zoe", Some(r#"{"name": "zoe"}"#));
    let started = Instant::now();
    let (mut zoe, mut joined) = Client::joined(&gateway, "zoe", "z1", "d").await;
    while joined["activeUsers"][0]["name"] != "Anna" {
        assert!(started.elapsed() < Duration::from_secs(20), "{joined}");
        joined = zoe.join(json!("d")).await;
    }
}
