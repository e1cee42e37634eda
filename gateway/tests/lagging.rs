//! Who comes late, on real servers: a pod that was stopped, an editor that was away for longer than the log remembers,
//! many writers at once with somebody who does not read, and permissions that end with edits in flight.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod pods;
mod servers;

use std::collections::BTreeSet;

use editor::{Editor, Gateway};
use futures_util::future::join_all;
use pods::Pod;
use redis::AsyncCommands;
use serde_json::Value;
use servers::{Engine, Server, run};

/// More than the window of the log has.
const FAR: usize = 600;

async fn server(users: &[String]) -> Server {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    for user in users {
        client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    server
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn tokens(user: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{user}{n:04}")).collect()
}

/// Everybody ends with what a newcomer finds: every token once.
async fn agree(editors: &mut [&mut Editor], newcomer: &mut Editor, expected: Vec<String>) {
    newcomer.until("the newcomer is in", Editor::is_joined).await;
    for editor in editors {
        editor.until("the editor has it all", |editor| editor.is_joined() && editor.version >= newcomer.version).await;
        assert_eq!(editor.text(), newcomer.text(), "{}", editor.user);
    }
    let (mut found, mut expected): (Vec<_>, Vec<_>) =
        (newcomer.text().split_whitespace().map(str::to_owned).collect(), expected);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// Case 7: it had edits of its editor in its socket when it was stopped; the others wrote on beyond the window.
#[tokio::test]
async fn a_pod_that_was_stopped_for_long_goes_on_and_loses_nothing() {
    let server = server(&names(&["ann", "bob", "eve"])).await;
    let (one, two) = (Pod::start(&server.address(), &[]), Pod::start(&server.address(), &[]));
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    tokio::join!(ann.type_all(tokens("anna", 5)), bob.type_all(tokens("boba", 5)));
    one.signal("STOP");
    let late = tokens("annb", 5);
    for token in &late {
        ann.insert(token).await;
    }
    bob.type_all(tokens("bobb", FAR)).await;
    one.signal("CONT");
    ann.type_all(tokens("annc", 5)).await;
    let all = [tokens("anna", 5), tokens("boba", 5), late, tokens("bobb", FAR), tokens("annc", 5)].concat();
    agree(&mut [&mut ann, &mut bob], &mut Editor::new("eve", "d", &[two.address], 3), all).await;
}

/// Case 8, with real servers in between.
#[tokio::test]
async fn an_editor_that_was_away_below_the_floor_brings_its_edits_home() {
    let server = server(&names(&["ann", "bob", "eve"])).await;
    let (one, two) = (Gateway::start(&server.address()).await, Gateway::start(&server.address()).await);
    let both = [one.address, two.address];
    let (mut ann, mut bob) = (Editor::new("ann", "d", &both, 1), Editor::new("bob", "d", &both[1..], 2));
    tokio::join!(ann.type_all(tokens("anna", 5)), bob.type_all(tokens("boba", 5)));
    let version = bob.version;
    ann.until("it has what bob has", |ann| ann.version >= version).await;
    ann.cut();
    let offline = tokens("annb", 5);
    for token in &offline {
        ann.insert(token).await;
    }
    bob.type_all(tokens("bobb", FAR)).await;
    ann.type_all(tokens("annc", 5)).await;
    assert_eq!((ann.joins_with_content, ann.joins_with_edits), (2, 0), "what it had is below the floor");
    let all = [tokens("anna", 5), tokens("boba", 5), offline, tokens("bobb", FAR), tokens("annc", 5)].concat();
    agree(&mut [&mut ann, &mut bob], &mut Editor::new("eve", "d", &both[1..], 3), all).await;
}

/// Case 22: 64 writers on four gateways, and one editor that reads nothing meanwhile.
#[tokio::test]
async fn sixty_four_writers_on_one_document_are_not_held_up_by_one_who_does_not_read() {
    let users: Vec<String> = (0..64).map(|n| format!("w{n:02}x")).collect();
    let server = server(&[users.clone(), names(&["eve", "slow"])].concat()).await;
    let mut gateways = Vec::new();
    for _ in 0..4 {
        gateways.push(Gateway::start(&server.address()).await);
    }
    let at: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
    let mut slow = Editor::new("slow", "d", &at[..1], 99);
    slow.until("it is in", Editor::is_joined).await;
    let mut editors: Vec<Editor> =
        users.iter().enumerate().map(|(n, user)| Editor::new(user, "d", &[at[n % 4]], n as u64)).collect();
    join_all(editors.iter_mut().map(|editor| {
        let own = tokens(&editor.user, 8);
        editor.type_all(own)
    }))
    .await;
    let all = users.iter().flat_map(|user| tokens(user, 8)).collect();
    let mut everybody: Vec<&mut Editor> = editors.iter_mut().chain([&mut slow]).collect();
    agree(&mut everybody, &mut Editor::new("eve", "d", &at[3..], 100), all).await;
    assert_eq!(slow.joins_with_content, 1, "it went on from where it was");
}

/// Case 23: an edit in flight is in the log and acknowledged, or it is not in the log; none comes after.
#[tokio::test]
async fn edits_in_flight_when_access_ends_are_acknowledged_or_not_in_the_log_though_redis_hangs() {
    let server = server(&names(&["bob", "eve"])).await;
    let one = Gateway::start(&server.address()).await;
    let mut redis = server.client().await;
    let mut met = BTreeSet::new();
    for round in 0..6 {
        redis.set::<_, _, ()>("doc:d:access:bob", "write").await.unwrap();
        run(&mut redis, &["PUBLISH", "collab:changed", r#"{"documentId":"d","userId":"bob"}"#]).await;
        let mut bob = Editor::new("bob", "d", &[one.address], round);
        (bob.client_id, bob.asks) = (format!("bob-{round}"), true);
        bob.until("it is in", Editor::is_joined).await;
        let words: Vec<String> = (0..20).map(|n| format!("r{round}n{n:02}")).collect();
        // In every second round the server answers nothing while edits and the revocation wait for it.
        let hangs = round % 2 == 0;
        for word in &words[..10] {
            bob.insert(word).await;
        }
        if hangs {
            server.signal("-STOP");
        }
        for word in &words[10..] {
            bob.insert(word).await;
        }
        let mut owner = redis.clone();
        let revoking = tokio::spawn(async move {
            owner.del::<_, ()>("doc:d:access:bob").await.unwrap();
            run(&mut owner, &["PUBLISH", "collab:changed", r#"{"documentId":"d","userId":"bob"}"#]).await;
        });
        if hangs {
            server.signal("-CONT");
        }
        revoking.await.unwrap();
        bob.until("it is out", |bob| {
            bob.heard.iter().any(|(name, what)| name == "access-changed" && what["role"] == Value::Null)
        })
        .await;
        bob.send_edit(21, &ot::Delta::new().insert("after ", None)).await;
        // A pod has one call in flight: what eve commits there is behind all that bob had under way.
        let mut eve = Editor::new("eve", "d", &[one.address], round);
        eve.client_id = format!("eve-{round}");
        eve.type_all(vec![format!("eve{round}")]).await;
        let text = eve.text();
        let count = |word: &str| text.split_whitespace().filter(|found| *found == word).count();
        assert!(words.iter().all(|word| count(word) <= 1) && count("after") == 0, "round {round}: {text}");
        let logged = words.iter().filter(|word| count(word) == 1).cloned().collect::<BTreeSet<_>>();
        bob.until("all that is in the log is acknowledged", |bob| bob.acknowledged.len() >= logged.len()).await;
        assert_eq!(bob.acknowledged_tokens().into_iter().collect::<BTreeSet<_>>(), logged, "round {round}");
        let errors = bob.heard.iter().filter(|(name, _)| name == "edit-error");
        for seq in errors.filter_map(|(_, error)| error["seq"].as_u64()) {
            assert!(
                bob.typed.get(&seq).is_none_or(|word| !logged.contains(word)),
                "round {round}: {seq} is in the log"
            );
        }
        met.extend([(true, !logged.is_empty()), (false, logged.len() < words.len())]);
    }
    assert!(met.contains(&(true, true)) && met.contains(&(false, true)), "both happened: {met:?}");
}
