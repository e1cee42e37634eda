//! How often the gateway asks the server: round trips of a join, and how many questions are under way at once.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
#[path = "pressure/proxy.rs"]
mod proxy;
mod servers;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use collab_gateway::store::{CATCH_UPS_MAX, Creation, RedisSettings, RedisStore, Store};
use editor::{Editor, Gateway};
use proxy::Proxy;
use servers::{Engine, Server, eventually, scripts};

/// Documents that ask at once.
const MANY: usize = 1_000;

/// A network so slow that nothing else takes time: each round trip is twice this.
const ONE_WAY: Duration = Duration::from_millis(250);

#[tokio::test]
async fn the_first_join_of_a_closed_document_costs_two_round_trips_on_redis() {
    first_join(Engine::Redis).await;
}

#[tokio::test]
async fn the_first_join_of_a_closed_document_costs_two_round_trips_on_valkey() {
    first_join(Engine::Valkey).await;
}

#[tokio::test]
async fn the_first_join_of_a_document_that_nobody_stored_costs_three_round_trips() {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    let new = [("doc:warm:access:ann", "write"), ("doc:cold:access:bob", "write"), ("doc:cold:content", "seed")];
    for (key, value) in new {
        redis::cmd("SET").arg(key).arg(value).exec_async(&mut client).await.unwrap();
    }
    let (bob, round_trips) = join_slowly(&server).await;
    assert_eq!(bob.text(), "seed");
    assert!((2.0..3.9).contains(&round_trips), "{round_trips} round trips");
}

async fn first_join(engine: Engine) {
    let Some(server) = Server::start(engine, &[]).await else { return };
    let mut client = server.client().await;
    for key in ["doc:warm:access:ann", "doc:cold:access:bob"] {
        redis::cmd("SET").arg(key).arg("write").exec_async(&mut client).await.unwrap();
    }
    let store = Store::Redis(RedisStore::new(server.settings()));
    store.create("cold", creation()).await.unwrap();
    let (_, round_trips) = join_slowly(&server).await;
    assert!((1.0..2.9).contains(&round_trips), "{round_trips} round trips");
}

/// Bob, who joined `cold` over a slow network, and how many round trips that took.
async fn join_slowly(server: &Server) -> (Editor, f64) {
    let proxy = Proxy::to(server.address()).await;
    let gateway = Gateway::start(&proxy.address).await;
    // Connections are made and scripts are loaded.
    let mut ann = Editor::new("ann", "warm", &[gateway.address], 1);
    ann.type_all(vec!["word".into()]).await;
    proxy.delay(ONE_WAY);
    let mut bob = Editor::new("bob", "cold", &[gateway.address], 2);
    let start = Instant::now();
    bob.until("the join is answered", Editor::is_joined).await;
    let round_trips = start.elapsed().as_secs_f64() / (2.0 * ONE_WAY.as_secs_f64());
    eprintln!("{round_trips:.2} round trips");
    (bob, round_trips)
}

#[tokio::test]
async fn documents_that_missed_something_ask_a_few_at_a_time() {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let proxy = Proxy::to(server.address()).await;
    let store = Store::Redis(RedisStore::new(Arc::new(RedisSettings::at(vec![proxy.address.clone()]))));
    let head = store.create("d", creation()).await.unwrap().head;
    store.catch_up("d", &head).await.unwrap();
    let mut client = server.client().await;
    let before = scripts(&mut client).await;
    proxy.hold_answers(true);
    let all: Vec<_> = (0..MANY)
        .map(|_| {
            let (store, head) = (store.clone(), head.clone());
            tokio::spawn(async move { store.catch_up("d", &head).await })
        })
        .collect();
    eventually("they ask", async || scripts(&mut client).await >= before + CATCH_UPS_MAX).await;
    for _ in 0..50 {
        assert_eq!(scripts(&mut client).await, before + CATCH_UPS_MAX, "the others wait for an answer");
    }
    proxy.hold_answers(false);
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(scripts(&mut client).await, before + MANY);
}

fn creation() -> Creation {
    Creation { root: format!("{:011x}", rand::random::<u64>() >> 20).into(), snapshot: None }
}
