//! From the HTTP request to CONNECT.

use collab_gateway::directory::Trust;
use serde_json::json;

use crate::harness::{Client, Gateway, sign, token, until};

pub(crate) const UPGRADE: &str = "Host: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub(crate) fn get(query: &str, headers: &str) -> String {
    format!("GET /socket.io/?{query} HTTP/1.1\r\n{headers}\r\n")
}

#[tokio::test]
async fn requests_that_are_no_socket_get_the_bodies_of_engine_io() {
    let gateway = Gateway::alone().await;
    let websocket = "EIO=4&transport=websocket";
    for (request, code, reason) in [
        (get("EIO=4&transport=polling", "Host: x\r\n"), 0, "unknown_transport"),
        (get("EIO=4&transport=websocket&sid=abc", UPGRADE), 1, "unknown_sid"),
        (get(websocket, UPGRADE).replacen("GET", "POST", 1), 2, "bad_method"),
        (get(websocket, "Host: x\r\n"), 3, "bad_request"),
        (get(websocket, &UPGRADE.replace("dGhl", "")), 3, "bad_request"),
        (get("EIO=3&transport=websocket", UPGRADE), 5, "unsupported_version"),
    ] {
        let before = gateway.refused(reason);
        let answer = gateway.http(&request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request} got {answer}");
        assert!(answer.contains(&format!("{{\"code\":{code},\"message\":")), "{request} got {answer}");
        assert!(answer.contains("content-type: application/json"));
        assert_eq!(gateway.refused(reason), before + 1, "{reason}");
    }
    let other = gateway.http(&get(websocket, &UPGRADE.replace("13", "8"))).await;
    assert!(other.starts_with("HTTP/1.1 426 ") && other.contains("sec-websocket-version: 13\r\n"), "{other}");
    assert_eq!(gateway.refused("websocket_version"), 1);
    assert!(gateway.http("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
    gateway.stop().await;
}

#[tokio::test]
async fn the_upgrade_is_answered_with_the_key_of_the_rfc() {
    let gateway = Gateway::alone().await;
    let answer = gateway.http(&get("EIO=4&transport=websocket", UPGRADE)).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
}

#[tokio::test]
async fn a_full_pod_refuses_before_the_upgrade() {
    let gateway = Gateway::start(Trust::Everything, &["--max-connections", "1"]).await;
    let first = Client::connected(&gateway, "u1", "c1").await;
    let request = get("EIO=4&transport=websocket", UPGRADE);
    let answer = gateway.http(&request).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");
    drop(first);
    until("the place is free", || gateway.server.pod().registry.count() == 0).await;
    Client::connected(&gateway, "u1", "c1").await;
    let metrics = gateway.server.pod().metrics.text();
    assert!(metrics.contains("connections_refused_total{reason=\"max_connections\"} 1"), "{metrics}");
    assert!(metrics.contains("collab_gateway_connections_accepted_total 2"), "{metrics}");
}

#[tokio::test]
async fn only_allowed_origins_of_browsers_are_let_in() {
    let allowed = "https://Docs.example.com/,http://localhost:3000";
    let gateway = Gateway::start(Trust::Everything, &["--allowed-origins", allowed]).await;
    let request = |origin: &str| get("EIO=4&transport=websocket", &format!("{UPGRADE}{origin}"));
    assert!(gateway.http(&request("")).await.starts_with("HTTP/1.1 101 "));
    for origin in ["https://docs.example.com", "http://localhost:3000"] {
        let answer = gateway.http(&request(&format!("Origin: {origin}\r\n"))).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{origin}: {answer}");
    }
    for origin in [
        "https://evil.example.com",
        // Of a sandboxed frame, which anybody can make.
        "null",
        "",
        "http://docs.example.com",
        "https://docs.example.com:8443",
        "http://localhost",
        "http://localhost:30000",
        "https://docs.example.com.evil.example",
        "https://evil.example/https://docs.example.com",
        "https://docs.example.com@evil.example",
        "https://docs.example.com, https://evil.example",
        "https://docs.example.com\r\nOrigin: https://evil.example",
        "*",
    ] {
        let answer = gateway.http(&request(&format!("Origin: {origin}\r\n"))).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("\"code\":4"), "{origin}: {answer}");
    }
    assert_eq!(gateway.refused("origin"), 13);
}

#[tokio::test]
async fn each_refusal_of_connect_has_its_message_and_code() {
    let gateway = Gateway::with_keys().await;
    gateway.store.set("user:known", Some(r#"{"id":"known","name":"Known"}"#));
    let expired = sign(&json!({"sub": "known", "exp": 1000}));
    for (auth, message, code) in [
        (String::new(), "Authentication token required", "TOKEN_REQUIRED"),
        ("{}".to_owned(), "Authentication token required", "TOKEN_REQUIRED"),
        (json!({"token": ""}).to_string(), "Authentication token required", "TOKEN_REQUIRED"),
        (json!({"token": 7}).to_string(), "Authentication token required", "TOKEN_REQUIRED"),
        (json!({"token": "a.b.c"}).to_string(), "Authentication failed", "TOKEN_INVALID"),
        (json!({"token": token("known") + "x"}).to_string(), "Authentication failed", "TOKEN_INVALID"),
        (json!({"token": expired}).to_string(), "Authentication failed", "TOKEN_EXPIRED"),
        (json!({"token": token("stranger")}).to_string(), "User not found", "USER_NOT_FOUND"),
    ] {
        let mut client = Client::upgraded(&gateway).await;
        client.send(&format!("40{auth}")).await;
        let want = format!(r#"44{{"message":"{message}","data":{{"code":"{code}"}}}}"#);
        assert_eq!(client.text().await, want, "{auth}");
        assert_eq!(client.close_code().await, Some(1000));
    }
    let reasons = ["TOKEN_REQUIRED", "TOKEN_INVALID", "TOKEN_EXPIRED", "USER_NOT_FOUND"];
    assert_eq!(reasons.map(|reason| gateway.refused(reason)), [4, 2, 1, 1]);
    Client::connected(&gateway, "known", "c1").await;
}

#[tokio::test]
async fn another_namespace_is_refused_and_the_connection_stays() {
    let gateway = Gateway::alone().await;
    let mut client = Client::upgraded(&gateway).await;
    client.send("40/random,{\"token\":\"x\"}").await;
    assert_eq!(client.text().await, r#"44/random,{"message":"Invalid namespace"}"#);
    client.send(&format!("40{}", json!({"token": token("u1")}))).await;
    assert!(client.text().await.starts_with("40{\"sid\":"));
}

#[tokio::test]
async fn a_silent_client_is_found_by_the_heartbeat() {
    let gateway = Gateway::start(Trust::Everything, &["--ping-interval", "500ms", "--ping-timeout", "500ms"]).await;
    let mut client = Client::connected(&gateway, "u1", "c1").await;
    // Nothing answers the pings while nobody reads texts.
    assert_eq!(client.close_code().await, None);
    until("it is gone", || gateway.server.pod().registry.count() == 0).await;
}

#[tokio::test]
async fn the_task_of_an_idle_connection_is_small() {
    let gateway = Gateway::alone().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let seat = gateway.server.pod().registry.admit(1).unwrap();
    let task = collab_gateway::connection::run(gateway.server.shared_pod(), seat, stream.into(), Vec::new());
    // With its socket, outbox and registration a connection stays within the budget of 4 KiB.
    let bytes = size_of_val(&task);
    assert!(bytes <= 1536, "{bytes} bytes");
}
