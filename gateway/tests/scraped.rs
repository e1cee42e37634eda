//! What a scraper reads while people edit: every metric of CONTRACT section 3, with the right meaning.
//!
//! In: gateways as processes on a real Redis, editors, clients that are refused, one that does not read, a copy that differs.
//! Out: the numbers, each by its label.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
#[allow(dead_code, reason = "not everything is for this file")]
#[path = "wire/harness.rs"]
mod harness;
mod pods;
mod servers;
mod signers;

use std::collections::BTreeMap;

use collab_gateway::metrics::is_known;
use editor::{Editor, SECRET};
use futures_util::{SinkExt, StreamExt, future::join_all};
use harness::Client;
use pods::Pod;
use redis::AsyncCommands;
use serde_json::{Value, json};
use servers::{Engine, PATIENCE, Server, eventually, within};
use signers::{FAR, hs256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_the_contract_says_what_happened() {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    for user in ["ann", "bob"] {
        client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    let (one, two) = (Pod::start(&server.address(), &[]), Pod::start(&server.address(), &[]));
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    bob.until("bob is in", Editor::is_joined).await;
    ann.type_all((0..20).map(|n| format!("ann{n}")).collect()).await;
    bob.until("bob has it all", |bob| bob.version >= 20).await;
    let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", one.address);
    let (mut stranger, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    stranger.send(Message::text(r#"40{"token":"nonsense"}"#)).await.unwrap();
    while let Some(Ok(message)) = stranger.next().await {
        if message.is_close() {
            break;
        }
    }
    drop(stranger);
    eventually("the stranger is gone", async || one.metric("collab_gateway_connections").await == Some(1.0)).await;
    for (pod, name, expected) in [
        (&one, "collab_gateway_connections_accepted_total", 1.0),
        (&one, "collab_gateway_connections_refused_total{reason=\"TOKEN_INVALID\"}", 1.0),
        (&one, "collab_gateway_documents", 1.0),
        (&one, "collab_gateway_edits_committed_total", 20.0),
        (&two, "collab_gateway_edits_committed_total", 0.0),
        (&one, "collab_gateway_deliveries_total", 0.0),
        (&two, "collab_gateway_deliveries_total", 20.0),
        (&one, "collab_gateway_edit_commit_seconds_count", 20.0),
        (&two, "collab_gateway_edit_commit_seconds_count", 0.0),
        (&one, "collab_gateway_slow_consumers_total", 0.0),
        (&one, "collab_gateway_divergence_total", 0.0),
        (&one, "collab_gateway_draining", 0.0),
        (&one, "collab_gateway_drain_connections_left", 0.0),
    ] {
        assert_eq!(pod.metric(name).await, Some(expected), "{name}");
    }
    for pod in [&one, &two] {
        // A pod may hear of its own edits a moment after they were answered.
        let deliveries = async || pod.metric("collab_gateway_edit_delivery_seconds_count").await;
        eventually("each edit is observed", async || deliveries().await >= Some(20.0)).await;
        assert_eq!(deliveries().await, Some(20.0));
        let sum = pod.metric("collab_gateway_edit_delivery_seconds_sum").await.unwrap();
        assert!(sum < 100.0, "{sum} s for 20 deliveries");
    }
    let (code, text) = one.get("/metrics").await;
    assert!(code == 200 && text.ends_with("# EOF\n"), "OpenMetrics: {text}");
    // Labels have few values and never name a person or a document.
    let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(series.len() < 300, "{} series", series.len());
    labels_are_known(&text);
    assert!(!text.contains("ann") && !text.contains("nonsense"));
    // Everything that counts what is there goes back.
    drop(ann);
    eventually("ann is gone", async || one.metric("collab_gateway_connections").await == Some(0.0)).await;
    // It is kept for half a minute after its last edit.
    let is_closed = async || one.metric("collab_gateway_documents").await == Some(0.0);
    within(2 * PATIENCE, "the document is closed", is_closed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_that_took_a_slow_way_count_once_and_as_slow() {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    for user in ["ann", "bob"] {
        client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    let (one, two) = (Pod::start(&server.address(), &[]), Pod::start(&server.address(), &[]));
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    bob.until("bob is in", Editor::is_joined).await;
    let all = async |version: u64| {
        for pod in [&one, &two] {
            for (name, expected) in [
                ("collab_gateway_edits_committed_total", [version, 0]),
                ("collab_gateway_edit_commit_seconds_count", [version, 0]),
                ("collab_gateway_edit_delivery_seconds_count", [version; 2]),
            ] {
                let expected = Some(expected[usize::from(pod.address != one.address)] as f64);
                eventually(&format!("{name} is {expected:?}"), async || pod.metric(name).await == expected).await;
            }
        }
    };
    // Too large for a notice.
    ann.type_all(vec!["x".repeat(40 << 10)]).await;
    bob.until("bob has it", |bob| bob.version >= 1).await;
    all(1).await;
    // Committed, but the answer is lost; neither pod hears anything meanwhile.
    server.signal("-STOP");
    ann.insert("late").await;
    let is_missed = |line: &Value| line["message"].as_str().is_some_and(|text| text.contains("was not answered"));
    eventually("the answer is missed", async || one.log().iter().any(is_missed)).await;
    server.signal("-CONT");
    ann.until("it is saved", |ann| ann.version >= 2).await;
    bob.until("bob has it", |bob| bob.version >= 2).await;
    all(2).await;
    let sum = one.metric("collab_gateway_edit_commit_seconds_sum").await.unwrap();
    assert!(sum > 1.0, "the answer was waited for, but both took {sum} s");
    // Notices are lost in between.
    for n in 0..10 {
        servers::run(&mut client, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        ann.type_all(vec![format!("more{n}")]).await;
    }
    bob.until("bob has it all", |bob| bob.version >= 12).await;
    all(12).await;
}

/// Labels have the documented values, and so never those of a person or a document; those of histograms are numbers.
fn labels_are_known(text: &str) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let (labels, _) = rest.rsplit_once('}').unwrap();
        let metric = name.strip_prefix("collab_gateway_").unwrap();
        let metric = metric.strip_suffix("_total").unwrap_or(metric);
        for (label, value) in labels.split(',').map(|label| label.split_once('=').unwrap()) {
            let is_bound = metric.ends_with("_bucket") && label == "le";
            assert!(is_bound || is_known(metric, label, value.trim_matches('"')), "{line}");
        }
    }
}

/// Refusals by their reason; those that never happened are left out.
async fn refused(pod: &Pod) -> BTreeMap<String, u64> {
    let (_, text) = pod.get("/metrics").await;
    labels_are_known(&text);
    let by_reason = text.lines().filter_map(|line| {
        let (reason, count) =
            line.strip_prefix("collab_gateway_connections_refused_total{reason=\"")?.split_once("\"} ")?;
        Some((reason.to_owned(), count.parse().unwrap()))
    });
    by_reason.filter(|(_, count)| *count > 0).collect()
}

fn token(user: &str, exp: u64) -> String {
    hs256(SECRET.as_bytes(), &json!({"sub": user, "name": user, "exp": exp}))
}

/// A client of this user whose CONNECT was accepted.
async fn signed_in(pod: &Pod, user: &str) -> Client {
    let mut client = Client::at(pod.address, "").await;
    client.send(&format!("40{}", json!({"token": token(user, FAR)}))).await;
    assert!(client.text().await.starts_with("40{"));
    client
}

/// The status that an upgrade is answered with; then it is broken off.
async fn status(pod: &Pod, query: &str, headers: &str) -> u16 {
    let names = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";
    let mut stream = TcpStream::connect(pod.address).await.unwrap();
    let request = format!("GET /socket.io/?{query} HTTP/1.1\r\n{names}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut line = [0; "HTTP/1.1 503".len()];
    stream.read_exact(&mut line).await.unwrap();
    std::str::from_utf8(&line).unwrap().split_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_counts_once_by_its_own_reason() {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let pod = Pod::start(&server.address(), &["--allowed-origins", "https://docs.example.com"]);
    let mut expected = BTreeMap::new();
    let mut count = async |reason: &str| {
        *expected.entry(reason.to_owned()).or_insert(0) += 1;
        // A connection may end a moment after its answer.
        eventually(reason, async || refused(&pod).await.get(reason) >= expected.get(reason)).await;
        assert_eq!(refused(&pod).await, expected);
    };
    for (auth, reason) in [
        (json!({}), "TOKEN_REQUIRED"),
        (json!({"token": "nonsense"}), "TOKEN_INVALID"),
        (json!({"token": token("ann", 1)}), "TOKEN_EXPIRED"),
    ] {
        let mut client = Client::at(pod.address, "").await;
        client.send(&format!("40{auth}")).await;
        assert!(client.text().await.contains(reason));
        count(reason).await;
    }
    let (right, version) = ("EIO=4&transport=websocket", "Sec-WebSocket-Version: 13\r\n");
    for (query, headers, code, reason) in [
        ("EIO=4&transport=polling", version, 400, "unknown_transport"),
        ("EIO=3&transport=websocket", version, 400, "unsupported_version"),
        (right, "Sec-WebSocket-Version: 8\r\n", 426, "websocket_version"),
        (right, "Sec-WebSocket-Version: 13\r\nOrigin: https://evil.example.com\r\n", 403, "origin"),
    ] {
        assert_eq!(status(&pod, query, headers).await, code, "{reason}");
        count(reason).await;
    }
    let mut stream = TcpStream::connect(pod.address).await.unwrap();
    stream.write_all(b"this is no HTTP\r\n\r\n").await.unwrap();
    // It may be cut off in the middle of the answer.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    count("bad_http").await;
    // A client that says nothing.
    Client::at(pod.address, "").await.close_code().await;
    count("no_connect").await;
    // Clients that say something else first.
    for first in [r#"42["join-document","d"]"#, "41", "4nonsense"] {
        let mut client = Client::at(pod.address, "").await;
        client.send(first).await;
        client.close_code().await;
        count("no_connect").await;
    }

    let full = Pod::start(&server.address(), &["--max-connections=0"]);
    assert_eq!(status(&full, right, version).await, 503);
    assert_eq!(refused(&full).await, BTreeMap::from([("max_connections".to_owned(), 1)]));
    // One a second: of some at once all but a few are too many.
    let slow = Pod::start(&server.address(), &["--accept-rate=1"]);
    let statuses = join_all((0..4).map(|_| status(&slow, right, version))).await;
    let later = statuses.iter().filter(|status| **status == 503).count() as u64;
    assert!(later >= 1, "{statuses:?}");
    assert_eq!(refused(&slow).await, BTreeMap::from([("accept_rate".to_owned(), later)]));
    let shut = Pod::start(&server.address(), &["--accept-rate=0"]);
    for count in 1..=3 {
        assert_eq!(status(&shut, right, version).await, 503);
        assert_eq!(refused(&shut).await, BTreeMap::from([("accept_rate".to_owned(), count)]));
    }
    let leaving = Pod::start(&server.address(), &["--drain-rate=1", "--drain-deadline=10m"]);
    // One a second: it takes longer than what follows.
    let _kept = join_all((0..60).map(async |n| signed_in(&leaving, &format!("u{n}")).await)).await;
    leaving.signal("TERM");
    eventually("it drains", async || leaving.metric("collab_gateway_draining").await == Some(1.0)).await;
    assert_eq!(status(&leaving, right, version).await, 503);
    assert_eq!(refused(&leaving).await, BTreeMap::from([("draining".to_owned(), 1)]));
    let alone = Pod::start(&server.address(), &["--max-connections-per-user=1"]);
    let (mut first, _second) = (signed_in(&alone, "ann").await, signed_in(&alone, "ann").await);
    first.close_code().await;
    assert_eq!(refused(&alone).await, BTreeMap::from([("max_connections_per_user".to_owned(), 1)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_nobody_probed_before_the_store_went_away_is_as_ready_as_the_others() {
    let mut server = Server::start(Engine::Redis, &[]).await.unwrap();
    server.client().await.set::<_, _, ()>("doc:d:access:ann", "write").await.unwrap();
    let serving = Pod::start(&server.address(), &[]);
    let mut ann = Editor::new("ann", "d", &[serving.address], 1);
    ann.type_all(vec!["word".into()]).await;
    server.kill();
    let newcomer = Pod::start(&server.address(), &[]);
    for pod in [&serving, &newcomer] {
        eventually("it is missed", async || pod.metric("collab_gateway_store_up").await == Some(0.0)).await;
    }
    let (code, text) = serving.get("/readyz").await;
    assert!(code == 200 && text.starts_with("ok, but the store takes no changes"), "{code} {text}");
    assert_eq!(newcomer.get("/readyz").await, (503, "the store does not answer\n".to_owned()));
    server.start_again().await;
    eventually("both are ready", async || {
        serving.get("/readyz").await.1 == "ok\n" && newcomer.get("/readyz").await == (200, "ok\n".to_owned())
    })
    .await;
}

/// Of one edit: some hundred are far more than kernel buffers and an outbox take.
const EDIT_BYTES: usize = 16 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_read_counts_as_slow_where_it_is_connected() {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut redis = server.client().await;
    for user in ["ann", "mute"] {
        redis.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    let (one, two) = (Pod::start(&server.address(), &[]), Pod::start(&server.address(), &[]));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(one.address).await.unwrap();
    let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", one.address);
    let (mut mute, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    for text in [format!("40{}", json!({"token": token("mute", FAR)})), r#"42["join-document","d"]"#.to_owned()] {
        mute.send(Message::text(text)).await.unwrap();
    }
    while !mute.next().await.unwrap().unwrap().to_text().unwrap().contains("document-joined") {}
    let mut ann = signed_in(&two, "ann").await;
    let mut version = ann.join(json!("d")).await["version"].as_u64().unwrap();
    let slow = "collab_gateway_slow_consumers_total";
    let mut seq = 0;
    while one.metric(slow).await == Some(0.0) {
        assert!(seq < 2000, "{seq} edits were not too much");
        for _ in 0..10 {
            for ops in [json!([{"insert": "x".repeat(EDIT_BYTES)}]), json!([{"delete": EDIT_BYTES}])] {
                seq += 1;
                let edit = json!({"documentId": "d", "version": version, "seq": seq, "ops": ops});
                version = ann.ask("edit", edit).await["version"].as_u64().expect("saved");
            }
        }
    }
    assert_eq!((one.metric(slow).await, two.metric(slow).await), (Some(1.0), Some(0.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_differs_counts_once_and_only_where_it_was_noticed() {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut redis = server.client().await;
    for user in ["ann", "bob"] {
        redis.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
    }
    let (one, two) = (Pod::start(&server.address(), &[]), Pod::start(&server.address(), &[]));
    let mut ann = Editor::new("ann", "d", &[one.address], 1);
    // Every 256th version has a digest.
    ann.type_all((0..256).map(|n| format!("ann{n}")).collect()).await;
    let mut bob = Editor::new("bob", "d", &[one.address], 2);
    bob.until("bob is in", Editor::is_joined).await;
    let joined: Value = bob.joined.clone().unwrap();
    assert_eq!(joined["version"], 256);
    let divergence = "collab_gateway_divergence_total";
    assert_eq!(one.metric(divergence).await, Some(0.0), "the pod agrees with itself");
    // Another pod's copy of the same history: told twice, it is one difference.
    let told = format!("P00000000000000ff\n{}", json!(["digest", 256, joined["hash"], "0123456789abcdef"]));
    for _ in 0..2 {
        redis.publish::<_, _, ()>("{doc:d}", &told).await.unwrap();
    }
    eventually("it is noticed", async || one.metric(divergence).await == Some(1.0)).await;
    // Everybody goes on, from what the store has.
    tokio::join!(ann.type_all(vec!["late".into()]), bob.type_all(vec!["later".into()]));
    bob.until("both have all", |bob| bob.version >= 258).await;
    ann.until("both have all", |ann| ann.version >= 258).await;
    assert_eq!(ann.text(), bob.text());
    assert_eq!((one.metric(divergence).await, two.metric(divergence).await), (Some(1.0), Some(0.0)));
}
