//! Tokens that a public key verifies: from a file, and from a key set that is fetched.

use std::time::{Duration, Instant};

use collab_gateway::directory::Trust;
use serde_json::{Value, json};

use crate::{
    harness::{Client, Gateway},
    signers::{FAR, Signer, key_set},
    web::Web,
};

const SET: &str = "/jwks.json";

async fn with_set(web: &Web) -> Gateway {
    Gateway::start(Trust::Everything, &["--jwks-url", &web.url(SET)]).await
}

/// What CONNECT with this token is answered.
async fn answer(gateway: &Gateway, token: &str) -> String {
    let mut client = Client::upgraded(gateway).await;
    client.send(&format!("40{}", json!({"token": token}))).await;
    client.text().await
}

fn is_in(answer: &str) -> bool {
    answer.starts_with("40{\"sid\":")
}

#[tokio::test]
async fn keys_of_a_file_verify_and_a_file_that_changes_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("public.pem");
    let (old, new) = (Signer::ec(), Signer::ed());
    std::fs::write(&file, &old.public_pem).unwrap();
    let gateway = Gateway::start(Trust::Everything, &["--jwt-public-key-file", file.to_str().unwrap()]).await;
    assert!(is_in(&answer(&gateway, &old.token("u1")).await));
    assert!(answer(&gateway, &new.token("u1")).await.contains("TOKEN_INVALID"));
    // What cannot be read changes nothing.
    std::fs::write(&file, "half a ke").unwrap();
    assert!(is_in(&answer(&gateway, &old.token("u2")).await));
    std::fs::write(&file, &new.public_pem).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_in(&answer(&gateway, &new.token("u1")).await) {
        assert!(Instant::now() < deadline, "the new key is not taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It was verified a moment ago, by a key that is gone.
    assert!(answer(&gateway, &old.token("u1")).await.contains("TOKEN_INVALID"));
}

#[tokio::test]
async fn a_token_waits_for_the_first_key_set_and_then_gets_in() {
    let web = Web::start().await;
    let signer = Signer::rsa(2048).called("k1");
    web.says(SET, 503, "not yet");
    let gateway = with_set(&web).await;
    let mut client = Client::upgraded(&gateway).await;
    client.send(&format!("40{}", json!({"token": signer.token("u1")}))).await;
    web.until_asked(SET, 2).await;
    web.says(SET, 200, key_set(&[&signer]));
    assert!(is_in(&client.text().await));
    // Now a stranger's token is a stranger's.
    let stranger = Signer::rsa(2048).called("k1");
    assert!(answer(&gateway, &stranger.token("u1")).await.contains("TOKEN_INVALID"));
}

#[tokio::test]
async fn a_token_with_a_new_key_makes_the_set_be_fetched_once_for_all_who_bring_it() {
    let web = Web::start().await;
    let (old, new) = (Signer::ec().called("old"), Signer::ed().called("new"));
    web.says(SET, 200, key_set(&[&old]));
    let gateway = with_set(&web).await;
    assert!(is_in(&answer(&gateway, &old.token("u1")).await));
    web.says(SET, 200, key_set(&[&new]));
    let tokens: Vec<_> = (0..20).map(|user| new.token(&format!("u{user}"))).collect();
    let answers = futures_util::future::join_all(tokens.iter().map(|token| answer(&gateway, token))).await;
    assert!(answers.iter().all(|answer| is_in(answer)), "{answers:?}");
    assert_eq!(web.asked(SET), 2, "one fetch at the start, one for all of them");
    assert!(answer(&gateway, &old.token("u1")).await.contains("TOKEN_INVALID"), "a key that the set has dropped");
}

#[tokio::test]
async fn strangers_with_random_keys_do_not_make_the_set_be_fetched_more_often() {
    let web = Web::start().await;
    let known = Signer::ec().called("known");
    web.says(SET, 200, key_set(&[&known]));
    let gateway = with_set(&web).await;
    assert!(is_in(&answer(&gateway, &known.token("u1")).await));
    let first = Signer::ed().called("stranger");
    assert!(answer(&gateway, &first.token("u1")).await.contains("TOKEN_INVALID"));
    let fetches = web.asked(SET);
    // Remembered: no fetch, no wait.
    assert!(answer(&gateway, &first.token("u2")).await.contains("TOKEN_INVALID"));
    assert_eq!(web.asked(SET), fetches);
    let mut held = Vec::new();
    for number in 0..100 {
        let mut client = Client::upgraded(&gateway).await;
        let token = Signer::ed().called(&format!("k{number}")).token("u1");
        client.send(&format!("40{}", json!({"token": token}))).await;
        held.push(client);
    }
    for client in &mut held {
        assert!(client.text().await.contains("TOKEN_INVALID"));
    }
    assert!(web.asked(SET) <= fetches + 2, "{} fetches", web.asked(SET));
    assert!(is_in(&answer(&gateway, &known.token("u1")).await));
}

#[tokio::test]
async fn keys_stay_when_the_set_cannot_be_fetched_or_is_none() {
    let web = Web::start().await;
    let signer = Signer::ec().called("k1");
    web.says(SET, 200, key_set(&[&signer]));
    let gateway = with_set(&web).await;
    assert!(is_in(&answer(&gateway, &signer.token("u1")).await));
    let large = json!({"keys": [signer.jwk()], "rest": "x".repeat(300 << 10)}).to_string();
    for (status, body) in
        [(500, String::new()), (302, key_set(&[])), (200, "<html>".to_owned()), (200, key_set(&[])), (200, large)]
    {
        let before = web.asked(SET);
        web.says(SET, status, body);
        // Something asks for the set; nobody says that its token is bad while nobody can know.
        let mut client = Client::upgraded(&gateway).await;
        let token = Signer::ec().called(&format!("after{before}")).token("u1");
        client.send(&format!("40{}", json!({"token": token}))).await;
        web.until_asked(SET, before + 1).await;
        assert!(is_in(&answer(&gateway, &signer.token("u1")).await), "{status}");
    }
}

#[tokio::test]
async fn a_connect_that_nobody_can_judge_is_held_and_closed_so_that_clients_come_back() {
    let web = Web::start().await;
    let gateway = with_set(&web).await;
    let started = Instant::now();
    let mut client = Client::upgraded(&gateway).await;
    client.send(&format!("40{}", json!({"token": Signer::ec().token("u1")}))).await;
    // Secrets do not wait for the set.
    Client::connected(&gateway, "u2", "c2").await;
    let mut unsigned = Client::upgraded(&gateway).await;
    unsigned.send("40{\"token\":\"eyJhbGciOiJub25lIn0.e30.\"}").await;
    assert!(unsigned.text().await.contains("TOKEN_INVALID"));
    assert_eq!(client.close_code().await, Some(1013));
    assert!(started.elapsed() >= Duration::from_secs(8));
    let metrics = gateway.server.pod().metrics.text();
    for line in
        ["connects_held_total 1", "connects_waiting 0", "connections_refused_total{reason=\"keys_unavailable\"} 1"]
    {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
}

#[tokio::test]
async fn a_key_set_that_hangs_is_asked_once_at_a_time_and_holds_only_tokens_of_unknown_keys() {
    const HELD: usize = 50;
    let web = Web::start().await;
    let (old, new) = (Signer::ec().called("old"), Signer::ed().called("new"));
    web.says(SET, 200, key_set(&[&old]));
    let gateway = with_set(&web).await;
    assert!(is_in(&answer(&gateway, &old.token("u1")).await));
    web.says(SET, 200, key_set(&[&old, &new]));
    web.hang(true);
    let asked = web.asked(SET);
    let started = Instant::now();
    let mut held = Vec::new();
    for user in 0..HELD {
        let mut client = Client::upgraded(&gateway).await;
        client.send(&format!("40{}", json!({"token": new.token(&format!("u{user}"))}))).await;
        held.push(client);
    }
    web.until_asked(SET, asked + 1).await;
    // Whose key is known is verified without the set, those seen before and others.
    for user in ["u1", "u2"] {
        assert!(is_in(&answer(&gateway, &old.token(user)).await));
    }
    Client::connected(&gateway, "u3", "c3").await;
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    for client in &mut held {
        assert_eq!(client.close_code().await, Some(1013));
    }
    let took = started.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(16)).contains(&took), "{took:?}");
    // One that was given up here may not have noticed yet there.
    assert!(web.most_at_once() <= 2, "{}", web.most_at_once());
    assert_eq!(gateway.refused("keys_unavailable"), HELD as u64);
    assert!(gateway.server.pod().metrics.text().contains("connects_waiting 0"));
    // It is well again, and so are they.
    web.hang(false);
    assert!(is_in(&answer(&gateway, &new.token("u1")).await));
}

#[tokio::test]
async fn tokens_of_any_size_and_kind_are_refused_and_the_connection_stays() {
    let gateway = Gateway::alone().await;
    assert!(answer(&gateway, &"x".repeat(20_000)).await.contains("TOKEN_INVALID"));
    let mut client = Client::connected(&gateway, "u1", "c1").await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    // A bad token, and what is no token at all, or none that is ever read.
    let bad = ["a.b.c", "", "\u{0}"].map(|token| (json!(token), "TOKEN_INVALID"));
    let none = [json!("x".repeat(1 << 20)), json!(7), json!(null), json!([])].map(|token| (token, "BAD_REQUEST"));
    for (token, code) in bad.into_iter().chain(none) {
        let answer = client.ask("token-refresh", json!({"token": token})).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    client.send(&format!("4299[\"token-refresh\",{{\"token\":{deep}}}]")).await;
    assert_eq!(client.answer(99).await["error"]["code"], "BAD_REQUEST");
    assert!(client.join(json!("d")).await["version"].is_u64());
}

#[tokio::test]
async fn a_token_is_refreshed_by_any_key_of_the_same_user() {
    let web = Web::start().await;
    let signer = Signer::ed().called("k1");
    web.says(SET, 200, key_set(&[&signer]));
    let gateway = with_set(&web).await;
    let mut client = Client::connected(&gateway, "u1", "c1").await;
    let refresh = |token: String| json!({"token": token});
    assert_eq!(client.ask("token-refresh", refresh(signer.token("u1"))).await, json!({"expiresAt": FAR * 1000}));
    for (token, code) in [
        (signer.token("u2"), "TOKEN_INVALID"),
        (signer.sign(&json!({"sub": "u1", "exp": 1})), "TOKEN_EXPIRED"),
        (Signer::ed().called("k1").token("u1"), "TOKEN_INVALID"),
    ] {
        let answer: Value = client.ask("token-refresh", refresh(token)).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
}

#[tokio::test]
async fn the_metrics_tell_what_became_of_each_fetch_of_the_key_set() {
    let web = Web::start().await;
    let signer = Signer::ec().called("k1");
    web.says(SET, 500, "");
    let gateway = with_set(&web).await;
    let fetches = |outcome: &str| {
        let line = format!("collab_gateway_key_set_fetches_total{{outcome=\"{outcome}\"}} ");
        let text = gateway.server.pod().metrics.text();
        text.lines().find_map(|text| text.strip_prefix(&line)?.parse::<u64>().ok()).unwrap_or(0)
    };
    web.until_asked(SET, 2).await;
    assert!(fetches("failed") >= 1);
    assert_eq!((fetches("changed"), fetches("unchanged")), (0, 0));
    web.says(SET, 200, key_set(&[&signer]));
    assert!(is_in(&answer(&gateway, &signer.token("u1")).await));
    assert_eq!((fetches("changed"), fetches("unchanged")), (1, 0));
    let failed = fetches("failed");
    let stranger = Signer::ec().called("stranger");
    assert!(answer(&gateway, &stranger.token("u1")).await.contains("TOKEN_INVALID"));
    assert_eq!((fetches("changed"), fetches("unchanged"), fetches("failed")), (1, 1, failed));
}

#[tokio::test]
async fn a_key_with_a_name_that_no_key_can_have_is_refused_at_once_and_not_remembered() {
    let web = Web::start().await;
    let known = Signer::ec().called("known");
    web.says(SET, 200, key_set(&[&known]));
    let gateway = with_set(&web).await;
    assert!(is_in(&answer(&gateway, &known.token("u1")).await));
    let fetches = web.asked(SET);
    let stranger = Signer::ed().called(&"k".repeat(257));
    assert!(answer(&gateway, &stranger.token("u1")).await.contains("TOKEN_INVALID"));
    assert_eq!(web.asked(SET), fetches);
}
