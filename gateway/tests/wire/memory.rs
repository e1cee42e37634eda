//! What clients can make the pod hold: bounded whatever they do, and given back when they go.
//!
//! In: crowds that send half messages, never read, send before they join. Out: the pod's own account of what it holds,
//! looked at all the time, and an honest client beside them.

use std::time::{Duration, Instant};

use collab_gateway::{budget::Use, directory::Trust, metrics::Overloaded};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Client, Gateway, PATIENCE, token, until},
    upgrade::{UPGRADE, get},
};

const BUDGET: usize = 4 << 20;
/// One buffer that doubled, one frame of each of some documents' tasks: what is taken before the account is looked at.
const SLACK: usize = 3 << 20;

/// A masked frame with a key of zeros: the payload as it is.
fn frame(first: u8, payload: &[u8], announced: usize) -> Vec<u8> {
    let mut frame = vec![first];
    match announced {
        0..=125 => frame.push(0x80 | u8::try_from(announced).unwrap()),
        126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(announced).unwrap().to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&u64::try_from(announced).unwrap().to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes(), text.len())
}

/// A client that reads nothing after its sign-in, and takes little from the network.
async fn unread(address: std::net::SocketAddr, user: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(get("EIO=4&transport=websocket", UPGRADE).as_bytes()).await.unwrap();
    stream.write_all(&text(&format!("40{}", json!({"token": token(user)})))).await.unwrap();
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("40{") {
        let length = stream.read_buf(&mut read).await.unwrap();
        assert!(length > 0, "not signed in: {}", String::from_utf8_lossy(&read));
    }
    stream
}

/// A gateway, and whether its budget has bitten.
#[derive(Clone)]
struct Target {
    address: std::net::SocketAddr,
    has_bitten: CancellationToken,
}

/// Sends until the gateway closes, or its budget has bitten and it does not take any more for a while.
async fn send_all(stream: &mut TcpStream, target: &Target, messages: impl Iterator<Item = Vec<u8>>) {
    for message in messages {
        let mut writing = std::pin::pin!(stream.write_all(&message));
        loop {
            match tokio::time::timeout(Duration::from_millis(300), &mut writing).await {
                Ok(Ok(())) => break,
                Ok(Err(_)) => return,
                Err(_) if target.has_bitten.is_cancelled() => return,
                Err(_) => {}
            }
        }
    }
}

type Crowd = JoinSet<TcpStream>;

fn half_messages(crowd: &mut Crowd, target: &Target) {
    for number in 0..20 {
        let target = target.clone();
        crowd.spawn(async move {
            let mut stream = unread(target.address, &format!("half {number}")).await;
            // A megabyte and a half of three.
            let first = frame(0x81, &[b' '; 65_536], 3 << 20);
            send_all(&mut stream, &target, std::iter::once(first).chain((0..23).map(|_| vec![b' '; 65_536]))).await;
            stream
        });
    }
}

fn joiners_who_do_not_read(crowd: &mut Crowd, target: &Target) {
    for number in 0..20 {
        let target = target.clone();
        crowd.spawn(async move {
            let mut stream = unread(target.address, &format!("joiner {number}")).await;
            send_all(
                &mut stream,
                &target,
                (0..12).map(|join| text(&format!("42{join}[\"join-document\",\"large-{join}\"]"))),
            )
            .await;
            stream
        });
    }
}

fn askers_who_do_not_read(crowd: &mut Crowd, target: &Target) {
    for number in 0..3 {
        let target = target.clone();
        crowd.spawn(async move {
            let mut stream = unread(target.address, &format!("asker {number}")).await;
            send_all(&mut stream, &target, (0..40_000).map(|ask| text(&format!("42{ask}[\"no-such-event\",{{}}]"))))
                .await;
            stream
        });
    }
}

fn early_birds(crowd: &mut Crowd, target: &Target) {
    for number in 0..20 {
        let target = target.clone();
        crowd.spawn(async move {
            let mut stream = unread(target.address, &format!("early {number}")).await;
            let ops = json!([{"insert": "x".repeat(30_000)}]);
            let edit =
                |n| text(&format!("42{}", json!(["edit", {"documentId": format!("d{n}"), "version": 0, "ops": ops}])));
            send_all(&mut stream, &target, (0..60).map(edit)).await;
            stream
        });
    }
}

#[tokio::test]
async fn a_hostile_crowd_cannot_grow_the_pod_beyond_its_budget() {
    let budget_flag = BUDGET.to_string();
    let fast = ["--message-rate", "1000000", "--message-bytes-rate", "1000000000", "--join-rate", "1000000"];
    let flags = [&["--max-buffer-bytes", &budget_flag][..], &fast].concat();
    let gateway = Gateway::start(Trust::Everything, &flags).await;
    for number in 0..12 {
        gateway.store.set(&format!("doc:large-{number}:content"), Some(&"x".repeat(400_000)));
    }
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let outbox = gateway.server.pod().registry.outboxes().pop().unwrap();
    let budget = outbox.budget().clone();
    drop(outbox);
    type Start = fn(&mut Crowd, &Target);
    for (name, start, effects) in [
        ("half messages", half_messages as Start, &["inbox"][..]),
        ("joiners", joiners_who_do_not_read, &["join", "outbox"]),
        ("askers", askers_who_do_not_read, &["outbox"]),
        ("early birds", early_birds, &["edits"]),
    ] {
        let mut crowd = Crowd::new();
        let target = Target { address: gateway.address, has_bitten: CancellationToken::new() };
        start(&mut crowd, &target);
        let before = overloads(&gateway, effects);
        let mut most = 0;
        let mut gathering = tokio::spawn(crowd.join_all());
        let watching = async {
            let mut streams = None;
            // Until the budget has bitten and nobody sends any more.
            while streams.is_none() || overloads(&gateway, effects) == before {
                if overloads(&gateway, effects) > before {
                    target.has_bitten.cancel();
                }
                tokio::select! {
                    ended = &mut gathering, if streams.is_none() => streams = Some(ended.unwrap()),
                    () = tokio::task::yield_now() => most = most.max(budget.held()),
                }
            }
            streams
        };
        let streams = tokio::time::timeout(PATIENCE, watching).await;
        assert!(streams.is_ok(), "{name}: {most} bytes at most, and nothing was done about it");
        assert!(most <= BUDGET + SLACK, "{name}: {most} bytes were held");
        // They are still there, and so is everybody else.
        assert_eq!(ann.ask("typing", json!({"documentId": "d", "isTyping": true})).await, json!({}), "{name}");
        drop(streams);
        until(name, || gateway.server.pod().registry.count() == 1 && !budget.is_tight()).await;
        let version = ann.ask("edit", json!({"documentId": "d", "version": 0, "ops": []})).await["version"].clone();
        assert!(version.is_u64(), "{name}: {version}");
    }
    drop(ann);
    until("all bytes are given back", || budget.held() == 0).await;
}

#[tokio::test]
async fn while_memory_is_used_up_joins_are_put_off_and_edits_wait() {
    let gateway = Gateway::start(Trust::Everything, &[]).await;
    let (mut ann, _) = Client::joined(&gateway, "ann", "a1", "d").await;
    let mut bob = Client::connected(&gateway, "bob", "b1").await;
    let budget = gateway.server.pod().registry.outboxes().pop().unwrap().budget().clone();
    let mut hog = budget.charge(Use::Frames);
    hog.set(1 << 30);
    let error = bob.ask("join-document", json!("d")).await["error"].clone();
    assert_eq!(error["code"], "OVERLOADED");
    assert!(error["retryAfterMs"].as_u64().unwrap() >= 1000, "{error}");
    ann.send(r#"429["edit",{"documentId":"d","version":0,"seq":1,"ops":[{"insert":"late"}]}]"#).await;
    ann.send(r#"428["leave-document","other"]"#).await;
    until("edits wait", || overloads(&gateway, &["edits"]) > 0).await;
    drop(hog);
    assert_eq!(ann.answer(9).await, json!({"version": 1}));
    assert_eq!(ann.answer(8).await, json!({}));
    bob.join(json!("d")).await;
}

/// How often something was done because of memory.
fn overloads(gateway: &Gateway, effects: &[&'static str]) -> u64 {
    let overloaded = &gateway.server.pod().metrics.overloaded;
    effects.iter().map(|what| overloaded.get_or_create(&Overloaded { what }).get()).sum()
}

/// The heartbeat stands behind the content, and nothing is read from whoever joins again meanwhile.
#[tokio::test]
async fn whoever_takes_longer_than_a_heartbeat_to_read_a_large_document_is_not_taken_for_dead() {
    /// Within 10 s a peer must answer; the kernel says that there is room when a third of its 4 MiB is read, after 6 s.
    const HEARTBEAT: [&str; 4] = ["--ping-interval", "5s", "--ping-timeout", "5s"];
    const READING: Duration = Duration::from_secs(13);
    const BYTES_PER_MS: u128 = 250;
    let gateway = Gateway::start(Trust::Everything, &HEARTBEAT).await;
    // Eight megabytes on the wire: what is read slowly and what the kernel holds are less.
    gateway.store.set("doc:large:content", Some(&"\n".repeat(4_000_000)));
    let mut stream = unread(gateway.address, "ann").await;
    let outbox = gateway.server.pod().registry.outboxes().pop().unwrap();
    stream.write_all(&text("42[\"join-document\",\"large\"]")).await.unwrap();
    // A busy machine takes longer than the heartbeat to make it.
    let lives = async {
        loop {
            stream.write_all(&text("3")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = until("the content waits", || outbox.has_snapshot()) => {}
        () = lives => {}
    }
    stream.write_all(&text("42[\"join-document\",\"small\"]")).await.unwrap();
    let (start, mut buffer, mut read) = (Instant::now(), vec![0; 16 << 10], 0);
    while start.elapsed() < READING {
        while read < start.elapsed().as_millis() * BYTES_PER_MS {
            read += stream.read(&mut buffer).await.unwrap() as u128;
            assert!(!outbox.is_closing(), "closed after {:?} and {read} bytes", start.elapsed());
        }
        // The pace of a slow network.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(outbox.has_snapshot(), "make it larger");
    let mut last = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&last).contains(r#""documentId":"small""#) {
            last.drain(..last.len().saturating_sub(1024));
            assert!(stream.read_buf(&mut last).await.unwrap() > 0, "closed after {:?}", start.elapsed());
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the second join is answered");
}

#[tokio::test]
async fn whoever_answers_heartbeats_and_reads_nothing_is_closed() {
    let gateway = Gateway::start(Trust::Everything, &["--ping-interval", "1s", "--ping-timeout", "1s"]).await;
    let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", gateway.address);
    let (mut ann, _): (WebSocketStream<MaybeTlsStream<TcpStream>>, _) =
        tokio_tungstenite::connect_async(url).await.unwrap();
    let sign_in = format!("40{}", json!({"token": token("ann"), "clientId": "a1"}));
    for message in [sign_in.as_str(), "42[\"join-document\",\"d\"]"] {
        ann.send(Message::text(message)).await.unwrap();
    }
    let (_unread, mut bob) = unread(gateway.address, "bob").await.into_split();
    bob.write_all(&text("42[\"join-document\",\"d\"]")).await.unwrap();
    // Alive as far as heartbeats tell.
    let alive = tokio::spawn(async move {
        while bob.write_all(&text("3")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let slow = || gateway.server.pod().metrics.slow_consumers.get();
    let mut version = 0;
    let waits = || gateway.server.pod().registry.outboxes().iter().any(|outbox| outbox.waiting().bytes() > 0);
    // Edits until one of them stands in line, then no more: the outbox stays far below its limit.
    let by = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < by, "nothing waits");
        let Some(Ok(message)) = ann.next().await else { panic!("ann was closed") };
        let Message::Text(said) = message else { continue };
        if said.as_str() == "2" {
            ann.send(Message::text("3")).await.unwrap();
        }
        let joined = said.starts_with("42[\"document-joined\"");
        let answer: Option<Value> = said.strip_prefix("431").and_then(|rest| serde_json::from_str(rest).ok());
        version = answer.as_ref().and_then(|answer| answer[0]["version"].as_u64()).unwrap_or(version);
        if gateway.server.pod().registry.outboxes().len() < 2 || slow() > 0 || (waits() && version > 3) {
            break;
        }
        if joined || answer.is_some() {
            let ops =
                if version % 2 == 0 { json!([{"insert": "x".repeat(200_000)}]) } else { json!([{"delete": 200_000}]) };
            let edit = json!({"documentId": "d", "version": version, "seq": version + 1, "ops": ops});
            ann.send(Message::text(format!("421{}", json!(["edit", edit])))).await.unwrap();
        }
    }
    tokio::time::timeout(PATIENCE, alive).await.expect("closed").unwrap();
    assert_eq!(slow(), 1);
    drop(ann);
}
