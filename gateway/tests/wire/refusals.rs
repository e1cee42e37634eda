//! What clients do wrong: each gets the error of the contract, and nobody else notices.

use collab_gateway::directory::Trust;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, token};

#[tokio::test]
async fn malformed_packets_close_their_own_connection_and_no_other() {
    let gateway = Gateway::alone().await;
    let (mut bystander, _) = Client::joined(&gateway, "u1", "c1", "d").await;
    for text in [
        "",
        "7",
        "9",
        "2",
        "0{}",
        "4",
        "49",
        "42",
        "42{}",
        "42[]",
        "42abc[\"x\"]",
        "42[\"connect\"]",
        "42[1,",
        "42[null]",
        "43[]",
        "45-[\"x\"]",
        "44{}",
        "40{}",
        "42/other,[\"x\"]",
        "4é",
    ] {
        let mut client = Client::connected(&gateway, "u2", "c2").await;
        client.send(text).await;
        assert_eq!(client.close_code().await, Some(1002), "{text:?}");
    }
    let mut client = Client::connected(&gateway, "u2", "c2").await;
    client.send_binary(b"unannounced").await;
    assert_eq!(client.close_code().await, Some(1002));
    let mut early = Client::upgraded(&gateway).await;
    early.send("42[\"join-document\",\"d\"]").await;
    assert_eq!(early.close_code().await, Some(1002), "an event before CONNECT");
    let answer =
        bystander.ask("edit", json!({"documentId": "d", "version": 0, "ops": [{"insert": "still here"}]})).await;
    assert_eq!(answer, json!({"version": 1}));
}

#[tokio::test]
async fn a_binary_event_is_refused_with_its_acknowledgement() {
    let gateway = Gateway::alone().await;
    let mut client = Client::connected(&gateway, "u1", "c1").await;
    client.send(r#"452-7["edit",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#).await;
    client.send_binary(b"one").await;
    client.send_binary(b"two").await;
    assert_eq!(client.answer(7).await["error"]["code"], "BAD_REQUEST");
    client.join(json!({"documentId": "d"})).await;
    client.send(r#"451-["x",{"_placeholder":true,"num":0}]"#).await;
    client.send("42[\"y\"]").await;
    assert_eq!(client.close_code().await, Some(1002), "text where an attachment was due");
}

#[tokio::test]
async fn an_oversize_edit_is_refused_up_to_four_times_the_limit_and_closes_beyond() {
    let gateway = Gateway::start(Trust::Everything, &["--max-edit-bytes", "20000"]).await;
    let (mut client, _) = Client::joined(&gateway, "u1", "c1", "d").await;
    let edit = |length, seq: u64| json!({"documentId": "d", "version": 0, "seq": seq, "ops": [{"insert": "x".repeat(length)}]});
    let error = client.ask("edit", edit(70_000, 1)).await["error"].clone();
    assert_eq!((&error["code"], &error["seq"]), (&json!("OP_INVALID"), &json!(1)));
    assert!(error["message"].as_str().unwrap().contains("20000"), "{error}");
    // The contract's way on: the empty edit under the same number, in a new session.
    let joined = client.join(json!({"documentId": "d", "version": 0, "seq": 1})).await;
    let empty = json!({"documentId": "d", "version": 0, "seq": 1, "session": joined["session"], "ops": []});
    assert_eq!(client.ask("edit", empty).await, json!({"version": 1}));
    client.emit("edit", edit(90_000, 2)).await;
    assert_eq!(client.close_code().await, Some(1009));
}

#[tokio::test]
async fn a_document_grows_to_its_limit_and_no_further() {
    let gateway = Gateway::start(Trust::Everything, &["--max-document-bytes", "2000"]).await;
    let (mut client, _) = Client::joined(&gateway, "u1", "c1", "d").await;
    let edit = |version: u64, seq: u64| json!({"documentId": "d", "version": version, "seq": seq, "ops": [{"insert": "x".repeat(1500)}]});
    assert_eq!(client.ask("edit", edit(0, 1)).await, json!({"version": 1}));
    let error = client.ask("edit", edit(1, 2)).await["error"].clone();
    let told = [&error["code"], &error["documentId"], &error["seq"]];
    assert_eq!(told, [&json!("DOCUMENT_TOO_LARGE"), &json!("d"), &json!(2)]);
    assert!(error["message"].as_str().unwrap().contains("2000"), "{error}");
    let (_, joined) = Client::joined(&gateway, "u2", "c2", "d").await;
    assert_eq!(joined["content"].as_str().unwrap().len(), 1500);
}

#[tokio::test]
async fn before_connect_nobody_may_send_much() {
    let gateway = Gateway::alone().await;
    let mut client = Client::upgraded(&gateway).await;
    client.send(&format!("40{}", json!({"token": "x".repeat(70_000)}))).await;
    assert_eq!(client.close_code().await, Some(1009));
}

#[tokio::test]
async fn bad_ids_and_fields_are_bad_requests_that_say_what_to_write() {
    let gateway = Gateway::alone().await;
    let mut client = Client::connected(&gateway, "u1", "c1").await;
    for (name, payload, part) in [
        ("join-document", json!("a b"), "documentId must be"),
        ("join-document", json!("a/b"), "documentId must be"),
        ("join-document", json!("{tag}"), "documentId must be"),
        ("join-document", json!("ü"), "documentId must be"),
        ("join-document", json!(""), "documentId must be"),
        ("join-document", json!("x".repeat(129)), "documentId must be"),
        ("join-document", json!(7), "must be an object"),
        ("join-document", json!({"documentId": "d", "as": "html"}), "as must be"),
        ("join-document", json!({"documentId": "d"}), ""),
        ("edit", json!({"documentId": "d", "ops": []}), "version is missing"),
        ("no-such-event", json!({}), "unknown event"),
    ] {
        let error = client.ask(name, payload.clone()).await["error"].clone();
        if part.is_empty() {
            assert!(error.is_null(), "{error}");
            continue;
        }
        assert_eq!(error["code"], "BAD_REQUEST", "{name} {payload}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    }
    client.emit("join-document", json!("a b")).await;
    assert_eq!(client.event("error").await["code"], "BAD_REQUEST");
}

#[tokio::test]
async fn an_edit_that_cannot_be_read_ends_the_session_at_its_place_before_the_join_too() {
    let gateway = Gateway::alone().await;
    let mut client = Client::connected(&gateway, "u1", "c1").await;
    for ops in [json!([{"insert": "a"}]), json!([{"insert": 1}]), json!([{"retain": 1}, {"insert": "b"}])] {
        client.emit("edit", json!({"documentId": "d", "version": 0, "ops": ops})).await;
    }
    client.emit("join-document", json!("d")).await;
    assert_eq!(client.event("error").await["code"], "OP_INVALID");
    assert_eq!(client.event("error").await["code"], "SEQ_GAP");
    assert_eq!(client.event("document-joined").await["content"], "a");
}

#[tokio::test]
async fn a_malformed_client_id_is_replaced_by_a_new_one() {
    let gateway = Gateway::alone().await;
    for auth in [json!({"token": token("u1"), "clientId": "a b"}), json!({"token": token("u1")})] {
        let mut client = Client::upgraded(&gateway).await;
        client.send(&format!("40{auth}")).await;
        assert!(client.text().await.starts_with("40{"));
        let joined = client.join(json!("d")).await;
        let client_id = joined["clientId"].as_str().unwrap();
        assert!(client_id != "a b" && protocol::is_client_id(client_id), "{client_id}");
    }
}

#[tokio::test]
async fn positions_that_the_document_does_not_have_are_invalid() {
    let gateway = Gateway::alone().await;
    for (ops, part) in [
        (json!([{"retain": 5}, {"insert": "x"}]), "past the end"),
        (json!([{"delete": 5}]), "past the end"),
        (json!([{"retain": 2}, {"insert": "x"}]), "surrogate pair"),
        (json!([{"retain": 1}, {"delete": 1}]), "surrogate pair"),
        (json!([{"insert": "a"}, {"insert": "b"}]), "ops[1]"),
        (json!([{"retain": 1.5}]), "ops[0]"),
        (json!([{"insert": ""}]), "ops[0]"),
        (json!("text"), "array"),
    ] {
        let (mut client, joined) = Client::joined(&gateway, "u1", "c1", "pair").await;
        let mut version = joined["version"].as_u64().unwrap();
        if version == 0 {
            let first = json!({"documentId": "pair", "version": 0, "ops": [{"insert": "a😀b"}]});
            assert_eq!(client.ask("edit", first).await, json!({"version": 1}));
            version = 1;
        }
        let edit = json!({"documentId": "pair", "version": version, "seq": 1, "ops": ops});
        let error = client.ask("edit", edit).await["error"].clone();
        assert_eq!(error["code"], "OP_INVALID", "{ops}: {error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{ops}: {error}");
        // An error that answers an edit ends the session for edits.
        let next = json!({"documentId": "pair", "version": version, "ops": [{"insert": "z"}]});
        assert_eq!(client.ask("edit", next).await["error"]["code"], "SEQ_GAP", "{ops}");
    }
    let (_, joined) = Client::joined(&gateway, "u1", "c9", "pair").await;
    assert_eq!(joined["content"], "a😀b");
}

#[tokio::test]
async fn a_lone_surrogate_is_invalid_and_named() {
    let gateway = Gateway::alone().await;
    let (mut client, _) = Client::joined(&gateway, "u1", "c1", "d").await;
    client.send(r#"425["edit",{"documentId":"d","version":0,"ops":[{"insert":"a\ud800"}]}]"#).await;
    let error: Value = client.answer(5).await["error"].clone();
    assert_eq!(error["code"], "OP_INVALID");
    assert!(error["message"].as_str().unwrap().contains("surrogate"), "{error}");
}

#[tokio::test]
async fn what_needs_a_join_says_so() {
    let gateway = Gateway::alone().await;
    let mut client = Client::connected(&gateway, "u1", "c1").await;
    for (name, payload) in [
        ("cursor-position", json!({"documentId": "d", "position": null})),
        ("typing", json!({"documentId": "d", "isTyping": true})),
    ] {
        assert_eq!(client.ask(name, payload).await["error"]["code"], "NOT_JOINED", "{name}");
    }
    assert_eq!(client.ask("leave-document", json!("d")).await, json!({}));
}

#[tokio::test]
async fn names_may_be_the_tokens_while_access_is_what_the_keys_say() {
    let gateway = Gateway::start(Trust::Claims, &[]).await;
    gateway.store.set("user:ann", Some(r#"{"id": "ann", "name": "Name of the key"}"#));
    for user in ["ann", "bob"] {
        gateway.store.set(&format!("doc:d:access:{user}"), Some("write"));
    }
    let (_ann, _) = Client::joined(&gateway, "ann", "a", "d").await;
    let (mut bob, joined) = Client::joined(&gateway, "bob", "b", "d").await;
    assert_eq!(joined["activeUsers"][0]["name"], "Name of ann");
    assert_eq!(bob.ask("join-document", json!("e")).await["error"]["code"], "ACCESS_DENIED");
}

#[tokio::test]
async fn access_is_what_the_keys_say() {
    let gateway = Gateway::with_keys().await;
    for user in ["writer", "reader", "commenter", "nobody"] {
        gateway.store.set(&format!("user:{user}"), Some(&json!({"id": user, "name": user}).to_string()));
    }
    gateway.store.set("doc:d:access:writer", Some("1"));
    gateway.store.set("doc:d:access:commenter", Some("comment"));
    gateway.store.set("doc:d:access:reader", Some("read"));
    gateway.store.set("doc:d:content", Some("seed"));
    let (mut writer, joined) = Client::joined(&gateway, "writer", "w", "d").await;
    assert_eq!((&joined["role"], &joined["content"], &joined["version"]), (&json!("write"), &json!("seed"), &json!(0)));
    let edit = json!({"documentId": "d", "version": 0, "ops": [{"insert": "a"}]});
    assert_eq!(writer.ask("edit", edit.clone()).await, json!({"version": 1}));
    for (user, role) in [("reader", "read"), ("commenter", "comment")] {
        let (mut client, joined) = Client::joined(&gateway, user, user, "d").await;
        assert_eq!(joined["role"], role);
        let version = &joined["version"];
        let edit = json!({"documentId": "d", "version": version, "ops": [{"insert": "a"}]});
        assert_eq!(client.ask("edit", edit).await["error"]["code"], "READ_ONLY", "{role}");
    }
    let mut nobody = Client::connected(&gateway, "nobody", "n").await;
    assert_eq!(nobody.ask("join-document", json!("d")).await["error"]["code"], "ACCESS_DENIED");
}
