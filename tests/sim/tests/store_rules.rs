//! The simulated store against the product's: random calls have to be answered alike by the model, by the embedded store
//! and by the scripts on a real Redis and a real Valkey. A script with a rule taken away has to be noticed.
//!
//! `SIM_SEED=7 cargo test -p sim --test store_rules` plays one sequence again.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../../../gateway/tests/servers/mod.rs"]
mod servers;
mod store_calls;

use collab_gateway::{
    bus::MemoryBus,
    store::{MemoryStore, RedisStore, Store},
};
use servers::{Engine, Server};
use sim::store::Rules;
use store_calls::{Backend, compare};

const SEQUENCES: u64 = 40;
/// Sequences within which a broken script has to show.
const WITHIN: u64 = 40;

#[tokio::test]
async fn the_embedded_store_answers_like_the_model() {
    for seed in seeds(SEQUENCES * 4) {
        let mut store = Backend::new(Store::Memory(MemoryStore::new(MemoryBus::default())), None);
        compare(seed, &Rules::default(), &mut store).await.unwrap();
    }
}

#[tokio::test]
async fn the_scripts_answer_like_the_model_on_redis() {
    against(Engine::Redis).await;
}

#[tokio::test]
async fn the_scripts_answer_like_the_model_on_valkey() {
    against(Engine::Valkey).await;
}

#[tokio::test]
async fn the_scripts_with_little_room_answer_like_the_model_on_redis() {
    against_with_little_room(Engine::Redis).await;
}

#[tokio::test]
async fn the_scripts_with_little_room_answer_like_the_model_on_valkey() {
    against_with_little_room(Engine::Valkey).await;
}

#[tokio::test]
async fn a_script_that_makes_no_room_is_noticed() {
    let server = Server::start(Engine::Redis, &["--appendfsync", "no"]).await.unwrap();
    let script = with_little_room(&commit_script().replace("then make_room() end", "then end"));
    assert_script_noticed(&server, &script, &little_room()).await;
}

#[tokio::test]
async fn a_script_that_appends_duplicates_is_noticed() {
    assert_noticed("if seq <= last then return 'd' .. version end", "").await;
}

#[tokio::test]
async fn a_script_that_takes_numbers_out_of_order_is_noticed() {
    assert_noticed("if seq > last + 1 then return 'g' .. int(last) end", "").await;
}

#[tokio::test]
async fn a_script_that_checks_bases_once_per_call_is_noticed() {
    assert_noticed("if base < meta.floor then", "if base < first_floor then").await;
}

#[tokio::test]
async fn a_script_that_lets_others_come_between_entries_made_on_each_other_is_noticed() {
    assert_noticed("before > head or base ~= meta.v", "base ~= meta.v").await;
    assert_noticed("before > head or base ~= meta.v", "before > head").await;
}

#[tokio::test]
async fn a_script_that_takes_any_head_is_noticed() {
    assert_noticed("or hash_at(meta, log_key, head) ~= head_hash", "").await;
}

#[tokio::test]
async fn a_script_that_takes_other_users_clients_is_noticed() {
    assert_noticed("if row_owner ~= owner then", "if false then").await;
}

#[tokio::test]
async fn a_script_that_forgets_the_pods_floor_is_noticed() {
    assert_noticed("math.min(pod_floor, meta.v - 1)", "0").await;
}

async fn against(engine: Engine) {
    let Some(server) = Server::start(engine, &["--appendfsync", "no"]).await else { return };
    let store = Store::Redis(RedisStore::new(server.settings()));
    for seed in seeds(SEQUENCES) {
        let mut backend = Backend::new(store.clone(), Some(server.client().await));
        compare(seed, &Rules::default(), &mut backend).await.unwrap();
    }
}

/// The same with tables of clients that a few fill.
async fn against_with_little_room(engine: Engine) {
    let Some(server) = Server::start(engine, &["--appendfsync", "no"]).await else { return };
    let store = Store::Redis(RedisStore::new(server.settings()));
    let script = with_little_room(&commit_script());
    for seed in seeds(SEQUENCES) {
        let mut backend = Backend::new(store.clone(), Some(server.client().await)).with_commit_script(&script);
        compare(seed, &little_room(), &mut backend).await.unwrap();
    }
}

fn little_room() -> Rules {
    Rules { clients: 7, numbered: 3, ..Rules::default() }
}

fn with_little_room(script: &str) -> String {
    let Rules { clients, numbered, .. } = little_room();
    let bounds = [("CLIENTS_MAX = 20000", "CLIENTS_MAX", clients), ("NUMBERED_MAX = 1000", "NUMBERED_MAX", numbered)];
    bounds.iter().fold(script.to_owned(), |script, (bound, name, most)| {
        assert!(script.contains(bound), "the script has no `{bound}` any more");
        script.replace(bound, &format!("{name} = {most}"))
    })
}

fn commit_script() -> String {
    const COMMON: &str = include_str!("../../../gateway/src/store/common.lua");
    const COMMIT: &str = include_str!("../../../gateway/src/store/commit.lua");
    format!("{COMMON}\n{COMMIT}")
}

/// Plays against the commit script with this part of it replaced.
async fn assert_noticed(part: &str, by: &str) {
    let commit = commit_script();
    assert!(commit.contains(part), "the script has no `{part}` any more");
    // What a mutation may want to know: the floor when the call began.
    let with_floor = commit.replace("local verdicts = {}", "first_floor = meta.floor\nlocal verdicts = {}");
    let script = format!("local first_floor = 0\n{}", with_floor.replace(part, by));
    let server = Server::start(Engine::Redis, &["--appendfsync", "no"]).await.unwrap();
    assert_script_noticed(&server, &script, &Rules::default()).await;
}

async fn assert_script_noticed(server: &Server, script: &str, rules: &Rules) {
    let store = Store::Redis(RedisStore::new(server.settings()));
    for seed in 1..=WITHIN {
        let mut backend = Backend::new(store.clone(), Some(server.client().await)).with_commit_script(script);
        if let Err(wrong) = compare(seed, rules, &mut backend).await {
            println!("after {seed} sequences: {wrong:.400}");
            return;
        }
    }
    panic!("no sequence notices");
}

fn seeds(count: u64) -> std::ops::RangeInclusive<u64> {
    match std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..=seed,
        None => 1..=count,
    }
}
