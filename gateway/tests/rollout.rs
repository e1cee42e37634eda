//! Two versions of the program at once, on real servers: what a newer one writes, what an older one left, and scripts of
//! two texts.
//!
//! In: bytes as other versions write them. Out: documents that are closed where this version would have to guess, and
//! read where it need not.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
#[macro_use]
mod servers;

use std::sync::Arc;

use collab_gateway::store::{Creation, Link, NewEntry, RedisStore, Script, Servers, Store};
use document::{Identity, Point, Verdict};
use editor::{Editor, Gateway};
use redis::AsyncCommands;
use servers::{Engine, Server, eventually, run};

/// What the first version wrote; these bytes may never change.
const OLD_SNAPSHOT: &str = concat!(
    r#"[1,1,2,"00000000002",[{"insert":"héllo"}],[["00000000001",["c1",1,0],"c1","u1","s-1",[{"insert":"hé"}]],"#,
    r#"["00000000002",["c1",2,0],"c1","u1","s-1",[{"retain":2},{"insert":"llo"}]]]]"#
);
const OLD_ENTRIES: [&str; 2] = [
    r#"[1,1,["c2",1,0],"c2","u2","s-2",0,[{"retain":1},{"insert":"x"}]]"#,
    r#"[1,1,["s-3",1,1],"c3","u3","s-3",1,[{"retain":2},{"insert":"😀"},{"delete":1}]]"#,
];

/// What a later version may write: another format, other semantics, an operation that this one does not know.
const NEWER_ENTRIES: [&str; 3] = [
    r#"[2,1,{"anything":"else"}]"#,
    r#"[1,2,["new",1,0],"new","u9","s-9",0,[{"insert":"x"}]]"#,
    r#"[1,1,["new",1,0],"new","u9","s-9",0,[{"move":3}]]"#,
];

on_both! {
    an_old_pod_closes_what_a_newer_one_wrote_to_and_changes_nothing
    a_new_pod_goes_on_where_an_older_one_stopped
    two_versions_of_the_script_work_on_one_log
}

/// Case 16: it does not guess, it does not write, and its other documents go on.
async fn an_old_pod_closes_what_a_newer_one_wrote_to_and_changes_nothing(engine: Engine) -> Option<()> {
    let server = Server::start(engine, &[]).await?;
    let gateway = Gateway::start(&server.address()).await;
    let store = Store::Redis(RedisStore::new(server.settings()));
    let mut client = server.client().await;
    for (number, bytes) in NEWER_ENTRIES.into_iter().enumerate() {
        let (document, other) = (format!("d{number}"), format!("other{number}"));
        for name in [&document, &other] {
            client.set::<_, _, ()>(format!("doc:{name}:access:ann"), "write").await.unwrap();
        }
        let mut ann = Editor::new("ann", &document, &[gateway.address], 1);
        ann.type_all(tokens("ann", 3)).await;
        let hash: String = client.hget(format!("{{doc:{document}}}:meta"), "hash").await.unwrap();
        let head = Point { version: 3, hash: hash.into() };
        let committed = store.commit(&document, &head, 0, &[entry("new", 1, "u9", 3, bytes)]).await.unwrap();
        assert_eq!(committed.verdicts, [Verdict::Ok(4)]);
        ann.until("the document is closed", |ann| ann.heard.iter().any(|(_, e)| e["code"] == "JOIN_FAILED")).await;
        // Whoever comes now is told the same, and nothing was appended by this pod.
        let mut bob = Editor::new("ann", &document, &[gateway.address], 2);
        bob.client_id = "another".to_owned();
        bob.until("nobody gets in", |bob| bob.heard.iter().any(|(_, e)| e["code"] == "JOIN_FAILED")).await;
        let log: usize = client.xlen(format!("{{doc:{document}}}:log")).await.unwrap();
        assert_eq!(log, 4, "{bytes}");
        let mut elsewhere = Editor::new("ann", &other, &[gateway.address], 3);
        elsewhere.client_id = "elsewhere".to_owned();
        elsewhere.type_all(tokens("ann", 3)).await;
    }
    Some(())
}

/// Case 16, the other way: snapshot, window and log of the first version.
async fn a_new_pod_goes_on_where_an_older_one_stopped(engine: Engine) -> Option<()> {
    let server = Server::start(engine, &[]).await?;
    let store = Store::Redis(RedisStore::new(server.settings()));
    let mut client = server.client().await;
    client.set::<_, _, ()>("doc:d:access:ann", "write").await.unwrap();
    // The snapshot of a document that began elsewhere stands at version 0 here, as after a restore.
    let snapshot = OLD_SNAPSHOT.replace(r#"[1,1,2,"00000000002""#, r#"[1,1,0,"00000000002""#);
    let (whole, _) = snapshot.split_once(r#",[["00000000001""#).unwrap();
    let creation = Creation { root: "00000000002".into(), snapshot: Some(format!("{whole},[]]").into()) };
    let mut head = store.create("d", creation).await.unwrap().head;
    for (bytes, (client, numbered)) in OLD_ENTRIES.into_iter().zip([("c2", false), ("s-3", true)]) {
        let mut new = entry(client, 1, "u", head.version, bytes);
        new.identity.by_gateway = numbered;
        let committed = store.commit("d", &head, 0, &[new]).await.unwrap();
        head = committed.tail.entries.last().unwrap().at.clone();
    }
    let gateway = Gateway::start(&server.address()).await;
    let mut ann = Editor::new("ann", "d", &[gateway.address], 1);
    ann.until("it opens", Editor::is_joined).await;
    assert_eq!(ann.text(), "hx😀llo");
    ann.send_edit(1, &ot::Delta::new().insert("and on ", None)).await;
    eventually("it goes on", async || client.hget::<_, _, u64>("{doc:d}:meta", "v").await.unwrap() == 3).await;
    Some(())
}

/// Case 13: during a rollout pods of two versions call scripts of two texts, and the server forgets both now and then.
async fn two_versions_of_the_script_work_on_one_log(engine: Engine) -> Option<()> {
    let server = Server::start(engine, &[]).await?;
    let store = Store::Redis(RedisStore::new(server.settings()));
    let other = Script::new(&[
        include_str!("../src/store/common.lua"),
        include_str!("../src/store/commit.lua"),
        "-- the same rules in another text\n",
    ]);
    let link = Link::new(Servers::new(server.settings()));
    let keys = ["meta", "log", "clients"].map(|part| format!("{{doc:d}}:{part}"));
    let mut client = server.client().await;
    let mut head = store.create("d", Creation { root: "0123456789a".into(), snapshot: None }).await.unwrap().head;
    for seq in 1..=60_u64 {
        if seq % 7 == 0 {
            run(&mut client, &["SCRIPT", "FLUSH"]).await;
        }
        let bytes = format!("entry {seq}");
        if seq % 2 == 0 {
            let committed = store.commit("d", &head, 0, &[entry("c", seq, "u", head.version, &bytes)]).await.unwrap();
            assert_eq!(committed.verdicts, [Verdict::Ok(seq)]);
        } else {
            let (version, number) = (head.version.to_string(), seq.to_string());
            let arguments = ["{doc:d}", &version, &head.hash, "0", "1", "c", &number, "0", "u", &version, &bytes];
            let arguments: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
            link.script(&other, &keys, true, &arguments).await.unwrap();
            // The same call again, with the text of the other version: a repeat.
            let again = store.commit("d", &head, 0, &[entry("c", seq, "u", head.version, &bytes)]).await.unwrap();
            assert_eq!(again.verdicts, [Verdict::Dup(seq)]);
        }
        head = store.tail("d", &head).await.unwrap().entries.last().unwrap().at.clone();
        assert_eq!(head.version, seq);
    }
    Some(())
}

fn entry(client: &str, seq: u64, owner: &str, base: u64, bytes: &str) -> NewEntry {
    let identity = Identity { id: client.into(), seq, by_gateway: false };
    NewEntry { identity, owner: Arc::from(owner), base, bytes: bytes.to_owned().into() }
}

fn tokens(user: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{user}{n:04}")).collect()
}
