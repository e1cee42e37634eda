//! Who is in a document when pods are drained, killed, stopped and resumed, when the store forgets, and when very many come.
//!
//! In: gateways as processes on real servers. Out: what the others hear, in time, and the rows in the store.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod pods;
mod servers;

use std::time::{Duration, Instant};

use editor::Editor;
use pods::Pod;
use redis::AsyncCommands;
use serde_json::json;
use servers::{Engine, Server, eventually};

/// What CONTRACT section 1 promises of a pod's death.
const DEATH_MAX: Duration = Duration::from_secs(20);

/// A server, two gateways, and these users with access to document `d`.
async fn stage(engine: Engine, arguments: &[&str], users: &[&str]) -> Option<(Server, Pod, Pod)> {
    let server = Server::start(engine, arguments).await?;
    allow(&server, users).await;
    let gateways = (Pod::start(&server.address(), &[]), Pod::start(&server.address(), &[]));
    Some((server, gateways.0, gateways.1))
}

async fn allow(server: &Server, users: &[&str]) {
    let mut client = server.client().await;
    for user in users {
        client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
}

fn count(editor: &Editor, event: &str) -> usize {
    editor.heard.iter().filter(|(heard, _)| heard == event).count()
}

/// `ann` on the first gateway and `bob` on the second, who has seen her come.
async fn two_people(one: &Pod, two: &Pod) -> (Editor, Editor) {
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    bob.until("bob is in", Editor::is_joined).await;
    ann.until("ann is in", Editor::is_joined).await;
    bob.until("bob sees ann", |bob| count(bob, "user-joined") == 1).await;
    (ann, bob)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_of_a_killed_gateway_are_gone_within_twenty_seconds() {
    for engine in [Engine::Redis, Engine::Valkey] {
        let Some((server, one, two)) = stage(engine, &[], &["ann", "bob"]).await else { continue };
        let (_ann, mut bob) = two_people(&one, &two).await;
        // The worst moment: the lease is as good as new.
        let mut client = server.client().await;
        eventually("a lease was renewed just now", async || {
            let leases: Vec<String> = client.keys("collab:pod:*").await.unwrap();
            let mut fresh = true;
            for lease in &leases {
                fresh &= client.pttl::<_, i64>(lease).await.unwrap() > 14_000;
            }
            fresh
        })
        .await;
        one.signal("KILL");
        let killed = Instant::now();
        bob.until("ann is gone", |bob| count(bob, "user-left") == 1).await;
        let took = killed.elapsed();
        eprintln!("{engine:?}: gone after {took:?}");
        assert!(took < DEATH_MAX, "{took:?}");
        let rows: Vec<String> = client.hkeys("{doc:d}:presence").await.unwrap();
        assert!(rows.len() == 1 && rows[0].ends_with("/bob"), "{rows:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_of_a_stopped_gateway_vanish_and_come_back_with_it() {
    for engine in [Engine::Redis, Engine::Valkey] {
        let Some((server, one, two)) = stage(engine, &[], &["ann", "bob"]).await else { continue };
        let (mut ann, mut bob) = two_people(&one, &two).await;
        one.signal("STOP");
        let stopped = Instant::now();
        bob.until("ann is gone", |bob| count(bob, "user-left") == 1).await;
        assert!(stopped.elapsed() < DEATH_MAX, "{:?}", stopped.elapsed());
        one.signal("CONT");
        let resumed = Instant::now();
        bob.until("ann is back", |bob| count(bob, "user-joined") == 2).await;
        eprintln!("{engine:?}: back after {:?}", resumed.elapsed());
        assert!(resumed.elapsed() < Duration::from_secs(10), "{:?}", resumed.elapsed());
        // Through the connection that she had all the time.
        ann.type_all(vec!["still".to_owned()]).await;
        assert_eq!(ann.closes, []);
        let mut client = server.client().await;
        eventually("both rows are there", async || client.hlen::<_, usize>("{doc:d}:presence").await.unwrap() == 2)
            .await;
        assert_eq!(count(&bob, "user-left"), 1);
        assert_eq!(count(&ann, "user-left"), 0, "who was stopped saw nobody go: {:?}", ann.heard);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_forgot_everything_gets_the_rows_again_and_nobody_vanishes() {
    for engine in [Engine::Redis, Engine::Valkey] {
        let Some((mut server, one, two)) = stage(engine, &["--appendonly", "no"], &["ann", "bob"]).await else {
            continue;
        };
        let (mut ann, mut bob) = two_people(&one, &two).await;
        // Something that nobody puts back.
        server.client().await.set::<_, _, ()>("witness", "").await.unwrap();
        server.kill();
        server.start_again().await;
        allow(&server, &["ann", "bob"]).await;
        let mut client = server.client().await;
        assert!(!client.exists::<_, bool>("witness").await.unwrap(), "it has forgotten");
        // Whoever has the document open goes on; a write makes the pods see that the history is another.
        tokio::join!(ann.type_all(vec!["a".to_owned()]), bob.type_all(vec!["b".to_owned()]));
        eventually("both rows are there", async || client.hlen::<_, usize>("{doc:d}:presence").await.unwrap() == 2)
            .await;
        // Longer than the grace of whoever might have been thought gone.
        let until = Instant::now() + Duration::from_secs(12);
        let mut number = 0;
        while Instant::now() < until {
            number += 1;
            tokio::join!(ann.type_all(vec![format!("a{number}")]), bob.type_all(vec![format!("b{number}")]));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        for editor in [&ann, &bob] {
            assert_eq!(count(editor, "user-left"), 0, "{engine:?}: {}: {:?}", editor.user, editor.heard);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_seems_to_leave_or_come_when_a_gateway_is_drained() {
    let users = ["ann", "ben", "cid", "dan", "eve"];
    let (server, mut one, two) = stage(Engine::Redis, &[], &[&users[..], &["bob"]].concat()).await.unwrap();
    let mut bob = Editor::new("bob", "d", &[two.address], 9);
    bob.until("bob is in", Editor::is_joined).await;
    let both = [one.address, two.address];
    let mut movers: Vec<_> = (0..).zip(users).map(|(seed, user)| Editor::new(user, "d", &both, seed)).collect();
    for mover in &mut movers {
        mover.until("somebody is in", Editor::is_joined).await;
    }
    bob.until("bob sees them all", |bob| count(bob, "user-joined") == users.len()).await;
    let mut client = server.client().await;
    let rows = async |client: &mut redis::aio::MultiplexedConnection| -> Vec<String> {
        client.hkeys("{doc:d}:presence").await.unwrap()
    };
    let pod_of = |row: &String| row.split('/').next().unwrap().to_owned();
    let two_is = rows(&mut client).await.iter().find(|row| row.ends_with("/bob")).map(pod_of).unwrap();
    let began = Instant::now();
    one.signal("TERM");
    let moving = futures_util::future::join_all(
        movers.iter_mut().map(|mover| mover.until("it moves", |mover| mover.is_joined() && !mover.closes.is_empty())),
    );
    let (code, _) = tokio::join!(one.exit_code(), moving);
    assert_eq!(code, Some(0), "{:?}", one.log());
    // The drained gateway leaves its rows with a last lease; nobody is to vanish when it has run out.
    let settled = eventually("only rows of the other gateway are left", async || {
        let rows = rows(&mut client).await;
        rows.len() == users.len() + 1 && rows.iter().all(|row| pod_of(row) == two_is)
    });
    settled.await;
    eprintln!("the rows had moved after {:?}", began.elapsed());
    // Whatever was told comes before what is typed now.
    bob.type_all(vec!["after".to_owned()]).await;
    assert_eq!((count(&bob, "user-left"), count(&bob, "user-joined")), (0, users.len()), "{:?}", bob.heard);
    for mover in &mut movers {
        mover.until("it has the edit", |mover| mover.text().contains("after")).await;
        assert_eq!((mover.closes.len(), count(mover, "user-left")), (1, 0), "{}: {:?}", mover.user, mover.heard);
    }
}

/// People in one document; those above `SOCKETS` are rows of a third pod.
const PEOPLE: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_people_are_in_one_document() {
    let sockets = std::env::var("COLLAB_TEST_SOCKETS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let flags = ["--accept-rate=5000"];
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    let mut rows = redis::pipe();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    for n in 0..PEOPLE - sockets {
        let row = json!({"connections": 1, "since": now, "name": format!("Far {n}")}).to_string();
        rows.hset("{doc:d}:presence", format!("00000000000000ff/far{n}"), row).ignore();
        if rows.len() == 500 {
            // The client of this test waits for an answer only half a second.
            std::mem::replace(&mut rows, redis::pipe()).exec_async(&mut client).await.unwrap();
        }
    }
    rows.set_ex("collab:pod:00000000000000ff", 1, 600).ignore();
    for n in 0..sockets {
        rows.set(format!("doc:d:access:near{n}"), "write").ignore();
    }
    rows.exec_async(&mut client).await.unwrap();
    let gateways = [Pod::start(&server.address(), &flags), Pod::start(&server.address(), &flags)];
    let began = Instant::now();
    let arrivals = (0..sockets).map(|n| {
        let mut editor = Editor::new(&format!("near{n}"), "d", &[gateways[n % 2].address], n as u64);
        tokio::spawn(async move {
            editor.until("it is in", Editor::is_joined).await;
            editor
        })
    });
    let mut editors = Vec::new();
    for arrived in arrivals.collect::<Vec<_>>() {
        editors.push(arrived.await.unwrap());
    }
    eprintln!("{sockets} people came in after {:?}", began.elapsed());
    // Everybody is counted, and the list is short.
    let mut last = Editor::new("near0", "d", &[gateways[1].address], 9);
    last.until("the last one counts all", |last| {
        last.joined.as_ref().is_some_and(|joined| joined["activeCount"] == PEOPLE) || count(last, "presence") > 0
    })
    .await;
    let joined = last.joined.clone().unwrap();
    assert!(joined["activeUsers"].as_array().unwrap().len() <= 100);
    let (heard, for_s) = (count(&editors[0], "presence"), began.elapsed().as_secs() as usize + 1);
    assert!(heard <= for_s && count(&editors[0], "user-joined") <= 100, "{heard} counts in {for_s} s");
    // The third pod dies: all of its people go in one step.
    client.del::<_, ()>("collab:pod:00000000000000ff").await.unwrap();
    let died = Instant::now();
    let is_small = |editor: &Editor| {
        let told = editor.heard.iter().rev().find(|(name, _)| name == "presence");
        told.is_some_and(|(_, payload)| payload["activeCount"].as_u64().unwrap() <= sockets as u64)
    };
    last.until("only those are left who are here", is_small).await;
    assert!(died.elapsed() < DEATH_MAX);
    eprintln!("{} rows of a dead pod were gone after {:?}", PEOPLE - sockets, died.elapsed());
    eventually("their rows are gone", async || client.hlen::<_, usize>("{doc:d}:presence").await.unwrap() == sockets)
        .await;
}
