//! Two gateways on one Redis, with editors on both: edits cross over, whatever dies.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod servers;

use editor::{Editor, Gateway};
use rand::{Rng, SeedableRng, rngs::StdRng};
use redis::AsyncCommands;
use servers::{Engine, Server, eventually};

/// A server, two gateways, and access to document `d` for these users.
async fn stage(users: &[&str]) -> (Server, Gateway, Gateway) {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    for user in users {
        client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    let gateways = (Gateway::start(&server.address()).await, Gateway::start(&server.address()).await);
    (server, gateways.0, gateways.1)
}

fn tokens(user: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{user}{n:04}")).collect()
}

/// All editors have the same text, a newcomer too, and every token is in it exactly once.
async fn agree(editors: &mut [&mut Editor], newcomer: &mut Editor, expected: &[Vec<String>]) {
    newcomer.until("the newcomer is in", Editor::is_joined).await;
    for editor in editors.iter_mut() {
        editor.until("the editor has it all", |editor| editor.is_joined() && editor.version >= newcomer.version).await;
        assert_eq!(editor.text(), newcomer.text(), "{} and the newcomer", editor.user);
    }
    let mut found: Vec<_> = newcomer.text().split_whitespace().map(str::to_owned).collect();
    let mut expected: Vec<_> = expected.concat();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn edits_cross_over_and_everybody_ends_with_the_same_text() {
    let (server, one, two) = stage(&["ann", "bob", "eve"]).await;
    server.client().await.set::<_, _, ()>("doc:d:content", "seed ").await.unwrap();
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    let (a, b) = (tokens("ann", 300), tokens("bob", 300));
    tokio::join!(ann.type_all(a.clone()), bob.type_all(b.clone()));
    assert_eq!((ann.joins_with_content, ann.joins_with_edits), (1, 0), "nothing went wrong on the way");
    let mut eve = Editor::new("eve", "d", &[one.address], 3);
    agree(&mut [&mut ann, &mut bob], &mut eve, &[a, b, vec!["seed".to_owned()]]).await;
}

#[tokio::test]
async fn an_editor_that_is_cut_off_goes_on_at_the_other_gateway_by_edits() {
    let (_server, one, two) = stage(&["ann", "bob", "eve"]).await;
    let both = [one.address, two.address];
    let (mut ann, mut bob) = (Editor::new("ann", "d", &both, 1), Editor::new("bob", "d", &[two.address], 2));
    let (a, b) = (tokens("ann", 200), tokens("bob", 200));
    tokio::join!(ann.type_with(a.clone(), |n| n % 20 == 19), bob.type_all(b.clone()));
    assert!(ann.joins_with_edits > 0, "{} joins with content only", ann.joins_with_content);
    let mut eve = Editor::new("eve", "d", &[one.address], 3);
    agree(&mut [&mut ann, &mut bob], &mut eve, &[a, b]).await;
}

/// Of ten edits that it had stored three are in the log, unknown to the page: it was gone before their acknowledgements.
async fn reload(is_gateway_dead: bool, comes_back_to: usize) {
    let (_server, mut one, two) = stage(&["ann", "bob", "eve"]).await;
    let at = [one.address, two.address];
    let (mut ann, mut bob) = (Editor::new("ann", "d", &at[..1], 1), Editor::new("bob", "d", &at[1..], 2));
    let a = tokens("ann", 30);
    ann.type_all(a[..20].to_vec()).await;
    for token in &a[20..23] {
        ann.insert(token).await;
    }
    bob.until("the log has them", |bob| a[..23].iter().all(|token| bob.text().contains(token))).await;
    ann.cut();
    for token in &a[23..] {
        ann.insert(token).await;
    }
    let stored = ann.stored();
    drop(ann);
    if is_gateway_dead {
        one.kill();
    }
    let b = tokens("bob", 20);
    bob.type_all(b.clone()).await;
    let mut ann = Editor::reloaded("ann", "d", &at[comes_back_to..=comes_back_to], 3, &stored);
    let later = tokens("annlater", 5);
    ann.type_all(later.clone()).await;
    assert_eq!((ann.joins_with_content, ann.joins_with_edits), (0, 1), "it goes on from what it has");
    agree(&mut [&mut ann, &mut bob], &mut Editor::new("eve", "d", &at[1..], 4), &[a, b, later]).await;
}

#[tokio::test]
async fn a_page_that_stored_its_edits_sends_them_after_a_reload_to_the_same_gateway() {
    reload(false, 0).await;
}

#[tokio::test]
async fn a_page_that_stored_its_edits_sends_them_after_a_reload_to_another_gateway() {
    reload(false, 1).await;
}

#[tokio::test]
async fn a_page_that_stored_its_edits_sends_them_after_a_reload_when_its_gateway_died() {
    reload(true, 1).await;
}

#[tokio::test]
async fn editing_goes_on_after_redis_was_killed_and_came_back() {
    let (mut server, one, two) = stage(&["ann", "bob", "eve"]).await;
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    let mut all = Vec::new();
    for round in 0..3 {
        let typed = [tokens(&format!("ann{round}x"), 100), tokens(&format!("bob{round}x"), 100)];
        let (a, b) = (typed[0].clone(), typed[1].clone());
        let killing = async {
            let mut client = server.client().await;
            let before: u64 = client.hget("{doc:d}:meta", "v").await.unwrap_or(0);
            eventually("they are typing", async || {
                client.hget::<_, _, u64>("{doc:d}:meta", "v").await.unwrap_or(0) > before + 20
            })
            .await;
            server.kill();
            server.start_again().await;
        };
        tokio::join!(ann.type_all(a), bob.type_all(b), killing);
        all.extend(typed);
    }
    let mut eve = Editor::new("eve", "d", &[two.address], 3);
    agree(&mut [&mut ann, &mut bob], &mut eve, &all).await;
}

#[tokio::test]
async fn editing_goes_on_at_the_other_gateway_when_one_dies() {
    let (server, mut one, two) = stage(&["ann", "bob", "eve"]).await;
    let both = [one.address, two.address];
    let (mut ann, mut bob) = (Editor::new("ann", "d", &both, 1), Editor::new("bob", "d", &[two.address], 2));
    let (a, b) = (tokens("ann", 200), tokens("bob", 200));
    let dying = async {
        let mut client = server.client().await;
        eventually("they are typing", async || client.hget::<_, _, u64>("{doc:d}:meta", "v").await.unwrap_or(0) > 100)
            .await;
        one.kill();
    };
    tokio::join!(ann.type_all(a.clone()), bob.type_all(b.clone()), dying);
    let mut eve = Editor::new("eve", "d", &[two.address], 3);
    agree(&mut [&mut ann, &mut bob], &mut eve, &[a, b]).await;
}

/// Everything at once, at random: transports are cut, connections to Redis are closed under the gateways, Redis is killed.
#[tokio::test]
async fn nothing_is_lost_or_doubled_in_the_worst_of_weather() {
    let seed = std::env::var("COLLAB_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("COLLAB_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut server, one, two) = stage(&["ann", "bob", "cid", "eve"]).await;
    let both = [one.address, two.address];
    let mut editors = ["ann", "bob", "cid"].map(|user| Editor::new(user, "d", &both, random.random()));
    let mut typed = Vec::new();
    for round in 0..3 {
        let mut typing = Vec::new();
        for editor in &mut editors {
            let tokens = tokens(&format!("{}{round}x", editor.user), 80);
            typed.push(tokens.clone());
            let mut dice = StdRng::seed_from_u64(random.random());
            typing.push(editor.type_with(tokens, move |_| dice.random_ratio(1, 15)));
        }
        let kinds = ["normal", "pubsub", "normal"];
        let weather = async {
            for kind in kinds {
                let mut client = server.client().await;
                let before: u64 = client.hget("{doc:d}:meta", "v").await.unwrap_or(0);
                let after = before + random.random_range(10..40);
                eventually("they are typing, or done", async || {
                    let head = client.hget::<_, _, u64>("{doc:d}:meta", "v").await;
                    head.is_ok_and(|head| head >= after.min(240 * (round + 1)))
                })
                .await;
                let mut kill = redis::cmd("CLIENT");
                kill.arg("KILL").arg("TYPE").arg(kind).arg("SKIPME").arg("yes");
                kill.exec_async(&mut client).await.unwrap();
            }
            server.kill();
            server.start_again().await;
        };
        tokio::join!(futures_util::future::join_all(typing), weather);
    }
    let mut eve = Editor::new("eve", "d", &[two.address], 3);
    let [ann, bob, cid] = &mut editors;
    agree(&mut [ann, bob, cid], &mut eve, &typed).await;
}

#[tokio::test]
async fn people_of_a_dead_gateway_vanish_when_its_lease_has_run_out() {
    let (server, mut one, two) = stage(&["ann", "bob"]).await;
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    let has_heard = |editor: &Editor, name: &str| editor.heard.iter().any(|(heard, _)| heard == name);
    bob.until("bob is in", Editor::is_joined).await;
    ann.until("ann is in", Editor::is_joined).await;
    bob.until("bob sees ann", |bob| has_heard(bob, "user-joined")).await;
    assert!(!has_heard(&bob, "user-left"));
    one.kill();
    bob.until("ann is gone", |bob| has_heard(bob, "user-left")).await;
    let mut client = server.client().await;
    eventually("her row is removed", async || {
        let rows: Vec<String> = client.hkeys("{doc:d}:presence").await.unwrap();
        rows.len() == 1 && rows[0].ends_with("/bob")
    })
    .await;
}

#[tokio::test]
async fn nobody_flickers_when_all_leases_ran_out_together() {
    let (server, one, _) = stage(&["ann", "bob"]).await;
    let mut client = server.client().await;
    // A gateway that renews its lease two seconds later than the other.
    let first = format!("collab:pod:{}", one.pod());
    eventually("two seconds have passed", async || client.pttl::<_, i64>(&first).await.unwrap() < 13_000).await;
    let two = Gateway::start(&server.address()).await;
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    ann.until("ann is in", Editor::is_joined).await;
    bob.until("bob is in", Editor::is_joined).await;
    let saw = |editor: &Editor| editor.heard.iter().any(|(heard, _)| heard == "user-joined");
    ann.until("ann sees bob", saw).await;
    // As after an outage that was longer than a lease.
    let leases = [one.pod(), two.pod()].map(|pod| format!("collab:pod:{pod}"));
    client.del::<_, ()>(&leases).await.unwrap();
    eventually("both are back", async || client.exists::<_, usize>(&leases).await.unwrap() == 2).await;
    // Whoever came back first has seen the other without a lease.
    tokio::join!(ann.type_all(tokens("ann", 5)), bob.type_all(tokens("bob", 5)));
    for editor in [&ann, &bob] {
        assert!(editor.heard.iter().all(|(heard, _)| heard != "user-left"), "{}: {:?}", editor.user, editor.heard);
    }
    let rows: Vec<String> = client.hkeys("{doc:d}:presence").await.unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
}

#[tokio::test]
async fn an_editor_that_appears_on_the_other_gateway_replaces_itself_here() {
    let (_server, one, two) = stage(&["ann"]).await;
    let is_replaced = |editor: &Editor| {
        editor.heard.iter().any(|(name, payload)| name == "error" && payload["code"] == "CLIENT_REPLACED")
    };
    let mut first = Editor::new("ann", "d", &[one.address], 1);
    first.until("the first is in", Editor::is_joined).await;
    let mut second = Editor::new("ann", "d", &[two.address], 2);
    second.until("the second is in", Editor::is_joined).await;
    first.until("the first is told", is_replaced).await;
    // The other gateway heard of the first one too, or will; it came before.
    second.type_all(tokens("ann", 20)).await;
    assert!(!is_replaced(&second) && second.closes.is_empty(), "{:?}", second.heard);
}

#[tokio::test]
async fn a_history_that_was_lost_is_noticed_by_everybody() {
    let (server, one, two) = stage(&["ann", "bob", "eve"]).await;
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    ann.type_all(tokens("ann", 20)).await;
    bob.until("bob has it", |bob| bob.is_joined() && bob.version == 20).await;
    let mut client = server.client().await;
    redis::cmd("FLUSHALL").exec_async(&mut client).await.unwrap();
    for user in ["ann", "bob", "eve"] {
        client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    // Both gateways still have the old document open.
    let (mut eve, mut bob_again) =
        (Editor::new("eve", "d", &[one.address], 3), Editor::new("bob", "d", &[two.address], 4));
    bob_again.client_id = "another-editor".to_owned();
    let typed = [tokens("eve", 5), tokens("bobby", 5)];
    tokio::join!(eve.type_all(typed[0].clone()), bob_again.type_all(typed[1].clone()));
    let mut newcomer = Editor::new("ann", "d", &[two.address], 5);
    newcomer.client_id = "newcomer".to_owned();
    agree(&mut [&mut eve, &mut bob_again], &mut newcomer, &typed).await;
}

#[tokio::test]
async fn a_document_is_stored_and_closed_after_the_last_one_left() {
    let (server, one, two) = stage(&["ann", "eve"]).await;
    let mut ann = Editor::new("ann", "d", &[one.address], 1);
    let typed = tokens("ann", 50);
    ann.type_all(typed.clone()).await;
    let version = ann.version;
    drop(ann);
    let mut client = server.client().await;
    eventually("the document is stored, and nobody is left in the presence rows", async || {
        let snapshot: String = client.hget("{doc:d}:meta", "snapshot").await.unwrap();
        let left: usize = client.hlen("{doc:d}:presence").await.unwrap();
        snapshot.starts_with(&format!("{version} ")) && left == 0
    })
    .await;
    // It is remembered for half a minute after the last edit, should a failover lose that.
    eventually("the document is closed", async || one.documents() == 0).await;
    let mut eve = Editor::new("eve", "d", &[two.address], 3);
    agree(&mut [], &mut eve, &[typed]).await;
}

#[tokio::test]
async fn a_join_says_whether_the_store_is_away_or_the_document_is_damaged() {
    let (mut server, one, _two) = stage(&["ann"]).await;
    server.client().await.set::<_, _, ()>("doc:x:access:ann", "write").await.unwrap();
    server.client().await.hset::<_, _, _, ()>("{doc:x}:meta", "v", "three").await.unwrap();
    let code = |editor: &Editor| editor.heard.iter().find(|(n, _)| n == "join-error").map(|(_, e)| e["code"].clone());
    let mut damaged = Editor::new("ann", "x", &[one.address], 1);
    damaged.until("the join is answered", |editor| code(editor).is_some()).await;
    assert_eq!(code(&damaged).unwrap(), "JOIN_FAILED");
    let mut stranger = Editor::new("bob", "d", &[one.address], 1);
    stranger.until("the join is answered", |editor| code(editor).is_some()).await;
    assert_eq!(code(&stranger).unwrap(), "ACCESS_DENIED");
    server.kill();
    let mut early = Editor::new("ann", "d", &[one.address], 1);
    early.until("the join is answered", |editor| code(editor).is_some()).await;
    assert_eq!(code(&early).unwrap(), "STORE_UNAVAILABLE");
    server.start_again().await;
    early.type_all(tokens("ann", 1)).await;
    assert_eq!(early.text(), "ann0000 ");
}
