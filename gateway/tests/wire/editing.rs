//! Editing as clients see it, over one gateway and over two.

use collab_gateway::{bus::MemoryBus, directory::Trust, store::MemoryStore};
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, sign, token, until};

fn insert(version: u64, seq: u64, at: u64, text: &str) -> Value {
    let ops = if at == 0 { json!([{"insert": text}]) } else { json!([{"retain": at}, {"insert": text}]) };
    json!({"documentId": "d", "version": version, "seq": seq, "ops": ops})
}

#[tokio::test]
async fn an_edit_is_acknowledged_to_its_writer_and_sent_to_the_others() {
    let gateway = Gateway::alone().await;
    let (mut ann, joined) = Client::joined(&gateway, "ann", "a1", "d").await;
    assert_eq!((&joined["version"], &joined["content"], &joined["lastSeq"]), (&json!(0), &json!(""), &json!(0)));
    assert_eq!(
        (&joined["activeUsers"], &joined["activeCount"], &joined["clientId"]),
        (&json!([]), &json!(1), &json!("a1"))
    );
    let (mut bob, joined) = Client::joined(&gateway, "bob", "b1", "d").await;
    assert_eq!(joined["activeUsers"][0]["name"], "Name of ann");
    let user = ann.event("user-joined").await;
    assert_eq!((&user["userId"], &user["name"]), (&json!("bob"), &json!("Name of bob")));

    assert_eq!(ann.ask("edit", insert(0, 1, 0, "hello")).await, json!({"version": 1}));
    let committed = ann.event("edit-committed").await;
    assert_eq!(
        (&committed["version"], &committed["seq"], &committed["clientId"]),
        (&json!(1), &json!(1), &json!("a1"))
    );
    let edit = bob.event("edit").await;
    assert_eq!(
        (&edit["ops"], &edit["userId"], &edit["seq"]),
        (&json!([{"insert": "hello"}]), &json!("ann"), &json!(1))
    );
    assert_eq!(edit["hash"], committed["hash"]);

    bob.emit("cursor-position", json!({"documentId": "d", "version": 1, "position": {"index": 2, "length": 1}})).await;
    bob.emit("typing", json!({"documentId": "d", "isTyping": true})).await;
    let cursor = ann.event("cursor-update").await;
    assert_eq!((&cursor["clientId"], &cursor["position"]), (&json!("b1"), &json!({"index": 2, "length": 1})));
    assert_eq!(ann.event("typing-update").await, json!({"documentId": "d", "userId": "bob", "isTyping": true}));
    bob.send("41").await;
    assert_eq!(ann.event("user-left").await, json!({"documentId": "d", "userId": "bob"}));
}

#[tokio::test]
async fn two_who_type_at_one_place_at_once_end_alike_on_two_gateways() {
    let bus = MemoryBus::default();
    let store = MemoryStore::new(bus.clone());
    let one = Gateway::over(store.clone(), bus.clone(), Trust::Everything, &[]).await;
    let two = Gateway::over(store, bus, Trust::Everything, &[]).await;
    let (mut ann, _) = Client::joined(&one, "ann", "a1", "d").await;
    let (mut bob, _) = Client::joined(&two, "bob", "b1", "d").await;
    for seq in 1..=5 {
        // Neither waits for anything: all but the first are relative to version 0 and their own before.
        ann.emit("edit", insert(0, seq, seq - 1, "a")).await;
        bob.emit("edit", insert(0, seq, seq - 1, "b")).await;
    }
    for client in [&mut ann, &mut bob] {
        for seq in 1..=5 {
            assert_eq!(client.event("edit-committed").await["seq"], seq);
            client.event("edit").await;
        }
    }
    let (_, first) = Client::joined(&one, "eve", "e1", "d").await;
    let (_, second) = Client::joined(&two, "eve", "e2", "d").await;
    assert_eq!(first["version"], 10);
    assert_eq!((&first["content"], &first["hash"]), (&second["content"], &second["hash"]));
    let content = first["content"].as_str().unwrap();
    assert!(content == "aaaaabbbbb" || content == "bbbbbaaaaa", "words typed at one place stay words: {content}");
}

#[tokio::test]
async fn an_edit_that_is_sent_again_is_applied_once() {
    let gateway = Gateway::alone().await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    assert_eq!(ann.ask("edit", insert(0, 1, 0, "once")).await, json!({"version": 1}));
    drop(ann);
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    let joined = ann.join(json!({"documentId": "d", "version": 0, "seq": 1})).await;
    assert_eq!((&joined["lastSeq"], &joined["content"]), (&json!(1), &json!("once")));
    let mut again = insert(1, 1, 0, "once");
    again["session"] = joined["session"].clone();
    ann.emit("edit", again).await;
    let mut next = insert(1, 2, 4, "!");
    next["session"] = joined["session"].clone();
    assert_eq!(ann.ask("edit", next).await, json!({"version": 2}));
    let (_, joined) = Client::joined(&gateway, "bob", "b1", "d").await;
    assert_eq!(joined["content"], "once!");
}

#[tokio::test]
async fn edits_before_the_join_are_kept_for_it() {
    let gateway = Gateway::alone().await;
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    let mut stale = insert(0, 1, 0, "stale");
    stale["session"] = json!("some-old-session");
    ann.emit("edit", stale).await;
    ann.emit("edit", json!({"documentId": "d", "version": 0, "ops": [{"insert": "early"}]})).await;
    // Committed first: the join's content has them.
    assert_eq!(ann.join(json!("d")).await["content"], "early");
    // A client that names its session sends again by itself what it has not seen confirmed.
    let mut bob = Client::connected(&gateway, "bob", "b1").await;
    bob.emit("edit", json!({"documentId": "d", "version": 1, "ops": [{"insert": "flushed "}]})).await;
    assert_eq!(bob.join(json!({"documentId": "d", "session": "some-old-session", "seq": 1})).await["content"], "early");
}

#[tokio::test]
async fn edits_whose_join_does_not_come_are_refused_after_ten_seconds() {
    let gateway = Gateway::start(Trust::Everything, &["--ping-interval", "10h"]).await;
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    ann.emit("edit", insert(0, 1, 0, "early")).await;
    ann.send(r#"421["leave-document","other"]"#).await;
    assert_eq!(ann.text().await, "431[{}]", "it waits");
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    tokio::time::resume();
    let error = ann.event("error").await;
    assert_eq!((&error["code"], &error["documentId"], &error["seq"]), (&json!("NOT_JOINED"), &json!("d"), &json!(1)));
    // The way on: a join, and the same again.
    let joined = ann.join(json!({"documentId": "d", "seq": 1})).await;
    assert_eq!(joined["content"], "");
    assert_eq!(ann.ask("edit", insert(0, 1, 0, "early")).await, json!({"version": 1}));
}

#[tokio::test]
async fn a_pod_counts_how_long_its_own_edits_take_to_its_own_sockets_too() {
    let gateway = Gateway::alone().await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    assert_eq!(ann.ask("edit", insert(0, 1, 0, "x")).await, json!({"version": 1}));
    let is_counted = || gateway.server.pod().metrics.text().contains("collab_gateway_edit_delivery_seconds_count 1\n");
    until("it is counted", is_counted).await;
}

#[tokio::test]
async fn too_many_edits_before_the_join_are_refused_together() {
    let gateway = Gateway::alone().await;
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    for _ in 0..65 {
        ann.emit("edit", json!({"documentId": "d", "version": 0, "ops": [{"insert": "x"}]})).await;
    }
    for _ in 0..65 {
        assert_eq!(ann.event("error").await["code"], "NOT_JOINED");
    }
    assert_eq!(ann.join(json!("d")).await["content"], "");
}

#[tokio::test]
async fn a_second_tab_with_the_same_client_id_replaces_the_first() {
    let gateway = Gateway::alone().await;
    let (mut first, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let mut other_user = Client::connected(&gateway, "bob", "a1").await;
    let (mut second, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    assert_eq!(first.event("error").await["code"], "CLIENT_REPLACED");
    assert_eq!(first.text().await, "41", "stock clients must not come back by themselves");
    assert_eq!(first.close_code().await, Some(1000));
    assert_eq!(second.ask("edit", insert(0, 1, 0, "mine")).await, json!({"version": 1}));
    let error = other_user.ask("join-document", json!("d")).await["error"].clone();
    assert_eq!(error["code"], "BAD_REQUEST", "a clientId belongs to the user who first used it: {error}");
}

#[tokio::test]
async fn a_second_tab_on_another_gateway_replaces_the_first() {
    let bus = MemoryBus::default();
    let store = MemoryStore::new(bus.clone());
    let one = Gateway::over(store.clone(), bus.clone(), Trust::Everything, &[]).await;
    let two = Gateway::over(store, bus, Trust::Everything, &[]).await;
    let mut first = Client::connected(&one, "ann", "a1").await;
    let _second = Client::connected(&two, "ann", "a1").await;
    assert_eq!(first.event("error").await["code"], "CLIENT_REPLACED");
    assert_eq!(first.text().await, "41");
}

fn unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_token_that_ends_is_announced_and_closes_the_transport() {
    let gateway = Gateway::alone().await;
    let now = unix_s();
    // Within the leeway it is still taken, for a second or two.
    let expires = now - collab_gateway::auth::LEEWAY_SECONDS + 2;
    let mut ann = Client::upgraded(&gateway).await;
    ann.send(&format!("40{}", json!({"token": sign(&json!({"sub": "ann", "exp": expires}))}))).await;
    assert!(ann.text().await.starts_with("40{"));
    assert_eq!(ann.event("token-expiring").await, json!({"expiresAt": expires * 1000}));
    assert_eq!(ann.close_code().await, Some(1008));
}

#[tokio::test]
async fn a_token_that_is_refreshed_has_its_end_put_off_and_one_that_is_not_has_not() {
    let gateway = Gateway::alone().await;
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    let mut bob = Client::connected(&gateway, "bob", "b1").await;
    let ending = |user: &str, at: u64| json!({"token": sign(&json!({"sub": user, "exp": at}))});
    // Time enough for a busy machine to put it off again.
    let soon = unix_s() + 5;
    assert_eq!(ann.ask("token-refresh", ending("ann", soon)).await, json!({"expiresAt": soon * 1000}));
    let far = 4_000_000_000_u64;
    assert_eq!(ann.ask("token-refresh", ending("ann", far)).await, json!({"expiresAt": far * 1000}));
    // Bob's is a little later: when his transport is closed, her old end has passed.
    assert_eq!(bob.ask("token-refresh", ending("bob", soon + 1)).await, json!({"expiresAt": (soon + 1) * 1000}));
    let refused = bob.ask("token-refresh", ending("ann", far)).await;
    assert_eq!(refused["error"]["code"], "TOKEN_INVALID");
    assert_eq!(bob.event("token-expiring").await, json!({"expiresAt": (soon + 1) * 1000}));
    assert_eq!(bob.close_code().await, Some(1008), "the old token stays, and so does its end");
    assert!(unix_s() > soon, "not before");
    ann.join(json!("d")).await;
}

#[tokio::test]
async fn a_token_is_refreshed_in_place() {
    let gateway = Gateway::alone().await;
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    let fresh = sign(&json!({"sub": "ann", "exp": 4_000_000_000_u64}));
    assert_eq!(ann.ask("token-refresh", json!({"token": fresh})).await, json!({"expiresAt": 4_000_000_000_000_u64}));
    for (bad, code) in [
        (token("bob"), "TOKEN_INVALID"),
        ("rubbish".to_owned(), "TOKEN_INVALID"),
        (String::new(), "TOKEN_INVALID"),
        (sign(&json!({"sub": "ann", "exp": 1000})), "TOKEN_EXPIRED"),
    ] {
        assert_eq!(ann.ask("token-refresh", json!({"token": bad})).await["error"]["code"], code);
    }
    ann.join(json!("d")).await;
}
