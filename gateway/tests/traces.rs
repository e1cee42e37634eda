//! Traces: what reaches a collector, and what editors notice of one that is away.
//!
//! In: a gateway as a process on a real Redis, editors, a collector that speaks OTLP over HTTP. Out: the spans that it got.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod collector;
mod editor;
mod pods;
mod servers;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use collab_gateway::{
    live::LogLevel,
    log::{Bound, filter},
    telemetry::TARGET,
};
use collector::{ALL, Collector, number, text};
use editor::Editor;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use pods::Pod;
use redis::AsyncCommands;
use servers::{Engine, Server, eventually};
use tokio::net::TcpListener;
use tracing_subscriber::{
    Layer,
    filter::filter_fn,
    layer::{Context, SubscriberExt},
    reload,
};

/// The processes have subscribers of their own, so this one is alone here.
#[test]
fn the_log_makes_no_span_that_is_only_traced() {
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(filter(LogLevel::Trace));
    let (level, handle) = reload::Layer::new(filter(LogLevel::Info));
    let changing = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(level);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(log).with(changing), || {
        let commit = || tracing::info_span!(target: TARGET, parent: None, "commit", entries = 1);
        assert!(commit().is_disabled());
        handle.reload(filter(LogLevel::Debug)).unwrap();
        assert!(commit().is_disabled());
        assert!(!tracing::info_span!("of the log").is_disabled());
    });
    // Lines that a storm lost must not change what the traces' filter says next.
    let (lines, spans) = (Counted::default(), Counted::default());
    let log = Bound::default().and_then(lines.clone()).with_filter(filter(LogLevel::Info));
    let traces = spans.clone().with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(log).with(traces), || {
        for number in 0..100 {
            tracing::warn!(number, "a client failed");
            assert!(!tracing::info_span!(target: TARGET, parent: None, "commit", number).is_disabled());
        }
    });
    let count = |counted: &Counted| (counted.0.load(Ordering::Relaxed), counted.1.load(Ordering::Relaxed));
    assert_eq!((count(&lines), count(&spans)), ((50, 0), (0, 100)));
}

/// Events and spans.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>, Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Counted {
    fn on_event(&self, _event: &tracing::Event<'_>, _context: Context<'_, S>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn on_new_span(&self, _span: &tracing::span::Attributes<'_>, _id: &tracing::Id, _context: Context<'_, S>) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

async fn redis_for(users: &[&str], document: &str) -> Server {
    let server = Server::start(Engine::Redis, &[]).await.unwrap();
    let mut client = server.client().await;
    for user in users {
        client.set::<_, _, ()>(format!("doc:{document}:access:{user}"), "write").await.unwrap();
    }
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_a_join_commits_and_a_drain_reach_the_collector_with_their_parents() {
    let document = "d".repeat(128);
    let server = redis_for(&["ann"], &document).await;
    let collector = Collector::start().await;
    let endpoint = format!("--otlp-endpoint=http://{}", collector.address);
    let mut pod = Pod::start_in(&server.address(), &[&endpoint], &ALL);
    let mut ann = Editor::new("ann", &document, &[pod.address], 1);
    ann.type_all((0..20).map(|n| format!("ann{n}")).collect()).await;

    let (connect, join) = (collector.one("connect").await, collector.one("join").await);
    assert!(connect.parent_span_id.is_empty(), "{connect:?}");
    assert_eq!(text(&connect.attributes, "outcome").as_deref(), Some("accepted"));
    assert_eq!((&join.parent_span_id, &join.trace_id), (&connect.span_id, &connect.trace_id));
    assert_eq!(text(&join.attributes, "outcome").as_deref(), Some("joined"));
    assert_eq!(text(&join.attributes, "document.id"), Some(document.clone()));
    let open = collector.one("document.open").await;
    for (name, parent) in [
        ("connect.token", &connect),
        ("connect.user", &connect),
        ("document.open", &join),
        ("store.lookup", &join),
        ("store.open", &open),
        ("store.presence", &open),
        ("bus.subscribe", &open),
    ] {
        let span = collector.one(name).await;
        assert_eq!((&span.parent_span_id, &span.trace_id), (&parent.span_id, &parent.trace_id), "{name}");
        let is_within = parent.start_time_unix_nano <= span.start_time_unix_nano
            && span.start_time_unix_nano <= span.end_time_unix_nano
            && span.end_time_unix_nano <= parent.end_time_unix_nano;
        assert!(is_within, "{name}: {span:?} in {parent:?}");
    }
    // All edits are in the spans of the batches that brought them, each with its one call of the store.
    let entries = |collector: &Collector| -> i64 {
        collector.named("commit").iter().map(|span| number(&span.attributes, "entries").unwrap()).sum()
    };
    eventually("all commits", async || entries(&collector) == 20).await;
    let mut calls = HashMap::new();
    eventually("their calls", async || {
        calls = collector.named("store.commit").into_iter().map(|call| (call.parent_span_id.clone(), call)).collect();
        calls.len() == collector.named("commit").len()
    })
    .await;
    for commit in collector.named("commit") {
        assert!(commit.parent_span_id.is_empty() && calls.contains_key(&commit.span_id), "{commit:?}");
        assert_eq!(number(&commit.attributes, "attempts"), Some(1));
        assert_eq!(number(&commit.attributes, "appended"), number(&commit.attributes, "entries"));
    }

    let mut bob = Editor::new("bob", &document, &[pod.address], 2);
    bob.until("bob is refused", |bob| bob.heard.iter().any(|(name, _)| name == "join-error")).await;
    let refused = async || {
        let outcomes = collector.named("join").into_iter().map(|join| text(&join.attributes, "outcome").unwrap());
        outcomes.collect::<Vec<_>>().contains(&"ACCESS_DENIED".to_owned())
    };
    eventually("bob's join with its refusal", refused).await;
    drop(bob);

    pod.signal("TERM");
    ann.until("ann was let go", |ann| !ann.closes.is_empty()).await;
    assert_eq!(pod.exit_code().await, Some(0));
    // Sent before the process ended, or never.
    let drain = collector.named("drain").pop().expect("the drain");
    assert_eq!(text(&drain.attributes, "outcome").as_deref(), Some("clean"));
    assert!(number(&drain.attributes, "connections").unwrap() >= 1, "{drain:?}");
    for name in ["drain.connections", "drain.documents"] {
        assert_eq!(collector.named(name).pop().expect(name).parent_span_id, drain.span_id, "{name}");
    }
    let got = collector.got.lock().unwrap();
    assert_eq!(text(&got.resource, "service.name").as_deref(), Some("collab-gateway"));
    assert!(got.paths.iter().all(|path| path == "/v1/traces") && !got.paths.is_empty(), "{:?}", got.paths);
    assert!(got.types.iter().all(|kind| kind == "application/x-protobuf"), "{:?}", got.types);
    let said = pod.log();
    assert!(said.iter().all(|line| line["level"] != "WARN" && line.get("spans").is_none()), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_spans_they_are_is_what_the_pod_and_the_variables_say() {
    let server = redis_for(&["ann"], "d").await;
    let in_pod = [("HOSTNAME", "docs-1"), ("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("POD_NAMESPACE", "collab")];
    let said = [("OTEL_SERVICE_NAME", "editors"), ("OTEL_RESOURCE_ATTRIBUTES", "k8s.namespace.name=other,team=docs")];
    for (variables, expected) in [
        (
            vec![("HOSTNAME", "laptop"), ("KUBERNETES_SERVICE_HOST", ""), ("POD_NAMESPACE", "")],
            vec![("service.name", "collab-gateway"), ("service.instance.id", "laptop")],
        ),
        (
            in_pod.to_vec(),
            vec![
                ("service.name", "collab-gateway"),
                ("service.instance.id", "docs-1"),
                ("k8s.pod.name", "docs-1"),
                ("k8s.namespace.name", "collab"),
            ],
        ),
        (
            [&in_pod[..], &said].concat(),
            vec![
                ("service.name", "editors"),
                ("service.instance.id", "docs-1"),
                ("k8s.pod.name", "docs-1"),
                ("k8s.namespace.name", "other"),
                ("team", "docs"),
            ],
        ),
    ] {
        let collector = Collector::start().await;
        let endpoint = format!("--otlp-endpoint=http://{}", collector.address);
        let pod = Pod::start_in(&server.address(), &[&endpoint], &[&ALL[..], &variables].concat());
        let mut ann = Editor::new("ann", "d", &[pod.address], 1);
        ann.until("ann is in", Editor::is_joined).await;
        collector.one("connect").await;
        let resource = collector.got.lock().unwrap().resource.clone();
        let got: BTreeMap<_, _> =
            resource.iter().map(|pair| (&*pair.key, text(&resource, &pair.key).unwrap())).collect();
        let own = [("service.version", env!("CARGO_PKG_VERSION"))];
        let expected: BTreeMap<_, _> = expected.into_iter().chain(own).map(|(k, v)| (k, v.to_owned())).collect();
        let of_library = |(name, _): &(&str, String)| !name.starts_with("telemetry.sdk.");
        assert_eq!(got.into_iter().filter(of_library).collect::<BTreeMap<_, _>>(), expected);
    }
}

/// What is said of the collector.
fn complaints(pod: &Pod) -> usize {
    pod.log().iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains("collector"))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn editors_notice_nothing_of_a_collector_that_is_away_or_says_nothing() {
    let server = redis_for(&["ann"], "d").await;
    // Nobody accepts what the backlog of this one takes; nobody listens at the other.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, least) in [(closed, 1), (silent.local_addr().unwrap(), 0)] {
        let endpoint = format!("http://{address}");
        let variables = [ALL[0], ALL[1], ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_BSP_MAX_QUEUE_SIZE", "8")];
        let mut pod = Pod::start_in(&server.address(), &[], &variables);
        let mut ann = Editor::new("ann", "d", &[pod.address], 1);
        ann.type_all((0..300).map(|n| format!("{address}-{n}")).collect()).await;
        assert_eq!(ann.closes.len(), 0, "{:?}", ann.closes);
        eventually("it is said", async || complaints(&pod) >= least).await;
        let begun = Instant::now();
        pod.signal("TERM");
        ann.until("ann was let go", |ann| !ann.closes.is_empty()).await;
        assert_eq!(pod.exit_code().await, Some(0), "{:?}", pod.log());
        // The drain of one client, and two seconds for traces that nobody takes.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        // Once for all, and perhaps the last ones.
        assert!(complaints(&pod) <= 1, "{:?}", pod.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_there_are_no_traces_and_with_one_that_refuses_it_is_said_once() {
    let server = redis_for(&["ann"], "d").await;
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    for (flags, variables) in [
        (vec![], ALL.to_vec()),
        (vec!["--otlp-endpoint", &endpoint], vec![ALL[0], ALL[1], ("OTEL_SDK_DISABLED", "true")]),
        (vec!["--otlp-endpoint", &endpoint], vec![("OTEL_TRACES_SAMPLER", "always_off"), ALL[1]]),
    ] {
        let mut pod = Pod::start_in(&server.address(), &flags, &variables);
        let mut ann = Editor::new("ann", "d", &[pod.address], 1);
        ann.type_all(vec!["x".into()]).await;
        pod.signal("TERM");
        ann.until("ann was let go", |ann| !ann.closes.is_empty()).await;
        assert_eq!(pod.exit_code().await, Some(0));
        assert_eq!(collector.got.lock().unwrap().paths.len(), 0, "{flags:?} {variables:?}");
    }
    // Anything that answers, but not as a collector does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                *count.lock().unwrap() += 1;
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = StatusCode::NOT_FOUND;
                std::future::ready(Ok::<_, Infallible>(response))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let mut pod = Pod::start_in(&server.address(), &["--otlp-endpoint", &endpoint], &ALL);
    let mut ann = Editor::new("ann", "d", &[pod.address], 1);
    ann.type_all((0..50).map(|n| format!("y{n}")).collect()).await;
    eventually("it was asked more than once", async || *asked.lock().unwrap() > 1).await;
    eventually("it is said", async || complaints(&pod) > 0).await;
    pod.signal("KILL");
    pod.exit_code().await;
    assert_eq!(complaints(&pod), 1, "{:?}", pod.log());
}
