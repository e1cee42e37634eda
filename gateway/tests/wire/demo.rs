//! `--demo`: tokens for strangers, which open demo documents and nothing else.

use collab_gateway::directory::Trust;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, SECRET, sign};

/// What `GET /demo/token` says.
async fn ticket(gateway: &Gateway) -> Value {
    let answer = gateway.http("GET /demo/token HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("no-store"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

async fn connected(gateway: &Gateway, token: &Value) -> Client {
    let mut client = Client::upgraded(gateway).await;
    client.send(&format!("40{}", json!({"token": token}))).await;
    assert!(client.text().await.starts_with("40{\"sid\""));
    client
}

#[tokio::test]
async fn a_demo_user_has_demo_documents_and_no_other_whatever_the_gateway_trusts() {
    for trust in [Trust::Keys, Trust::Claims, Trust::Everything] {
        let gateway = Gateway::start(trust, &["--demo"]).await;
        gateway.store.set("doc:secret:content", Some("secret"));
        let told = ticket(&gateway).await;
        let mut client = connected(&gateway, &told["token"]).await;
        let pod = client.event("demo-pod").await;
        assert!(pod["name"].as_str().is_some_and(|name| !name.is_empty()), "{pod}");
        assert_eq!(client.join(json!("demo-1")).await["role"], "write", "{trust:?}");
        for other in ["secret", "demo", "DEMO-1"] {
            let error = client.ask("join-document", json!(other)).await["error"].clone();
            assert_eq!(error["code"], "ACCESS_DENIED", "{trust:?}: {other}");
        }
        let another = ticket(&gateway).await;
        let mut another = connected(&gateway, &another["token"]).await;
        let users = another.join(json!("demo-1")).await["activeUsers"].clone();
        assert_eq!(
            (&users[0]["id"], &users[0]["name"]),
            (&told["userId"], &told["name"]),
            "everybody is somebody else"
        );
    }
}

#[tokio::test]
async fn a_demo_token_lives_for_an_hour() {
    let gateway = Gateway::start(Trust::Keys, &["--demo"]).await;
    let told = ticket(&gateway).await;
    assert!(told["userId"].as_str().unwrap().starts_with("demo-"), "{told}");
    let key = DecodingKey::from_secret(SECRET.as_bytes());
    let token = told["token"].as_str().unwrap();
    let claims = jsonwebtoken::decode::<Value>(token, &key, &Validation::default()).unwrap().claims;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((3590..=3600).contains(&(claims["exp"].as_u64().unwrap() - now)), "{claims}");
}

#[tokio::test]
async fn others_are_not_told_of_the_demo_and_keep_their_documents() {
    let gateway = Gateway::start(Trust::Everything, &["--demo"]).await;
    let mut ann = Client::connected(&gateway, "ann", "a1").await;
    ann.send(r#"427["leave-document","d"]"#).await;
    assert_eq!(ann.text().await, "437[{}]", "nothing came before the answer");
    assert_eq!(ann.join(json!("anything")).await["role"], "write");
}

#[tokio::test]
async fn without_the_flag_there_is_no_demo() {
    let gateway = Gateway::with_keys().await;
    for path in ["/", "/demo/token"] {
        let answer = gateway.http(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    let mut client = Client::upgraded(&gateway).await;
    let forged = sign(&json!({"sub": "demo-1", "name": "x", "demo": true, "exp": 4_000_000_000_u64}));
    client.send(&format!("40{}", json!({"token": forged}))).await;
    assert!(client.text().await.contains("USER_NOT_FOUND"));
}
