//! What is stored and cannot be read: the document is closed rather than guessed at, nobody hangs, and
//! nobody is left in it.

use collab_gateway::{
    bus::{Heard, Subscription},
    store::{NewEntry, Notice, Store},
};
use document::{Identity, Member, Peer};
use serde_json::json;

use crate::harness::{Client, Gateway, PATIENCE};

/// Appends bytes to the log of document d, as another pod does.
async fn append(gateway: &Gateway, bytes: &'static str) {
    let store = Store::Memory(gateway.store.clone());
    let head = store.open("d").await.unwrap().unwrap().head;
    let identity = Identity { id: "newer".into(), seq: 1, by_gateway: false };
    let entry = NewEntry { identity, owner: "eve".into(), base: head.version, bytes: bytes.into() };
    store.commit("d", &head, 0, &[entry]).await.unwrap();
}

/// Waits until so many are stored as present in document d.
async fn has_rows(gateway: &Gateway, count: usize) {
    let store = Store::Memory(gateway.store.clone());
    let settled = async {
        while store.presence("d").await.unwrap().len() != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.unwrap_or_else(|_| panic!("there are never {count} rows"));
}

/// As the other pods hear it.
async fn hears_that_ann_is_gone(heard: &mut Subscription) {
    let is_gone = |member: &Member| *member.user.id == *"ann" && member.connections == 0;
    let hearing = async {
        loop {
            let Some(Heard::Message(message)) = heard.next().await else { panic!("the bus has ended") };
            let Some(Notice::Peer { message, .. }) = Notice::decode(&message) else { continue };
            let peer = protocol::decode_peer(std::str::from_utf8(&message).unwrap());
            if matches!(peer, Ok(Peer::Members(members)) if members.iter().any(is_gone)) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, hearing).await.expect("nobody is told");
}

#[tokio::test]
async fn an_entry_of_a_newer_version_closes_the_document_and_no_other() {
    for bytes in [r#"[2,1,{"newer":true}]"#, r#"[1,2,["c",1,0],"c","u","s",0,[]]"#, "rubbish"] {
        let gateway = Gateway::alone().await;
        let (mut ann, joined) = Client::joined(&gateway, "ann", "a1", "d").await;
        ann.join(json!("other")).await;
        let mut heard = gateway.bus.subscribe("{doc:d}");
        has_rows(&gateway, 1).await;
        append(&gateway, bytes).await;
        assert_eq!(ann.event("rejoin").await, json!({"documentId": "d"}));
        // Of the session that is over: left without an answer, for its client sends it again after a join.
        let edit = json!({"documentId": "d", "version": 0, "seq": 1, "session": joined["session"], "ops": []});
        ann.send(&format!("4277{}", json!(["edit", edit]))).await;
        ann.send(r#"4278["join-document","d"]"#).await;
        let answer = ann.text().await;
        assert!(answer.starts_with("4378[") && answer.contains("JOIN_FAILED"), "{bytes}: {answer}");
        // The gateway lives, and would keep its people there.
        has_rows(&gateway, 0).await;
        hears_that_ann_is_gone(&mut heard).await;
        let edit = json!({"documentId": "other", "version": 0, "ops": [{"insert": "x"}]});
        assert_eq!(ann.ask("edit", edit).await, json!({"version": 1}), "{bytes}");
    }
}

#[tokio::test]
async fn the_text_of_the_application_seeds_a_document_once() {
    let gateway = Gateway::alone().await;
    gateway.store.set("doc:d:content", Some("A text\nof two lines 😀"));
    let (_, joined) = Client::joined(&gateway, "ann", "a1", "d").await;
    assert_eq!((&joined["content"], &joined["version"]), (&json!("A text\nof two lines 😀"), &json!(0)));
    // Read once: what the application writes later is not this document any more.
    gateway.store.set("doc:d:content", Some("another"));
    let (_, joined) = Client::joined(&gateway, "ann", "a2", "d").await;
    assert_eq!(joined["content"], "A text\nof two lines 😀");
    // One that is longer than what is read on the way, which ends inside a character.
    let long = format!("x{}", "😀".repeat(2_000));
    gateway.store.set("doc:long:content", Some(&long));
    let (_, joined) = Client::joined(&gateway, "ann", "a3", "long").await;
    assert_eq!(joined["content"], long);
}
