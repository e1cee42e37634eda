//! Traces: what reaches a collector, and what editors notice of one that is away.
//!
//! In: a gateway as a process on a real Redis, editors, a collector that speaks OTLP over HTTP. Out: the spans that it got.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod pods;
mod servers;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
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
use editor::Editor;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use pods::Pod;
use prost::Message;
use redis::AsyncCommands;
use servers::{Engine, Server, eventually};
use tokio::net::TcpListener;
use tracing_subscriber::{
    Layer,
    filter::filter_fn,
    layer::{Context, SubscriberExt},
    reload,
};

/// Every trace, and soon.
const ALL: [(&str, &str); 2] = [("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_BSP_SCHEDULE_DELAY", "20")];

struct Collector {
    address: SocketAddr,
    got: Arc<Mutex<Got>>,
}

#[derive(Default)]
struct Got {
    spans: Vec<Span>,
    service: String,
    paths: Vec<String>,
    types: Vec<String>,
}

impl Collector {
    async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, got) = (listener.local_addr().unwrap(), Arc::<Mutex<Got>>::default());
        let collector = Collector { address, got: got.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let got = got.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| take(request, got.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        collector
    }

    fn named(&self, name: &str) -> Vec<Span> {
        self.got.lock().unwrap().spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    async fn one(&self, name: &str) -> Span {
        eventually(name, async || !self.named(name).is_empty()).await;
        self.named(name).remove(0)
    }
}

async fn take(request: Request<Incoming>, got: Arc<Mutex<Got>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let kind = request.headers()["content-type"].to_str().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message = ExportTraceServiceRequest::decode(body).unwrap();
    let mut got = got.lock().unwrap();
    got.paths.push(path);
    got.types.push(kind);
    for resource in message.resource_spans {
        got.service = text(&resource.resource.unwrap().attributes, "service.name").unwrap();
        got.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    Ok(Response::new(Full::default()))
}

fn value(attributes: &[KeyValue], name: &str) -> Option<Value> {
    attributes.iter().find(|pair| pair.key == name)?.value.clone()?.value
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let value = value(attributes, name)?;
    let Value::StringValue(text) = value else { panic!("{name} is {value:?}") };
    Some(text)
}

fn number(attributes: &[KeyValue], name: &str) -> Option<i64> {
    let value = value(attributes, name)?;
    let Value::IntValue(number) = value else { panic!("{name} is {value:?}") };
    Some(number)
}

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
    assert_eq!(got.service, "collab-gateway");
    assert!(got.paths.iter().all(|path| path == "/v1/traces") && !got.paths.is_empty(), "{:?}", got.paths);
    assert!(got.types.iter().all(|kind| kind == "application/x-protobuf"), "{:?}", got.types);
    let said = pod.log();
    assert!(said.iter().all(|line| line["level"] != "WARN" && line.get("spans").is_none()), "{said:?}");
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
    let pod = Pod::start_in(&server.address(), &["--otlp-endpoint", &endpoint], &ALL);
    let mut ann = Editor::new("ann", "d", &[pod.address], 1);
    ann.type_all((0..50).map(|n| format!("y{n}")).collect()).await;
    eventually("it was asked more than once", async || *asked.lock().unwrap() > 1).await;
    assert_eq!(complaints(&pod), 1, "{:?}", pod.log());
}
