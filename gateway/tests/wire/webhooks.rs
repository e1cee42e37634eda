//! Users and accesses that the application's webhooks tell, over real HTTP: cached, asked once for many, forgotten when
//! told, and never mistaken for a no.

use std::time::{Duration, Instant};

use collab_gateway::{
    admin,
    bus::{Bus, CHANGED_CHANNEL, MemoryBus},
    directory::Trust,
    store::MemoryStore,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    harness::{Client, Gateway, token, until},
    web::Web,
};

struct Stage {
    web: Web,
    gateway: Gateway,
    bus: Bus,
}

/// A gateway with both webhooks, at a path of the application's; ann may write document d.
async fn stage() -> Stage {
    let web = Web::start().await;
    let bus = MemoryBus::default();
    let store = MemoryStore::new(bus.clone());
    let url = web.url("/hooks/");
    let flags = ["--user-directory-url", &url, "--access-url", &url];
    let gateway = Gateway::over(store, bus.clone(), Trust::Keys, &flags).await;
    web.says("/hooks/users/ann", 200, r#"{"id":"ann","name":"Ann","avatar":"a.png"}"#);
    web.says("/hooks/documents/d/access/ann", 200, r#"{"role":"write"}"#);
    Stage { web, gateway, bus: Bus::Memory(bus) }
}

impl Stage {
    fn changed(&self, what: &Value) {
        self.bus.publish(CHANGED_CHANNEL, what.to_string().into());
    }

    /// What CONNECT of this user is answered.
    async fn answer(&self, user_id: &str) -> String {
        let mut client = self.knock(user_id).await;
        client.text().await
    }

    async fn knock(&self, user_id: &str) -> Client {
        let mut client = Client::upgraded(&self.gateway).await;
        client.send(&format!("40{}", json!({"token": token(user_id)}))).await;
        client
    }
}

fn insert(version: u64, text: &str) -> Value {
    json!({"documentId": "d", "version": version, "ops": [{"insert": text}]})
}

#[tokio::test]
async fn users_and_roles_are_what_the_webhooks_say() {
    let stage = stage().await;
    let (web, gateway) = (&stage.web, &stage.gateway);
    for (user, body) in [("a/b?c", r#"{"name":"Slash"}"#), ("42", r#"{"id":42,"name":"Number"}"#)] {
        web.says(&format!("/hooks/users/{}", user.replace('/', "%2F").replace('?', "%3F")), 200, body);
    }
    web.says("/hooks/documents/d/access/a%2Fb%3Fc", 200, "read");
    web.says("/hooks/documents/d/access/42", 200, r#"{"role":"comment"}"#);
    let (_ann, joined) = Client::joined(gateway, "ann", "a1", "d").await;
    assert_eq!(joined["role"], "write");
    let (_slash, joined) = Client::joined(gateway, "a/b?c", "s1", "d").await;
    assert_eq!(joined["role"], "read");
    let (mut number, joined) = Client::joined(gateway, "42", "n1", "d").await;
    assert_eq!(joined["role"], "comment");
    let ann = joined["activeUsers"].as_array().unwrap().iter().find(|user| user["id"] == "ann").unwrap();
    assert_eq!((&ann["name"], &ann["avatar"]), (&json!("Ann"), &json!("a.png")));
    assert_eq!(number.ask("edit", insert(0, "x")).await["error"]["code"], "READ_ONLY");
    // Not known to the webhook: statements about them.
    assert!(stage.answer("nobody").await.contains("USER_NOT_FOUND"));
    assert_eq!(number.ask("join-document", json!("secret")).await["error"]["code"], "ACCESS_DENIED");
    // A path that would mean another one is never asked for.
    let asked = web.asked_at_all();
    assert_eq!(number.ask("join-document", json!("..")).await["error"]["code"], "ACCESS_DENIED");
    assert!(stage.answer("..").await.contains("USER_NOT_FOUND"));
    assert_eq!(web.asked_at_all(), asked);
}

#[tokio::test]
async fn many_who_want_to_know_the_same_ask_once() {
    let stage = stage().await;
    stage.web.hang(true);
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(stage.knock("ann").await);
    }
    stage.web.until_asked("/hooks/users/ann", 1).await;
    stage.web.hang(false);
    for client in &mut clients {
        assert!(client.text().await.starts_with("40{"));
        client.send(r#"427["join-document","d"]"#).await;
    }
    for client in &mut clients {
        client.event("document-joined").await;
    }
    assert_eq!(stage.web.asked("/hooks/users/ann"), 1);
    assert_eq!(stage.web.asked("/hooks/documents/d/access/ann"), 1);
}

#[tokio::test]
async fn trouble_of_the_webhook_is_never_a_no() {
    let stage = stage().await;
    let troubles = [
        (500, ""),
        (403, ""),
        (302, ""),
        (204, ""),
        (200, "<html>please sign in</html>"),
        (200, r#"{"id":"bob","name":"Bob"}"#),
        (200, "[]"),
    ];
    for (number, (status, body)) in troubles.into_iter().enumerate() {
        let (user, path) = (format!("cid{number}"), format!("/hooks/users/cid{number}"));
        stage.web.says(&path, status, body);
        let mut client = stage.knock(&user).await;
        stage.web.until_asked(&path, 2).await;
        stage.web.says(&path, 200, r#"{"name":"Cid"}"#);
        assert!(client.text().await.starts_with("40{"), "{status} {body}");
    }
    let (mut ann, _) = Client::joined(&stage.gateway, "ann", "a1", "d").await;
    stage.web.says("/hooks/documents/e/access/ann", 503, "");
    let started = Instant::now();
    let error = ann.ask("join-document", json!("e")).await["error"].clone();
    assert_eq!(error["code"], "STORE_UNAVAILABLE", "{error}");
    assert!(error["retryAfterMs"].is_number() && started.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn a_webhook_that_hangs_costs_a_stranger_eight_seconds_and_a_known_user_nothing() {
    let stage = stage().await;
    assert!(stage.answer("ann").await.starts_with("40{"));
    stage.web.hang(true);
    // Everything may have changed: what is remembered is old now, and better than nothing.
    stage.changed(&json!({}));
    let started = Instant::now();
    let mut stranger = stage.knock("bob").await;
    until("she waits", || stage.gateway.server.pod().metrics.text().contains("connects_waiting 1")).await;
    assert!(stage.answer("ann").await.starts_with("40{"));
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(stranger.close_code().await, Some(1013));
    assert!(started.elapsed() >= Duration::from_secs(8));
    // Nobody waits for the one that hangs any more, and it may come back.
    stage.web.says("/hooks/users/bob", 200, r#"{"name":"Bob"}"#);
    stage.web.hang(false);
    assert!(stage.answer("bob").await.starts_with("40{"));
}

#[tokio::test]
async fn an_answer_that_was_under_way_when_a_change_came_is_not_believed() {
    let stage = stage().await;
    let (mut ann, _) = Client::joined(&stage.gateway, "ann", "a1", "d").await;
    stage.web.says("/hooks/users/bob", 200, r#"{"name":"Bob"}"#);
    let mut bob = Client::connected(&stage.gateway, "bob", "b1").await;
    let access = "/hooks/documents/d/access/bob";
    stage.web.says(access, 200, "write");
    stage.web.hang(true);
    bob.send(r#"427["join-document","d"]"#).await;
    stage.web.until_asked(access, 1).await;
    stage.web.says(access, 404, "");
    stage.changed(&json!({"documentId": "d"}));
    // The document reads its accesses again: the change was heard.
    stage.web.until_asked("/hooks/documents/d/access/ann", 2).await;
    stage.web.hang(false);
    let answer = bob.text().await;
    assert!(answer.starts_with("437[") && answer.contains("ACCESS_DENIED"), "{answer}");
    assert_eq!(ann.ask("edit", insert(0, "secret")).await, json!({"version": 1}));
}

#[tokio::test]
async fn a_revoked_access_takes_effect_within_two_seconds_of_the_word() {
    let stage = stage().await;
    stage.web.says("/hooks/users/bob", 200, r#"{"name":"Bob"}"#);
    let access = "/hooks/documents/d/access/bob";
    stage.web.says(access, 200, r#"{"role":"write"}"#);
    let (mut bob, _) = Client::joined(&stage.gateway, "bob", "b1", "d").await;
    for (status, body, role) in
        [(200, r#"{"role":"read"}"#, json!("read")), (200, "write", json!("write")), (404, "", Value::Null)]
    {
        stage.web.says(access, status, body);
        let started = Instant::now();
        stage.changed(&json!({"documentId": "d", "userId": "bob"}));
        assert_eq!(bob.event("access-changed").await, json!({"documentId": "d", "role": role}));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    assert_eq!(bob.ask("join-document", json!("d")).await["error"]["code"], "ACCESS_DENIED");
}

#[tokio::test]
async fn a_role_that_was_given_from_memory_and_is_old_is_found_without_a_word() {
    let stage = stage().await;
    stage.web.says("/hooks/users/bob", 200, r#"{"name":"Bob"}"#);
    let access = "/hooks/documents/d/access/bob";
    stage.web.says(access, 200, "write");
    let (mut bob, _) = Client::joined(&stage.gateway, "bob", "b1", "d").await;
    stage.web.says(access, 200, "read");
    // Joins are answered from memory until the answer is some seconds old; then it is asked for behind them.
    let deadline = Instant::now() + Duration::from_secs(20);
    let asked = stage.web.asked(access);
    while stage.web.asked(access) == asked {
        assert!(Instant::now() < deadline, "nobody asks again");
        assert_eq!(bob.join(json!("d")).await["role"], "write");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bob.event("access-changed").await, json!({"documentId": "d", "role": "read"}));
}

#[tokio::test]
async fn a_user_who_is_deleted_is_closed_when_it_is_said() {
    let stage = stage().await;
    let mut ann = Client::connected(&stage.gateway, "ann", "a1").await;
    stage.web.says("/hooks/users/ann", 404, "");
    stage.changed(&json!({"userId": "ann"}));
    assert_eq!(ann.close_code().await, Some(1008));
    assert!(stage.answer("ann").await.contains("USER_NOT_FOUND"));
}

fn name_of(joined: &Value, user_id: &str) -> Value {
    joined["activeUsers"].as_array().unwrap().iter().find(|user| user["id"] == user_id).unwrap()["name"].clone()
}

#[tokio::test]
async fn a_new_name_reaches_open_documents_when_it_is_said_and_without_a_word_within_a_minute() {
    let web = Web::start().await;
    let bus = MemoryBus::default();
    let store = MemoryStore::new(bus.clone());
    let url = web.url("");
    // Hours of heartbeats are not what this is about.
    let flags = ["--user-directory-url", &url, "--ping-interval", "10h"];
    let gateway = Gateway::over(store, bus.clone(), Trust::Everything, &flags).await;
    for user in ["ann", "bob"] {
        web.says(&format!("/users/{user}"), 200, json!({"name": format!("Old {user}")}).to_string());
    }
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let (mut bob, joined) = Client::joined(&gateway, "bob", "b1", "d").await;
    assert_eq!(name_of(&joined, "ann"), "Old ann");
    web.says("/users/ann", 200, r#"{"name":"Said"}"#);
    Bus::Memory(bus).publish(CHANGED_CHANNEL, r#"{"userId":"ann"}"#.into());
    while name_of(&bob.join(json!("d")).await, "ann") == "Old ann" {}
    assert_eq!(name_of(&bob.join(json!("d")).await, "ann"), "Said");
    // The connection that signed in under the old name brings the new one along.
    ann.join(json!("e")).await;
    assert_eq!(name_of(&bob.join(json!("e")).await, "ann"), "Said");
    web.says("/users/ann", 200, r#"{"name":"Found"}"#);
    web.says("/users/bob", 404, "");
    let asked = web.asked("/users/ann");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(50)).await;
    tokio::time::resume();
    let started = Instant::now();
    web.until_asked("/users/ann", asked + 1).await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(bob.close_code().await, Some(1008), "whom the directory does not know any more");
    web.says("/users/eve", 200, r#"{"name":"Eve"}"#);
    let (mut eve, mut joined) = Client::joined(&gateway, "eve", "e1", "d").await;
    while name_of(&joined, "ann") == "Said" {
        joined = eve.join(json!("d")).await;
    }
    assert_eq!(name_of(&joined, "ann"), "Found");
}

#[tokio::test]
async fn alone_with_an_access_webhook_names_come_from_claims_and_roles_from_the_application() {
    let web = Web::start().await;
    let url = web.url("");
    web.says("/documents/d/access/ann", 200, "comment");
    let gateway = Gateway::start(Trust::Everything, &["--access-url", &url]).await;
    let (mut ann, joined) = Client::joined(&gateway, "ann", "a1", "d").await;
    assert_eq!(joined["role"], "comment");
    assert_eq!(ann.ask("join-document", json!("e")).await["error"]["code"], "ACCESS_DENIED");
}

#[tokio::test]
async fn the_admin_port_tells_every_pod_what_changed() {
    let stage = stage().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(admin::serve(listener, stage.gateway.admin.clone(), std::future::pending()));
    let ask = async |method: &str, body: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} /v1/changed HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for (body, part) in [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        ("{\"documentId\":\"a b\"}", "documentId must"),
        ("{\"documentId\":7}", "documentId must be a string"),
        ("{\"userId\":\"\"}", "userId must"),
        ("{\"userId\":\"a\\u0007\"}", "userId must"),
        ("{\"userId\":1.5}", "userId must be a string"),
        ("{\"user\":\"u\"}", "\"user\" is unknown"),
        (&"x".repeat(5000), "at most 4096 bytes"),
    ] {
        let answer = ask("POST", body).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(part), "{body:.40}: {answer}");
    }
    let answer = ask("GET", "").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: POST"), "{answer}");
    stage.web.says("/hooks/users/42", 200, r#"{"name":"Number"}"#);
    stage.web.says("/hooks/documents/d/access/42", 200, "write");
    let (mut client, _) = Client::joined(&stage.gateway, "42", "n1", "d").await;
    stage.web.says("/hooks/documents/d/access/42", 200, "read");
    let answer = ask("POST", "{\"userId\":42,\"documentId\":\"d\"}").await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(client.event("access-changed").await["role"], "read");
    stage.web.says("/hooks/users/42", 404, "");
    assert!(ask("POST", "{\"userId\":42}").await.starts_with("HTTP/1.1 202 "));
    assert_eq!(client.close_code().await, Some(1008));
    serving.abort();
}
