//! Webhooks that are slow, broken or away while many come at once: how much they are asked, what the metrics tell, and who
//! stays for how long.

use std::time::{Duration, Instant};

use collab_gateway::{
    bus::{Bus, CHANGED_CHANNEL, MemoryBus},
    directory::Trust,
    store::MemoryStore,
};
use futures_util::future::join_all;
use serde_json::json;

use crate::{
    harness::{Client, Gateway, sign, token, until},
    web::Web,
};

/// Requests to one webhook at once, as the gateway promises.
const REQUESTS_MAX: usize = 64;

async fn gateway(web: &Web) -> (Gateway, Bus) {
    let bus = MemoryBus::default();
    let store = MemoryStore::new(bus.clone());
    let url = web.url("");
    let flags = ["--user-directory-url", &url, "--access-url", &url, "--accept-rate", "100000"];
    // Hours of heartbeats are not what this is about.
    let flags = [&flags[..], &["--ping-interval", "10h"]].concat();
    let gateway = Gateway::over(store, bus.clone(), Trust::Keys, &flags).await;
    (gateway, Bus::Memory(bus))
}

async fn knock(gateway: &Gateway, user_id: &str) -> Client {
    let mut client = Client::upgraded(gateway).await;
    client.send(&format!("40{}", json!({"token": token(user_id)}))).await;
    client
}

fn knows(web: &Web, user_id: &str) {
    web.says(&format!("/users/{user_id}"), 200, json!({"name": user_id}).to_string());
}

/// The value of a metric as it is scraped, 0 before it was counted first.
fn scraped(gateway: &Gateway, name: &str) -> u64 {
    let text = gateway.server.pod().metrics.text();
    let value =
        text.lines().find_map(|line| line.strip_prefix("collab_gateway_")?.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

fn requests(gateway: &Gateway, hook: &str, outcome: &str) -> u64 {
    scraped(gateway, &format!("webhook_requests_total{{hook=\"{hook}\",outcome=\"{outcome}\"}}"))
}

/// Time goes on by so much, here and in the gateway.
async fn skip(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

async fn all_turns_are_taken(web: &Web) {
    until("all turns are taken", || web.most_at_once() >= REQUESTS_MAX).await;
}

#[tokio::test]
async fn five_hundred_users_at_once_get_in_with_one_request_each_and_never_more_than_sixty_four_under_way() {
    const USERS: usize = 500;
    let web = Web::start().await;
    let (gateway, _bus) = gateway(&web).await;
    let users: Vec<_> = (0..USERS).map(|number| format!("u{number}")).collect();
    for user in &users {
        knows(&web, user);
    }
    web.hang(true);
    // Everybody has two tabs, and all of them knock in one moment.
    let tabs: Vec<_> = users.iter().flat_map(|user| [user, user]).collect();
    let mut clients = join_all(tabs.iter().map(|_| Client::upgraded(&gateway))).await;
    for (client, user) in clients.iter_mut().zip(&tabs) {
        client.send(&format!("40{}", json!({"token": token(user)}))).await;
    }
    all_turns_are_taken(&web).await;
    // Slowly enough for those who wait to come together with what is under way.
    web.takes(Duration::from_millis(100));
    web.hang(false);
    for client in &mut clients {
        let answer = client.text().await;
        assert!(answer.starts_with("40{"), "{answer}");
    }
    // Once more where a busy machine made it too late, which the web may not have noticed yet.
    let late = requests(&gateway, "users", "late");
    let most = web.most_at_once() as u64;
    assert!(most <= REQUESTS_MAX as u64 + late, "{most} at once, {late} late");
    assert_eq!(web.asked_at_all() as u64, USERS as u64 + late);
    assert_eq!(requests(&gateway, "users", "found"), USERS as u64);
}

#[tokio::test]
async fn a_webhook_that_hangs_under_a_storm_is_not_asked_more_and_everybody_is_told_to_come_back() {
    let web = Web::start().await;
    let (gateway, _bus) = gateway(&web).await;
    web.hang(true);
    let started = Instant::now();
    let mut clients = join_all((0..400).map(async |number| knock(&gateway, &format!("u{number}")).await)).await;
    for client in &mut clients {
        assert_eq!(client.close_code().await, Some(1013));
    }
    let took = started.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(16)).contains(&took), "{took:?}");
    // One that was given up here may not have noticed yet there.
    assert!(web.most_at_once() <= 2 * REQUESTS_MAX, "{}", web.most_at_once());
    for outcome in ["late", "crowded", "given_up"] {
        assert!(requests(&gateway, "users", outcome) > 0, "{outcome}: {}", gateway.server.pod().metrics.text());
    }
    assert_eq!(scraped(&gateway, "connects_waiting"), 0);
    assert_eq!(scraped(&gateway, "connections_refused_total{reason=\"store_unavailable\"}"), 400);
    // It is well again.
    knows(&web, "ann");
    web.hang(false);
    assert!(knock(&gateway, "ann").await.text().await.starts_with("40{"));
}

#[tokio::test]
async fn joins_that_wait_for_a_webhook_that_hangs_are_put_off_and_nobody_who_is_known_waits_with_them() {
    const JOINS: usize = 100;
    let web = Web::start().await;
    let (gateway, _bus) = gateway(&web).await;
    let users: Vec<_> = (0..JOINS).map(|number| format!("u{number}")).collect();
    for user in users.iter().map(String::as_str).chain(["ann"]) {
        knows(&web, user);
    }
    web.says("/documents/d/access/ann", 200, "write");
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let mut clients = join_all(users.iter().map(|user| Client::connected(&gateway, user, user))).await;
    web.hang(true);
    let started = Instant::now();
    for client in &mut clients {
        client.send(r#"427["join-document","d"]"#).await;
    }
    // Ann writes, and comes in with a second tab, while all turns at the webhook are taken.
    all_turns_are_taken(&web).await;
    let asked = web.asked("/documents/d/access/ann");
    let edit = json!({"documentId": "d", "version": 0, "ops": [{"insert": "x"}]});
    assert_eq!(ann.ask("edit", edit).await, json!({"version": 1}));
    let (mut tab, joined) = Client::joined(&gateway, "ann", "a2", "d").await;
    assert_eq!((&joined["role"], &joined["content"]), (&json!("write"), &json!("x")));
    assert_eq!(web.asked("/documents/d/access/ann"), asked);
    assert!(started.elapsed() < Duration::from_secs(6), "before anybody is put off: {:?}", started.elapsed());
    for client in &mut clients {
        let error = client.answer(7).await["error"].clone();
        assert_eq!(error["code"], "STORE_UNAVAILABLE", "{error}");
        assert!(error["retryAfterMs"].is_u64(), "{error}");
    }
    let took = started.elapsed();
    assert!((Duration::from_secs(7)..Duration::from_secs(16)).contains(&took), "{took:?}");
    assert!(web.most_at_once() <= 2 * REQUESTS_MAX, "{}", web.most_at_once());
    // It is well again, and all turns are free.
    for user in &users {
        web.says(&format!("/documents/d/access/{user}"), 200, "read");
    }
    web.hang(false);
    for client in &mut clients {
        assert_eq!(client.join(json!("d")).await["role"], "read");
    }
    assert!(tab.ask("leave-document", json!("d")).await["error"].is_null());
}

#[tokio::test]
async fn the_metrics_tell_what_became_of_each_request_to_a_webhook() {
    let web = Web::start().await;
    let (gateway, _bus) = gateway(&web).await;
    for (user, status, body, outcome) in
        [("a", 500, "", "status"), ("b", 200, "no user", "unreadable"), ("c", 200, r#"{"id":"x"}"#, "unreadable")]
    {
        let before = requests(&gateway, "users", outcome);
        web.says(&format!("/users/{user}"), status, body);
        let mut client = knock(&gateway, user).await;
        web.until_asked(&format!("/users/{user}"), 2).await;
        assert!(requests(&gateway, "users", outcome) > before, "{outcome}");
        knows(&web, user);
        assert!(client.text().await.starts_with("40{"));
    }
    assert_eq!(requests(&gateway, "users", "found"), 3);
    assert!(knock(&gateway, "nobody").await.text().await.contains("USER_NOT_FOUND"));
    assert_eq!(requests(&gateway, "users", "not_found"), 1);
    web.says("/documents/d/access/a", 200, "write");
    let (mut client, _) = Client::joined(&gateway, "a", "a1", "d").await;
    assert_eq!(client.ask("join-document", json!("e")).await["error"]["code"], "ACCESS_DENIED");
    assert_eq!((requests(&gateway, "access", "found"), requests(&gateway, "access", "not_found")), (1, 1));
    let answered = scraped(&gateway, "webhook_seconds_count");
    assert_eq!(answered, web.asked_at_all() as u64);
}

#[tokio::test]
async fn requests_that_reach_nobody_are_counted_as_failed() {
    let web = Web::start().await;
    let (gateway, _bus) = gateway(&web).await;
    let address = web.address;
    drop(web);
    let mut client = knock(&gateway, "ann").await;
    until("it failed twice", || requests(&gateway, "users", "failed") >= 2).await;
    let web = Web::listen(tokio::net::TcpListener::bind(address).await.unwrap());
    knows(&web, "ann");
    assert!(client.text().await.starts_with("40{"));
}

#[tokio::test]
async fn after_anything_changed_and_with_the_webhook_away_people_stay_for_a_minute_and_no_longer() {
    let web = Web::start().await;
    let (gateway, bus) = gateway(&web).await;
    for user in ["ann", "bob"] {
        knows(&web, user);
        web.says(&format!("/documents/d/access/{user}"), 200, "write");
    }
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    drop(Client::joined(&gateway, "bob", "b1", "d").await);
    for user in ["ann", "bob"] {
        web.says(&format!("/documents/d/access/{user}"), 500, "");
    }
    let asked = web.asked("/documents/d/access/ann");
    bus.publish(CHANGED_CHANNEL, "{}".into());
    // Asked again at once, several times.
    web.until_asked("/documents/d/access/ann", asked + 3).await;
    let edit = json!({"documentId": "d", "version": 0, "ops": [{"insert": "x"}]});
    assert_eq!(ann.ask("edit", edit).await, json!({"version": 1}));
    // Whoever was in before gets in again, by what is remembered.
    let mut bob = Client::connected(&gateway, "bob", "b1").await;
    assert_eq!(bob.join(json!("d")).await["content"], "x");
    skip(Duration::from_secs(61)).await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.close_code().await, Some(1013));
    }
    // They come back, and wait outside for somebody who can tell.
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    let error = ann.ask("join-document", json!("d")).await["error"].clone();
    assert_eq!(error["code"], "STORE_UNAVAILABLE", "{error}");
    web.says("/documents/d/access/ann", 200, "read");
    assert_eq!(ann.join(json!("d")).await["role"], "read");
    web.says("/documents/d/access/bob", 404, "");
    let mut bob = Client::connected(&gateway, "bob", "b1").await;
    assert_eq!(bob.ask("join-document", json!("d")).await["error"]["code"], "ACCESS_DENIED");
}

#[tokio::test]
async fn with_the_webhook_away_and_nothing_said_nobody_is_let_go() {
    let web = Web::start().await;
    let (gateway, _bus) = gateway(&web).await;
    knows(&web, "ann");
    let access = "/documents/d/access/ann";
    web.says(access, 200, "write");
    let mut ann = Client::upgraded(&gateway).await;
    // Not the token is what ends it.
    let token = sign(&json!({"sub": "ann", "exp": 4_000_000_000_u64}));
    ann.send(&format!("40{}", json!({"token": token}))).await;
    assert!(ann.text().await.starts_with("40{"));
    ann.join(json!("d")).await;
    web.says(access, 500, "");
    for hours in 1..=3_u64 {
        let asked = web.asked(access);
        skip(Duration::from_secs(3600)).await;
        web.until_asked(access, asked + 1).await;
        let edit = json!({"documentId": "d", "version": hours - 1, "ops": [{"insert": "x"}]});
        assert_eq!(ann.ask("edit", edit).await, json!({"version": hours}));
    }
    skip(Duration::from_secs(24 * 3600)).await;
    assert_eq!(ann.close_code().await, Some(1013), "a day is the longest that anybody is believed");
}

#[tokio::test]
async fn whoever_was_named_by_a_change_cannot_stay_by_joining_again_and_again() {
    let web = Web::start().await;
    let (gateway, bus) = gateway(&web).await;
    knows(&web, "bob");
    let access = "/documents/d/access/bob";
    web.says(access, 200, "write");
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    web.says(access, 500, "");
    let started = Instant::now();
    bus.publish(CHANGED_CHANNEL, r#"{"documentId":"d","userId":"bob"}"#.into());
    web.until_asked(access, 2).await;
    bob.send(r#"427["join-document","d"]"#).await;
    assert_eq!(bob.close_code().await, Some(1013));
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_change_that_is_said_is_read_at_once_though_an_earlier_read_waits_for_its_next_attempt() {
    let web = Web::start().await;
    let (gateway, bus) = gateway(&web).await;
    knows(&web, "bob");
    let access = "/documents/d/access/bob";
    web.says(access, 200, "write");
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    web.says(access, 500, "");
    let asked = web.asked(access);
    skip(Duration::from_secs(60)).await;
    // Seven attempts of the first read and one of each further one: then the next is seconds away.
    while web.asked(access) < asked + 11 {
        skip(Duration::from_millis(50)).await;
        tokio::task::yield_now().await;
    }
    web.says(access, 404, "");
    let started = Instant::now();
    bus.publish(CHANGED_CHANNEL, r#"{"documentId":"d","userId":"bob"}"#.into());
    assert_eq!(bob.event("access-changed").await["role"], json!(null));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn whoever_is_named_by_a_change_is_let_go_in_time_though_an_earlier_read_hangs() {
    let web = Web::start().await;
    let (gateway, bus) = gateway(&web).await;
    knows(&web, "bob");
    let access = "/documents/d/access/bob";
    web.says(access, 200, "write");
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    web.hang(true);
    let asked = web.asked(access);
    skip(Duration::from_secs(60)).await;
    web.until_asked(access, asked + 1).await;
    let started = Instant::now();
    bus.publish(CHANGED_CHANNEL, r#"{"documentId":"d","userId":"bob"}"#.into());
    assert_eq!(bob.close_code().await, Some(1013));
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

#[tokio::test]
async fn changes_of_others_do_not_keep_an_access_from_being_read() {
    let web = Web::start().await;
    let (gateway, bus) = gateway(&web).await;
    for user in ["ann", "bob"] {
        knows(&web, user);
        web.says(&format!("/documents/d/access/{user}"), 200, "write");
    }
    let (_ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let (mut bob, _) = Client::joined(&gateway, "bob", "b1", "d").await;
    // Each answer takes longer than it takes until the next change is said.
    web.takes(Duration::from_millis(200));
    let others = bus.clone();
    let saying = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for number in 0.. {
            ticks.tick().await;
            let user = if number % 2 == 0 { "ann".to_owned() } else { format!("u{number}") };
            others.publish(CHANGED_CHANNEL, json!({"userId": user}).to_string().into());
        }
    });
    web.says("/documents/d/access/bob", 200, "read");
    bus.publish(CHANGED_CHANNEL, r#"{"documentId":"d","userId":"bob"}"#.into());
    assert_eq!(bob.event("access-changed").await["role"], "read");
    saying.abort();
}

#[tokio::test]
async fn every_user_who_is_named_is_looked_at_however_many_are() {
    const USERS: usize = 300;
    let web = Web::start().await;
    let (gateway, bus) = gateway(&web).await;
    let users: Vec<_> = (0..USERS).map(|number| format!("u{number}")).collect();
    for user in &users {
        knows(&web, user);
    }
    let mut clients = join_all(users.iter().map(|user| Client::connected(&gateway, user, user))).await;
    for user in &users {
        web.says(&format!("/users/{user}"), 404, "");
    }
    web.hang(true);
    let asked = web.asked_at_all();
    for user in &users {
        bus.publish(CHANGED_CHANNEL, json!({"userId": user}).to_string().into());
    }
    until("they are asked for", || web.asked_at_all() > asked).await;
    web.hang(false);
    let started = Instant::now();
    for client in &mut clients {
        assert_eq!(client.close_code().await, Some(1008));
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}
