//! The memory that open documents share: who opens, grows and closes when it is used up.
//!
//! In: documents of a small budget, in use and not. Out: `OVERLOADED` where there is no room, and everything again when
//! there is.

use collab_gateway::{directory::Trust, metrics::Overloaded};
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, until};

const LARGE: usize = 300_000;

async fn gateway(budget: &str) -> Gateway {
    let gateway = Gateway::start(Trust::Everything, &["--max-documents-bytes", budget, "--join-rate", "100000"]).await;
    for name in ["one", "two", "three"] {
        gateway.store.set(&format!("doc:{name}:content"), Some(&"x".repeat(LARGE)));
    }
    gateway
}

fn is_overloaded(answer: &Value) -> bool {
    answer["error"]["code"] == "OVERLOADED"
}

fn overloads(gateway: &Gateway, what: &'static str) -> u64 {
    gateway.server.pod().metrics.overloaded.get_or_create(&Overloaded { what }).get()
}

#[tokio::test]
async fn a_document_that_does_not_fit_beside_those_in_use_is_opened_when_one_is_left() {
    // One of them while it is read, but not beside another.
    let gateway = gateway("1650000").await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "one").await;
    let mut bob = Client::connected(&gateway, "bob", "b1").await;
    assert!(is_overloaded(&bob.ask("join-document", json!("two")).await));
    // What is open takes anybody.
    bob.join(json!("one")).await;
    // Nobody waits for what was refused, and nothing of it stays.
    until("only one is open", || gateway.server.pod().documents.count() == 1).await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.ask("leave-document", json!("one")).await, json!({}));
    }
    // It rests, and gives way: at once or before the next attempt.
    while is_overloaded(&bob.ask("join-document", json!("two")).await) {}
    assert_eq!(bob.event("document-joined").await["content"].as_str().map(str::len), Some(LARGE));
    until("the first gave way", || gateway.server.pod().documents.count() == 1).await;
    assert_eq!(overloads(&gateway, "unused"), 1);
    assert!(overloads(&gateway, "join") >= 1);
}

#[tokio::test]
async fn a_large_document_does_not_grow_while_memory_is_used_up_and_a_small_one_does() {
    let gateway = gateway("2000000").await;
    let (mut ann, large) = Client::joined(&gateway, "ann", "a1", "one").await;
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "small").await;
    gateway.live.send_modify(|live| live.max_documents_bytes = 100_000);
    let session = large["session"].clone();
    let edit =
        |seq: u64, ops: Value| json!({"documentId": "one", "version": 0, "seq": seq, "session": session, "ops": ops});
    // The new limit is followed when a document that is not open is refused.
    let mut eve = Client::connected(&gateway, "eve", "e1").await;
    while !is_overloaded(&eve.ask("join-document", json!("three")).await) {
        assert_eq!(eve.ask("leave-document", json!("three")).await, json!({}));
    }
    // What does not grow is taken.
    assert_eq!(ann.ask("edit", edit(1, json!([{"delete": 1}]))).await, json!({"version": 1}));
    let refused = ann.ask("edit", edit(2, json!([{"insert": "more"}]))).await;
    assert!(is_overloaded(&refused) && refused["error"]["seq"] == 2, "{refused}");
    let small = json!({"documentId": "small", "version": 0, "ops": [{"insert": "more"}]});
    assert_eq!(bob.ask("edit", small).await, json!({"version": 1}));
    // Its client keeps the edit, joins again, and is in.
    gateway.live.send_modify(|live| live.max_documents_bytes = 2_000_000);
    loop {
        let again = ann.join(json!({"documentId": "one", "version": 1, "seq": 2, "session": session})).await;
        let edit = json!({"documentId": "one", "version": 1, "seq": 2, "session": again["session"],
            "ops": [{"insert": "more"}]});
        let answer = ann.ask("edit", edit).await;
        if !is_overloaded(&answer) {
            assert_eq!(answer, json!({"version": 2}));
            break;
        }
    }
    assert!(overloads(&gateway, "growth") >= 1);
}
