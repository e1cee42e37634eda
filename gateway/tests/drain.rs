//! Going away as a process: signals and orders, at the pace, with nothing lost that was acknowledged.
//!
//! In: gateways as processes on a real Redis, editors that go on typing. Out: exit codes, the moments of closes, and one
//! text that holds every token exactly once.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod pods;
mod servers;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use editor::{Editor, Socket, connect, token};
use futures_util::{SinkExt, StreamExt, future::join_all};
use pods::{Pod, http};
use redis::AsyncCommands;
use serde_json::{Value, json};
use servers::{Engine, PATIENCE, Server, eventually};
use tokio_tungstenite::tungstenite::Message;

/// What a process may need besides its drain's deadline: to say goodbye and to end.
const ENDING: Duration = Duration::from_secs(8);

/// A server on which these users may write these documents.
async fn stage(users: &[String], documents: &[String]) -> Server {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    for document in documents {
        for user in users.iter().map(String::as_str).chain(["eve"]) {
            client.set::<_, _, ()>(format!("doc:{document}:access:{user}"), "write").await.unwrap();
        }
    }
    server
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

/// Types until told to stop; gives what was typed. All of it is confirmed then.
async fn type_until(editor: &mut Editor, stop: &AtomicBool) -> Vec<String> {
    let mut typed = Vec::new();
    while !stop.load(Ordering::Relaxed) || typed.is_empty() {
        let more: Vec<_> = (0..5).map(|n| format!("{}x{}", editor.user, typed.len() + n)).collect();
        editor.type_all(more.clone()).await;
        typed.extend(more);
    }
    typed
}

/// A newcomer to the document finds every token exactly once.
async fn holds(document: &str, gateway: &Pod, mut expected: Vec<String>) {
    let mut eve = Editor::new("eve", document, &[gateway.address], 9);
    eve.until("eve is in", Editor::is_joined).await;
    let mut found: Vec<_> = eve.text().split_whitespace().map(str::to_owned).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "{document}");
}

/// When the gateway closed its connections, in milliseconds of its drain, by the clock that its pace counts by: clients, and
/// the lines of its log, may hear of several at once.
fn schedule(pod: &Pod) -> Vec<u64> {
    let log = pod.log();
    let closes = log.iter().filter(|line| line["message"] == "draining a connection");
    closes.map(|line| line["after_ms"].as_u64().unwrap()).collect()
}

/// The most of these moments, given in order, within any so many milliseconds.
fn most_within(moments_ms: &[u64], window_ms: u64) -> usize {
    let from = |at: usize| moments_ms[at..].iter().take_while(|moment| **moment < moments_ms[at] + window_ms).count();
    (0..moments_ms.len()).map(from).max().unwrap_or(0)
}

fn drained(editor: &Editor) -> impl Iterator<Item = Instant> {
    editor.closes.iter().filter(|(_, code)| *code == Some(1012)).map(|(at, _)| *at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_typing_editors_move_at_the_rate_and_nothing_is_lost_or_doubled() {
    let (users, documents) = (names("u", 50), names("d", 5));
    let server = stage(&users, &documents).await;
    let flags = ["--drain-rate=10", "--drain-deadline=40s", "--log-level=debug"];
    let (mut one, two) = (Pod::start(&server.address(), &flags), Pod::start(&server.address(), &flags));
    // Four in five begin where the drain will be.
    let mut editors: Vec<_> = (0..50)
        .map(|n| {
            let gateways = if n % 5 == 0 { [two.address; 2] } else { [one.address, two.address] };
            Editor::new(&users[n], &documents[n % 5 * 2 % 5], &gateways, n as u64)
        })
        .collect();
    let stop = AtomicBool::new(false);
    let draining = async {
        eventually("all are in", async || one.metric("collab_gateway_connections_accepted_total").await == Some(40.0))
            .await;
        let before = one.metric("collab_gateway_edits_committed_total").await.unwrap();
        eventually("they type", async || {
            one.metric("collab_gateway_edits_committed_total").await.unwrap() > before + 100.0
        })
        .await;
        one.signal("TERM");
        let began = Instant::now();
        eventually("it is not ready", async || one.get("/readyz").await.0 == 503).await;
        assert_eq!(one.metric("collab_gateway_draining").await, Some(1.0));
        assert!(one.metric("collab_gateway_drain_connections_left").await.unwrap() > 0.0);
        let code = one.exit_code().await;
        stop.store(true, Ordering::Relaxed);
        (code, began, began.elapsed())
    };
    let typing = join_all(editors.iter_mut().map(|editor| type_until(editor, &stop)));
    let ((code, began, took), typed) = tokio::join!(draining, typing);
    assert_eq!(code, Some(0), "{:?}", one.log());
    let mut closes: Vec<_> = editors.iter().flat_map(drained).collect();
    assert_eq!(closes.len(), 40, "each of its connections was closed once, with the code of a restart");
    closes.sort_unstable();
    let schedule = schedule(&one);
    assert_eq!(schedule.len(), 40, "every close is logged");
    let most = most_within(&schedule, 1000);
    assert!(most <= 10, "{most} closes within a second");
    eprintln!(
        "at most {most} closes within a second, the last after {:?}, the end after {took:?}",
        *closes.last().unwrap() - began
    );
    // The others go on typing in the same documents, which keeps none of them open.
    assert!(took < Duration::from_secs(8), "4 s of closes took {took:?}");
    // What each was told, and when it was closed.
    let mut told: Vec<(u64, Instant)> = Vec::new();
    for editor in editors.iter().filter(|editor| drained(editor).next().is_some()) {
        let (at, after_ms) = editor.hints.first().expect("a hint before the close");
        assert!(*at < began + Duration::from_secs(5), "a hint after {:?}", *at - began);
        told.push((*after_ms, drained(editor).next().unwrap()));
    }
    told.sort_unstable();
    assert!((3000..4000).contains(&told[39].0), "40 at 10 a second: {told:?}");
    let mean = |part: &[(u64, Instant)]| part.iter().map(|(_, at)| *at - began).sum::<Duration>() / 10;
    assert!(mean(&told[..10]) + Duration::from_secs(1) < mean(&told[30..]), "{told:?}");
    for document in &documents {
        let here = editors.iter().zip(&typed).filter(|(editor, _)| editor.document == *document);
        holds(document, &two, here.flat_map(|(_, typed)| typed.clone()).collect()).await;
    }
}

/// A client hears of its close a little after it was decided: late ones and the next ones come together. So more than the
/// rate may arrive within a second, by as many as the pace allows in the time by which the latest was late, and never is
/// one too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_clients_are_closed_at_the_rate_as_the_clients_see_it() {
    const CLIENTS: usize = 150;
    const RATE: usize = 25;
    let server = stage(&[], &[]).await;
    let flags = ["--drain-deadline=120s", "--log-level=debug", &format!("--drain-rate={RATE}")];
    let mut pod = Pod::start(&server.address(), &flags);
    let mut idle = Vec::new();
    for n in 0..CLIENTS {
        idle.push(idle_client(pod.address, &format!("u{n}")).await);
    }
    let told = Instant::now();
    pod.signal("TERM");
    let closing = join_all(idle.into_iter().map(|socket| tokio::spawn(closed_at(socket))));
    let mut seen_ms: Vec<u64> =
        closing.await.into_iter().map(|at| u64::try_from((at.unwrap() - told).as_millis()).unwrap()).collect();
    assert_eq!(pod.exit_code().await, Some(0), "{:?}", pod.log());
    seen_ms.sort_unstable();
    let schedule = schedule(&pod);
    assert_eq!(schedule.len(), CLIENTS);
    // The drain began after the signal, so that nobody may see a close before its time counted from there.
    let early = seen_ms.iter().zip(&schedule).find(|(seen, due)| seen < due);
    assert!(early.is_none(), "{early:?}");
    let late_ms = seen_ms.iter().zip(&schedule).map(|(seen, due)| seen - due).max().unwrap();
    for seconds in [1, 2, 5] {
        let (sent, seen) = (most_within(&schedule, seconds * 1000), most_within(&seen_ms, seconds * 1000));
        let whole_s = usize::try_from(seconds + late_ms / 1000).unwrap();
        // Within the rest the distances may be the shortest, a quarter less than even, and some work made up for.
        let rest_ms = usize::try_from(late_ms % 1000).unwrap() + 100;
        let most = RATE * whole_s + RATE.min(rest_ms * RATE / 750 + 1);
        eprintln!("{sent} closes sent within {seconds} s, {seen} seen, {late_ms} ms late at most, {most} allowed");
        assert!(sent <= RATE * usize::try_from(seconds).unwrap(), "{sent} within {seconds} s");
        assert!(seen <= most, "{seen} of {most} within {seconds} s");
    }
}

/// One who signs in and then says nothing.
async fn idle_client(gateway: std::net::SocketAddr, user: &str) -> Socket {
    let mut socket = connect(gateway, false).await.unwrap();
    socket.send(Message::text(format!("40{}", json!({"token": token(user)})))).await.unwrap();
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("an answer").unwrap().unwrap();
        if message.to_text().unwrap().starts_with("40") {
            return socket;
        }
    }
}

/// When the close frame of a restart came.
async fn closed_at(mut socket: Socket) -> Instant {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a close").unwrap().unwrap();
        if let Message::Close(frame) = message {
            let at = Instant::now();
            assert_eq!(frame.map(|frame| frame.code.into()), Some(1012u16));
            return at;
        }
        if message == Message::text("2") {
            socket.send(Message::text("3")).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_hurries_and_still_finishes_what_is_under_way() {
    let (users, documents) = (names("u", 20), names("d", 2));
    let server = stage(&users, &documents).await;
    let flags = ["--drain-rate=1", "--drain-deadline=600s"];
    let (mut one, two) = (Pod::start(&server.address(), &flags), Pod::start(&server.address(), &[]));
    let gateways = [one.address, two.address];
    let mut editors: Vec<_> = (0..20).map(|n| Editor::new(&users[n], &documents[n % 2], &gateways, n as u64)).collect();
    let stop = AtomicBool::new(false);
    let draining = async {
        eventually("they type", async || one.metric("collab_gateway_edits_committed_total").await > Some(100.0)).await;
        one.signal("TERM");
        eventually("one was closed", async || one.metric("collab_gateway_connections").await < Some(20.0)).await;
        assert!(one.metric("collab_gateway_connections").await > Some(10.0), "one a second");
        one.signal("TERM");
        let hurried = Instant::now();
        let code = one.exit_code().await;
        stop.store(true, Ordering::Relaxed);
        (code, hurried.elapsed())
    };
    let typing = join_all(editors.iter_mut().map(|editor| type_until(editor, &stop)));
    let ((code, took), typed) = tokio::join!(draining, typing);
    assert_eq!(code, Some(0), "{:?}", one.log());
    assert!(took < ENDING, "{took:?}");
    for document in &documents {
        let here = editors.iter().zip(&typed).filter(|(editor, _)| editor.document == *document);
        holds(document, &two, here.flat_map(|(_, typed)| typed.clone()).collect()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_it_ends_in_time_and_says_that_edits_were_given_up() {
    let users = names("u", 4);
    let mut server = stage(&users, &["d".to_owned()]).await;
    let flags = ["--drain-rate=100", "--drain-deadline=6s"];
    let (mut one, mut two) = (Pod::start(&server.address(), &flags), Pod::start(&server.address(), &flags));
    let mut editors: Vec<_> = users.iter().map(|user| Editor::new(user, "d", &[one.address], 1)).collect();
    let mut watcher = Editor::new("eve", "d", &[two.address], 5);
    watcher.until("eve is in", Editor::is_joined).await;
    for editor in &mut editors {
        editor.type_all(vec![format!("{}first", editor.user)]).await;
    }
    server.kill();
    for editor in &mut editors {
        editor.insert(&format!("{}second", editor.user)).await;
    }
    eventually("the store is missed", async || {
        one.log().iter().any(|line| line["message"].as_str().is_some_and(|m| m.contains("a commit was not answered")))
    })
    .await;
    let began = Instant::now();
    for pod in [&one, &two] {
        pod.signal("TERM");
    }
    assert_eq!(one.exit_code().await, Some(1), "edits were given up");
    assert!(began.elapsed() < Duration::from_secs(6) + ENDING, "{:?}", began.elapsed());
    assert!(one.log().iter().any(|line| line["documents_unsettled"] == 1), "{:?}", one.log());
    assert_eq!(two.exit_code().await, Some(0), "nothing was under way here: {:?}", two.log());
    server.start_again().await;
    let three = Pod::start(&server.address(), &[]);
    let mut expected = Vec::new();
    for editor in &mut editors {
        editor.moves_to(three.address);
        editor.type_all(vec![format!("{}third", editor.user)]).await;
        expected.extend(["first", "second", "third"].map(|word| format!("{}{word}", editor.user)));
    }
    holds("d", &three, expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_joining_gets_in_or_is_sent_away_but_never_hangs() {
    let (users, documents) = (names("u", 60), names("d", 6));
    let server = stage(&users, &documents).await;
    let flags = ["--drain-rate=1000", "--drain-deadline=30s"];
    let (mut one, two) = (Pod::start(&server.address(), &flags), Pod::start(&server.address(), &[]));
    let gateways = [one.address, two.address];
    let mut editors: Vec<_> = (0..60).map(|n| Editor::new(&users[n], &documents[n % 6], &gateways, n as u64)).collect();
    let draining = async {
        eventually("some are in", async || one.metric("collab_gateway_connections").await >= Some(10.0)).await;
        one.signal("TERM");
        one.exit_code().await
    };
    let typing = join_all(editors.iter_mut().map(|editor| {
        let words: Vec<_> = (0..3).map(|n| format!("{}x{n}", editor.user)).collect();
        async move {
            editor.type_all(words.clone()).await;
            words
        }
    }));
    let (code, typed) = tokio::join!(draining, typing);
    assert_eq!(code, Some(0), "{:?}", one.log());
    for document in &documents {
        let here = editors.iter().zip(&typed).filter(|(editor, _)| editor.document == *document);
        holds(document, &two, here.flat_map(|(_, typed)| typed.clone()).collect()).await;
    }
}

/// Sends a request to the agent's socket; the status code and what was answered.
async fn control(path: &std::path::Path, request: &str, body: Value) -> (u16, Value) {
    let stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let body = body.to_string();
    let head = format!("host: gateway\r\nconnection: close\r\ncontent-length: {}", body.len());
    let (code, answer) = http(stream, &format!("{request} HTTP/1.1\r\n{head}\r\n\r\n{body}")).await;
    (code, serde_json::from_str(&answer).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_orders_a_drain_changes_it_and_calls_it_off() {
    let users = names("u", 30);
    let server = stage(&users, &["d".to_owned()]).await;
    let folder = tempfile::tempdir().unwrap();
    let (socket, settings) = (folder.path().join("control"), folder.path().join("gateway.yaml"));
    std::fs::write(&settings, "drain-rate: 1\n").unwrap();
    let flags = ["--control-socket", socket.to_str().unwrap(), "--config", settings.to_str().unwrap()];
    let (mut one, two) = (Pod::start(&server.address(), &flags), Pod::start(&server.address(), &[]));
    let mut editors: Vec<_> =
        (0..30).map(|n| Editor::new(&users[n], "d", &[one.address, two.address], n as u64)).collect();
    let stop = AtomicBool::new(false);
    let ordering = async {
        eventually("all are in", async || one.metric("collab_gateway_connections").await == Some(30.0)).await;
        let (code, before) = control(&socket, "GET /v1/status", json!(null)).await;
        assert_eq!((code, &before["draining"], &before["connections"]), (200, &json!(false), &json!(30)));
        for (request, body, expected) in [
            ("POST /v1/drain", json!({"ratePerSecond": 0}), 400),
            ("POST /v1/drain", json!({"hurry": "up"}), 400),
            ("PUT /v1/drain", json!({}), 405),
            ("GET /metrics", json!({}), 404),
        ] {
            let (code, answer) = control(&socket, request, body).await;
            assert!(code == expected && answer["error"].is_string(), "{request}: {code} {answer}");
        }
        let order = json!({"deadlineMs": 600_000, "stayReady": true});
        let (_, begun) = control(&socket, "POST /v1/drain", order.clone()).await;
        assert_eq!((&begun["draining"], &begun["ratePerSecond"]), (&json!(true), &json!(1)));
        assert_eq!(one.get("/readyz").await.0, 200, "it was to stay ready");
        eventually("somebody is gone", async || one.metric("collab_gateway_connections").await < Some(30.0)).await;
        assert!(one.metric("collab_gateway_connections").await > Some(20.0), "one a second");
        // Called off: whoever is still here stays, and new ones are welcome.
        let (_, off) = control(&socket, "DELETE /v1/drain", json!(null)).await;
        assert_eq!(off["draining"], false);
        let mut eve = Editor::new("eve", "d", &[one.address], 7);
        eve.until("eve is in", Editor::is_joined).await;
        drop(eve);
        // Again, and faster by the file of live settings.
        control(&socket, "POST /v1/drain", order).await;
        std::fs::write(&settings, "drain-rate: 500\n").unwrap();
        let faster = Instant::now();
        eventually("all are gone", async || one.metric("collab_gateway_connections").await == Some(0.0)).await;
        assert!(faster.elapsed() < Duration::from_secs(15), "{:?}", faster.elapsed());
        let (_, empty) = control(&socket, "GET /v1/status", json!(null)).await;
        assert_eq!((&empty["ratePerSecond"], &empty["connections"]), (&json!(500), &json!(0)));
        assert!(one.is_running(), "it ends by a signal, not by an order");
        stop.store(true, Ordering::Relaxed);
    };
    let typing = join_all(editors.iter_mut().map(|editor| type_until(editor, &stop)));
    let ((), typed) = tokio::join!(ordering, typing);
    one.signal("TERM");
    let ended = tokio::time::timeout(PATIENCE, one.exit_code()).await;
    assert_eq!(ended, Ok(Some(0)), "{:?}", one.log());
    assert!(!socket.exists(), "the socket goes with the process");
    holds("d", &two, typed.concat()).await;
}
