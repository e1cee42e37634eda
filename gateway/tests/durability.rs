//! What an acknowledgement promises, on real servers: a primary, followers that go away, a primary that is killed.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod pods;
mod servers;

use editor::{Editor, Gateway};
use ot::Delta;
use pods::Pod;
use redis::AsyncCommands;
use servers::{Engine, Server, eventually, run};

macro_rules! on {
    ($module:ident $engine:ident $level:literal: $($name:ident)*) => {
        mod $module { $(#[tokio::test] async fn $name() {
            if super::Server::start(super::Engine::$engine, &[]).await.is_some() {
                super::$name(super::Engine::$engine, $level).await;
            }
        })* }
    };
}

on! { redis_replicated Redis "replicated":
    nothing_is_acknowledged_while_the_follower_is_away
    every_acknowledged_edit_survives_the_primary_once
    a_duplicate_whose_original_is_not_replicated_yet_is_acknowledged_when_it_is
}
on! { valkey_replicated Valkey "replicated":
    nothing_is_acknowledged_while_the_follower_is_away
    every_acknowledged_edit_survives_the_primary_once
    a_duplicate_whose_original_is_not_replicated_yet_is_acknowledged_when_it_is
}
on! { valkey_synced Valkey "synced":
    nothing_is_acknowledged_while_the_follower_is_away
    every_acknowledged_edit_survives_the_primary_once
    a_duplicate_whose_original_is_not_replicated_yet_is_acknowledged_when_it_is
    nothing_is_acknowledged_while_the_primary_keeps_no_log
}
on! { redis_async Redis "async": a_duplicate_is_answered_with_the_version_of_its_entry }
on! { valkey_async Valkey "async": a_duplicate_is_answered_with_the_version_of_its_entry }

async fn nothing_is_acknowledged_while_the_follower_is_away(engine: Engine, level: &str) {
    let stage = Stage::new(engine, level).await;
    let mut ann = stage.editor("ann", 1);
    ann.type_all(tokens("early", 3)).await;
    ann.until("what the follower has is acknowledged", |ann| ann.acknowledged.len() == 3).await;
    stage.follower.signal("-STOP");
    ann.type_all(tokens("late", 3)).await;
    // All are confirmed: they are in the log, and everybody sees them.
    ann.until("it is told that they are not durable", |ann| not_durable(ann).len() == 3).await;
    assert_eq!(not_durable(&ann), [4, 5, 6]);
    assert_eq!(ann.acknowledged.len(), 3, "{:?}", ann.acknowledged);
    stage.follower.signal("-CONT");
    ann.until("the follower has them", |ann| ann.acknowledged.len() == 6).await;
    assert_eq!(ann.acknowledged, (1..=6).map(|n| (n, n)).collect::<Vec<_>>(), "in order, with their versions");
    assert_eq!(not_durable(&ann).len(), 3, "once for each");
}

/// Edits go into the log and none is acknowledged: whoever operates it must be told.
#[tokio::test]
async fn a_primary_without_a_follower_is_told_of_as_long_as_acknowledgements_wait() {
    let primary = Server::start(Engine::Redis, &["--repl-diskless-sync-delay", "0"]).await.unwrap();
    let pod = Pod::start(&primary.address(), &["--durability", "replicated"]);
    primary.client().await.set::<_, _, ()>("doc:d:access:ann", "write").await.unwrap();
    let waiting = async || pod.metric("collab_gateway_acknowledgements_waiting").await;
    eventually("nothing waits yet", async || {
        waiting().await == Some(0.0) && pod.get("/readyz").await == (200, "ok\n".to_owned())
    })
    .await;
    let mut ann = Editor::new("ann", "d", &[pod.address], 1);
    ann.asks = true;
    ann.type_all(tokens("word", 3)).await;
    eventually("the metric tells it", async || waiting().await == Some(3.0)).await;
    eventually("/readyz tells it", async || {
        let (status, text) = pod.get("/readyz").await;
        assert_eq!(status, 200, "it is the same for all pods");
        text.starts_with("ok, but acknowledgements wait (--durability) for ") && text.contains("no follower")
    })
    .await;
    assert_eq!(pod.metric("collab_gateway_store_up").await, Some(1.0), "it takes changes");
    let follower = Server::start(Engine::Redis, &["--repl-diskless-sync-delay", "0"]).await.unwrap();
    follower.follow(&primary).await;
    ann.until("all are acknowledged", |ann| ann.acknowledged.len() == 3).await;
    eventually("all is well", async || {
        waiting().await == Some(0.0) && pod.get("/readyz").await == (200, "ok\n".to_owned())
    })
    .await;
}

async fn nothing_is_acknowledged_while_the_primary_keeps_no_log(engine: Engine, level: &str) {
    let stage = Stage::new(engine, level).await;
    let mut primary = stage.primary.client().await;
    let mut ann = stage.editor("ann", 1);
    ann.type_all(tokens("early", 1)).await;
    ann.until("what is on disks is acknowledged", |ann| ann.acknowledged.len() == 1).await;
    run(&mut primary, &["CONFIG", "SET", "appendonly", "no"]).await;
    ann.type_all(tokens("late", 1)).await;
    ann.until("it is told that this is on no disk", |ann| not_durable(ann) == [2]).await;
    run(&mut primary, &["CONFIG", "SET", "appendonly", "yes"]).await;
    ann.until("it is on disks", |ann| ann.acknowledged.len() == 2).await;
    assert_eq!(ann.acknowledged, [(1, 1), (2, 2)]);
}

/// Redis 7.0, which has no WAITAOF.
async fn old_redis() -> Server {
    Server::start(Engine::Redis, &[]).await.unwrap()
}

const SYNCED: [&str; 2] = ["--durability", "synced"];

#[tokio::test]
async fn a_server_that_cannot_wait_for_disks_is_refused_before_a_port_opens() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let redis = old_redis().await;
    let valkey = Server::start(Engine::Valkey, &["--appendonly", "no"]).await;
    let lacks =
        [(Some(&redis), "has no WAITAOF: use Redis 7.2"), (valkey.as_ref(), "has appendonly no: set it to yes")];
    for (server, lack) in lacks.into_iter().filter_map(|(server, lack)| Some((server?, lack))) {
        let (code, said) = pods::refusal(&server.address(), &[&SYNCED[..], &[&listen]].concat());
        assert_eq!(code, Some(2), "{said}");
        let line = format!("collab-gateway: --durability synced: {} {lack}", server.address());
        assert!(said.starts_with(&line) && said.lines().count() == 1, "{said}");
    }
}

#[tokio::test]
async fn a_server_that_comes_later_and_cannot_wait_for_disks_is_told_of_once() {
    let mut redis = old_redis().await;
    redis.kill();
    let mut pod = Pod::start(&redis.address(), &SYNCED);
    redis.start_again().await;
    let told = format!("ok, but --durability synced: nothing is acknowledged, for {} has no WAITAOF", redis.address());
    eventually("it is told", async || {
        let (status, text) = pod.get("/readyz").await;
        status == 200 && text.starts_with(&told)
    })
    .await;
    let mut client = redis.client().await;
    client.set::<_, _, ()>("doc:d:access:ann", "write").await.unwrap();
    let mut ann = Editor::new("ann", "d", &[pod.address], 1);
    ann.asks = true;
    ann.type_all(tokens("word", 1)).await;
    ann.until("it is told that this is on no disk", |ann| not_durable(ann) == [1]).await;
    // What it said by now is what it said before its end.
    let lines = |pod: &Pod| pod.log().iter().filter(|line| line.to_string().contains("WAITAOF")).count();
    eventually("it is logged", async || lines(&pod) > 0).await;
    pod.signal("KILL");
    pod.exit_code().await;
    assert_eq!(lines(&pod), 1, "{:?}", pod.log());
}

#[tokio::test]
async fn a_new_primary_that_cannot_wait_for_disks_is_told_of_until_another_can() {
    let Some(valkey) = Server::start(Engine::Valkey, &[]).await else { return };
    let redis = old_redis().await;
    let become_primary =
        async |server: &Server, epoch| run(&mut server.client().await, &["HSET", "collab:fence", "epoch", epoch]).await;
    become_primary(&valkey, "1").await;
    let pod = Pod::start(&format!("{},{}", valkey.address(), redis.address()), &SYNCED);
    let told = async |part: &str| {
        let (status, text) = pod.get("/readyz").await;
        assert_eq!(status, 200, "{text}");
        text.contains(part)
    };
    eventually("all is well", async || told("ok\n").await).await;
    for (primary, epoch, part) in [(&redis, "2", "has no WAITAOF"), (&valkey, "3", "ok\n")] {
        become_primary(primary, epoch).await;
        eventually(part, async || told(part).await).await;
    }
}

async fn every_acknowledged_edit_survives_the_primary_once(engine: Engine, level: &str) {
    let mut stage = Stage::new(engine, level).await;
    let (mut ann, mut bob) = (stage.editor("ann", 1), stage.editor("bob", 2));
    let third = stage.third.take().unwrap();
    let is_acknowledged = |editor: &Editor| editor.acknowledged_tokens().len() > 20;
    let (words_ann, words_bob) = (tokens("ann", 200), tokens("bob", 200));
    tokio::join!(ann.type_all(words_ann[..100].to_vec()), bob.type_all(words_bob[..100].to_vec()));
    for editor in [&mut ann, &mut bob] {
        // A disk that writes once a second can be slower than the fingers.
        editor.until("some are acknowledged", is_acknowledged).await;
    }
    let killing = async {
        let mut client = stage.primary.client().await;
        eventually("they are typing", async || client.hget::<_, _, u64>("{doc:d}:meta", "v").await.unwrap_or(0) > 250)
            .await;
        stage.primary.kill();
        stage.follower.promote(1).await;
        third.follow(&stage.follower).await;
    };
    tokio::join!(ann.type_all(words_ann[100..].to_vec()), bob.type_all(words_bob[100..].to_vec()), killing);
    let mut newcomer = stage.editor("eve", 3);
    newcomer.until("the newcomer is in", Editor::is_joined).await;
    let words: Vec<String> = newcomer.text().split_whitespace().map(str::to_owned).collect();
    for editor in [&mut ann, &mut bob] {
        editor.until("the editor has it all", |editor| editor.is_joined() && editor.version >= newcomer.version).await;
        assert_eq!(editor.text(), newcomer.text(), "{}", editor.user);
        let acknowledged = editor.acknowledged_tokens();
        assert!(is_acknowledged(editor), "{} were acknowledged", acknowledged.len());
        for token in acknowledged {
            assert_eq!(words.iter().filter(|word| **word == token).count(), 1, "{token} in {}", newcomer.text());
        }
    }
    let mut twice = words.clone();
    twice.sort();
    twice.dedup();
    assert_eq!(twice.len(), words.len(), "no word is there twice");
}

async fn a_duplicate_whose_original_is_not_replicated_yet_is_acknowledged_when_it_is(engine: Engine, level: &str) {
    let stage = Stage::new(engine, level).await;
    let mut ann = stage.editor("ann", 1);
    ann.type_all(tokens("early", 1)).await;
    ann.until("the first is acknowledged", |ann| ann.acknowledged.len() == 1).await;
    stage.follower.signal("-STOP");
    ann.type_all(tokens("late", 1)).await;
    assert_eq!(ann.acknowledged.len(), 1);
    drop(ann);
    // The same editor on the other gateway does not know that its second edit is in the log, and sends it again.
    let mut again = Editor::new("ann", "d", &[stage.gateways[1].address], 1);
    again.asks = true;
    again.until("it is back", Editor::is_joined).await;
    again.send_edit(2, &Delta::new().insert("late0000 ", None)).await;
    again.until("it is told that this is not durable", |again| not_durable(again) == [2]).await;
    assert_eq!(again.acknowledged, [], "the original is on the primary alone");
    stage.follower.signal("-CONT");
    again.until("the follower has it", |again| !again.acknowledged.is_empty()).await;
    assert_eq!(again.acknowledged, [(2, 2)]);
    assert_eq!(again.text().matches("late0000").count(), 1, "{}", again.text());
}

async fn a_duplicate_is_answered_with_the_version_of_its_entry(engine: Engine, level: &str) {
    let stage = Stage::new(engine, level).await;
    let mut ann = stage.editor("ann", 1);
    ann.type_all(tokens("word", 3)).await;
    drop(ann);
    let mut bob = stage.editor("bob", 2);
    bob.type_all(tokens("other", 2)).await;
    let mut again = Editor::new("ann", "d", &[stage.gateways[1].address], 1);
    again.asks = true;
    again.until("it is back", Editor::is_joined).await;
    for seq in [1, 2, 3] {
        again.send_edit(seq, &Delta::new().insert("again", None)).await;
    }
    again.until("all are answered", |again| again.acknowledged.len() == 3).await;
    assert_eq!(again.acknowledged, [(1, 1), (2, 2), (3, 3)]);
    assert!(!again.text().contains("again"));
}

/// A primary with a follower, a third server that follows nobody yet, and two gateways.
struct Stage {
    primary: Server,
    follower: Server,
    third: Option<Server>,
    gateways: [Gateway; 2],
}

impl Stage {
    async fn new(engine: Engine, level: &str) -> Self {
        let start = async || Server::start(engine, &["--repl-diskless-sync-delay", "0"]).await.unwrap();
        let (primary, follower, third) = (start().await, start().await, start().await);
        let mut client = primary.client().await;
        for user in ["ann", "bob", "eve"] {
            client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
        }
        run(&mut client, &["HSET", "collab:fence", "epoch", "0"]).await;
        follower.follow(&primary).await;
        let addresses = format!("{},{}", primary.address(), follower.address());
        let gateway = async || Gateway::start_with(&addresses, &["--durability", level]).await;
        let gateways = [gateway().await, gateway().await];
        Self { primary, follower, third: Some(third), gateways }
    }

    fn editor(&self, user: &str, seed: u64) -> Editor {
        let index = usize::from(user == "bob");
        let mut editor = Editor::new(user, "d", &[self.gateways[index].address], seed);
        editor.asks = true;
        editor
    }
}

fn tokens(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{name}{n:04}")).collect()
}

/// The numbers of the edits that it was told to be in the log, but not durable.
fn not_durable(editor: &Editor) -> Vec<u64> {
    let told = editor.heard.iter().filter(|(name, error)| name == "error" && error["code"] == "NOT_DURABLE_YET");
    told.map(|(_, error)| error["seq"].as_u64().unwrap()).collect()
}
