//! What strangers send to the port before they are anybody: each costs a bounded amount, and nobody else notices.

use std::time::Duration;

use collab_gateway::directory::Trust;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    harness::{Client, Gateway, PATIENCE},
    upgrade::{UPGRADE, get},
};

const WEBSOCKET: &str = "EIO=4&transport=websocket";

/// Sends bytes and reads until the gateway closes, or a frame or a header's end shows that it does not.
async fn exchange(gateway: &Gateway, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    // Refused on the way means that there is an answer, or that it was closed.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..length]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the gateway closes");
    answer
}

fn status(answer: &[u8]) -> &str {
    std::str::from_utf8(answer).unwrap_or_default().split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn requests_that_are_bombs_are_cut_off() {
    let gateway = Gateway::alone().await;
    let many = "X-Filler: y\r\n".repeat(1000);
    let long = format!("X-Filler: {}\r\n", "y".repeat(1 << 20));
    let huge_query = format!("{WEBSOCKET}&resume={}", "y".repeat(1 << 20));
    for (name, request) in [
        ("many headers", get(WEBSOCKET, &format!("{many}{UPGRADE}"))),
        ("a header of 1 MiB", get(WEBSOCKET, &format!("{long}{UPGRADE}"))),
        ("a query of 1 MiB", get(&huge_query, UPGRADE)),
    ] {
        let answer = exchange(&gateway, request.as_bytes()).await;
        assert!(matches!(status(&answer), "431" | "414" | "400" | ""), "{name}: {}", String::from_utf8_lossy(&answer));
    }
    Client::connected(&gateway, "ann", "a1").await;
}

#[tokio::test]
async fn what_is_no_http_is_closed() {
    let gateway = Gateway::alone().await;
    let mut binary = get(WEBSOCKET, UPGRADE).into_bytes();
    binary.splice(20..20, [0xff, 0xfe, 0x00]);
    for (name, request) in [
        ("a TLS hello", &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..]),
        ("HTTP/2 by surprise", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("noise", b"\x00\x01\x02\x03\r\n\r\n"),
        ("bytes that are no text in the path", &binary),
        ("a header without a name", b"GET /socket.io/ HTTP/1.1\r\n: x\r\n\r\n"),
        ("a space before the colon", b"GET /socket.io/ HTTP/1.1\r\nHost : x\r\n\r\n"),
    ] {
        let answer = exchange(&gateway, request).await;
        assert!(matches!(status(&answer), "400" | "505" | ""), "{name}: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(gateway.refused("bad_http"), 6);
    Client::connected(&gateway, "ann", "a1").await;
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_refused_and_its_bytes_are_no_frames() {
    let gateway = Gateway::alone().await;
    for header in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        let request = get(WEBSOCKET, &format!("{UPGRADE}{header}")) + "0\r\n\r\n";
        let answer = gateway.http(&request).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"code\":3"), "{header}: {answer}");
    }
    assert_eq!(gateway.server.pod().registry.count(), 0);
}

#[tokio::test]
async fn garbage_behind_the_upgrade_closes_the_socket_with_its_code() {
    let gateway = Gateway::alone().await;
    for (name, garbage, code) in [
        ("a second request", get(WEBSOCKET, UPGRADE).into_bytes(), 1002_u16),
        ("an unmasked frame", vec![0x81, 0x01, b'x'], 1002),
        ("a frame of 2 GiB", vec![0x81, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0, 1, 2, 3, 4], 1009),
        ("a text that is not UTF-8", vec![0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe], 1007),
    ] {
        let mut request = get(WEBSOCKET, UPGRADE).into_bytes();
        request.extend_from_slice(&garbage);
        let answer = exchange(&gateway, &request).await;
        let [.., high, low] = answer[..] else { panic!("{name}: no answer") };
        assert_eq!(u16::from_be_bytes([high, low]), code, "{name}: {}", String::from_utf8_lossy(&answer));
    }
    Client::connected(&gateway, "ann", "a1").await;
}

#[tokio::test]
async fn pipelined_requests_whose_answers_nobody_reads_are_bounded() {
    let gateway = Gateway::alone().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let requests = "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let mut sent = 0;
    // Until nothing more is taken: then the gateway does not read any further.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), stream.write(requests.as_bytes())).await.map(Result::unwrap)
    {
        sent += written;
        assert!(sent < 64 << 20, "the gateway reads without end");
    }
    Client::connected(&gateway, "ann", "a1").await;
}

#[tokio::test]
async fn ten_thousand_silent_peers_are_bounded_and_keep_nobody_out() {
    let gateway = Gateway::start(Trust::Everything, &["--accept-rate", "5000"]).await;
    assert!(collab_gateway::open_files::raise_limit() >= 13_000, "this test needs `ulimit -n` of 13,000");
    let unheard = || gateway.server.pod().metrics.connections_unheard.get();
    let mut silent = Vec::new();
    let mut most = 0;
    for number in 0..10_000 {
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        if number % 2 == 0 {
            // Slowly: a header that never ends.
            let _ = stream.try_write(b"GET /socket.io/ HTTP/1.1\r\nX-Slow: ");
        }
        silent.push(stream);
        most = most.max(unheard());
    }
    assert!(most <= 2048, "{most} wait at a time");
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let edit = json!({"documentId": "d", "version": 0, "ops": [{"insert": "in"}]});
    assert_eq!(ann.ask("edit", edit).await, json!({"version": 1}));
    // The oldest ones were let go; their side hears of it.
    let mut byte = [0];
    let closed = tokio::time::timeout(PATIENCE, silent[1].read(&mut byte)).await.expect("closed");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    let metrics = gateway.server.pod().metrics.text();
    assert!(metrics.contains("connections_refused_total{reason=\"unheard\"}"), "{metrics}");
}

/// How long the gateway lets somebody wait, in its own time: whenever nothing else happens the clock jumps.
async fn patience_with(stream: &mut TcpStream) -> Duration {
    tokio::time::pause();
    let start = Instant::now();
    let mut buffer = [0; 1024];
    while let Ok(1..) = stream.read(&mut buffer).await {}
    start.elapsed()
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_has_ten_seconds_in_all() {
    let gateway = Gateway::alone().await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    tokio::time::pause();
    let start = Instant::now();
    let drip = async {
        for byte in get(WEBSOCKET, &"X-Slow: 1\r\n".repeat(90)).bytes() {
            if writing.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let mut buffer = [0; 1024];
    tokio::select! {
        () = drip => panic!("it was let through"),
        _ = async { while let Ok(1..) = reading.read(&mut buffer).await {} } => {}
    }
    let waited = start.elapsed();
    assert!((9..=12).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(gateway.refused("slow_request"), 1);
}

#[tokio::test]
async fn a_socket_without_connect_is_closed_after_ten_seconds() {
    let gateway = Gateway::alone().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(get(WEBSOCKET, UPGRADE).as_bytes()).await.unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    let waited = patience_with(&mut stream).await;
    assert!((9..=13).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(gateway.server.pod().metrics.connections_accepted.get(), 0);
    assert_eq!(gateway.refused("no_connect"), 1);
}
