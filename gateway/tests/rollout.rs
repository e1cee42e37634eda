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
    a_new_pod_hears_what_an_older_one_commits
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

/// A pod of the version before, as far as the store sees it.
struct OlderPod {
    script: Script,
    link: Link,
}

impl OlderPod {
    fn new(server: &Server) -> OlderPod {
        let script = Script::new(&[include_str!("rollout/older_commit.lua")]);
        OlderPod { script, link: Link::new(Servers::new(server.settings())) }
    }

    /// The verdict on one entry.
    async fn commit(&self, document: &str, head: &Point, new: &NewEntry) -> String {
        let keys = ["meta", "log", "clients"].map(|part| format!("{{doc:{document}}}:{part}"));
        let (channel, version) = (format!("{{doc:{document}}}"), head.version.to_string());
        let (number, base) = (new.identity.seq.to_string(), new.base.to_string());
        let numbered = if new.identity.by_gateway { "1" } else { "0" };
        let name = if new.identity.by_gateway { format!("~{}", new.identity.id) } else { new.identity.id.to_string() };
        let texts: [&str; 10] = [&channel, &version, &head.hash, "0", "1", &name, &number, numbered, &new.owner, &base];
        let arguments: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).chain([&new.bytes[..]]).collect();
        let (answer, _) = self.link.script(&self.script, &keys, true, &arguments).await.unwrap();
        let verdicts: Vec<String> = redis::from_redis_value(answer[2].clone()).unwrap();
        verdicts.concat()
    }
}

/// Case 13: during a rollout pods of two versions call scripts of two texts, and the server forgets both now and then.
async fn two_versions_of_the_script_work_on_one_log(engine: Engine) -> Option<()> {
    let server = Server::start(engine, &[]).await?;
    let store = Store::Redis(RedisStore::new(server.settings()));
    let older = OlderPod::new(&server);
    let mut client = server.client().await;
    let mut head = store.create("d", Creation { root: "0123456789a".into(), snapshot: None }).await.unwrap().head;
    for seq in 1..=60_u64 {
        if seq % 7 == 0 {
            run(&mut client, &["SCRIPT", "FLUSH"]).await;
        }
        let mut new = entry("c", seq.div_ceil(2), "u", head.version, &format!("entry {seq}"));
        if seq % 2 == 0 {
            new.identity = Identity { id: "s-1".into(), seq: seq / 2, by_gateway: true };
        }
        // Each is appended by one version and repeated by the other; both kinds of identities change sides.
        if seq % 4 < 2 {
            assert_eq!(older.commit("d", &head, &new).await, format!("o{seq}"));
            let again = store.commit("d", &head, 0, &[new]).await.unwrap();
            assert_eq!(again.verdicts, [Verdict::Dup(seq)]);
        } else {
            let committed = store.commit("d", &head, 0, std::slice::from_ref(&new)).await.unwrap();
            assert_eq!(committed.verdicts, [Verdict::Ok(seq)]);
            assert_eq!(older.commit("d", &head, &new).await, format!("d{seq}"));
        }
        head = store.tail("d", &head).await.unwrap().entries.last().unwrap().at.clone();
        assert_eq!(head.version, seq);
    }
    Some(())
}

/// The older script tells of what is too large for a notice in words of its own.
async fn a_new_pod_hears_what_an_older_one_commits(engine: Engine) -> Option<()> {
    let server = Server::start(engine, &[]).await?;
    let mut client = server.client().await;
    client.set::<_, _, ()>("doc:d:access:ann", "write").await.unwrap();
    let gateway = Gateway::start(&server.address()).await;
    let mut ann = Editor::new("ann", "d", &[gateway.address], 1);
    ann.type_all(tokens("ann", 1)).await;
    let older = OlderPod::new(&server);
    for (seq, text) in [(1, "small".to_owned()), (2, "l".repeat(40 << 10))] {
        let (version, hash): (u64, String) = client.hmget("{doc:d}:meta", &["v", "hash"]).await.unwrap();
        let bytes = format!(r#"[1,1,["c2",{seq},0],"c2","u2","s-2",{version},[{{"insert":"{text} "}}]]"#);
        let head = Point { version, hash: hash.into() };
        assert_eq!(
            older.commit("d", &head, &entry("c2", seq, "u2", version, &bytes)).await,
            format!("o{}", version + 1)
        );
        ann.until("ann has it", |ann| ann.text().starts_with(&text)).await;
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
