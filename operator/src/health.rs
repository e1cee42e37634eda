//! `/livez`, `/readyz` and `/metrics` on one port, and the metrics themselves. In: counts from reconciles and the watches'
//! heartbeat. Out: HTTP answers.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{context::Context, kinds::Kind};

/// Scrapers and probes are few; more connections wait.
const CONNECTIONS_MAX: usize = 32;
/// A client that sends no request is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// No reconcile and no watch event for so long, although every cluster is looked at every few seconds, means a stuck loop.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// What a call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Verb {
    Apply,
    Create,
    Evict,
    Status,
}

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Ending {
    Ok,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: String,
    verb: Verb,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    result: Ending,
}

/// Counters, and when the controller last showed that it lives.
#[derive(Debug)]
pub struct Metrics {
    writes: Family<WriteLabels, Counter>,
    reconciles: Family<ReconcileLabels, Counter>,
    heartbeat: Mutex<Option<Instant>>,
    is_watching: AtomicBool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            writes: Family::default(),
            reconciles: Family::default(),
            heartbeat: Mutex::new(None),
            is_watching: AtomicBool::new(false),
        }
    }
}

impl Metrics {
    /// Counts a call that changed a child.
    pub fn wrote(&self, kind: Kind, verb: Verb) {
        self.writes.get_or_create(&WriteLabels { kind: format!("{kind:?}"), verb }).inc();
    }

    /// Counts a written status.
    pub fn wrote_status(&self) {
        self.writes.get_or_create(&WriteLabels { kind: "CollabCluster".to_owned(), verb: Verb::Status }).inc();
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, result: Ending) {
        self.reconciles.get_or_create(&ReconcileLabels { result }).inc();
        self.beat();
    }

    /// The watches are set up.
    pub fn watching(&self) {
        self.is_watching.store(true, Ordering::Relaxed);
    }

    /// The controller lives and has work.
    pub fn beat(&self) {
        *self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// All writes so far.
    pub fn writes_total(&self) -> u64 {
        let kinds = [
            Kind::ConfigMap,
            Kind::Deployment,
            Kind::PodDisruptionBudget,
            Kind::Secret,
            Kind::Service,
            Kind::ServiceAccount,
            Kind::StatefulSet,
        ];
        let kinds = kinds.iter().map(|kind| format!("{kind:?}")).chain(["CollabCluster".to_owned()]);
        let verbs = [Verb::Apply, Verb::Create, Verb::Evict, Verb::Status];
        let labels = kinds.flat_map(|kind| verbs.map(|verb| WriteLabels { kind: kind.clone(), verb }));
        labels.filter_map(|labels| self.writes.get(&labels).map(|counter| counter.get())).sum()
    }

    /// All reconciles so far that came to their end.
    pub fn reconciles_total(&self) -> u64 {
        self.reconciles.get(&ReconcileLabels { result: Ending::Ok }).map_or(0, |counter| counter.get())
    }

    /// An operator without clusters has no heartbeat and lives.
    fn is_alive(&self) -> bool {
        let heartbeat = *self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
        heartbeat.is_none_or(|beat| beat.elapsed() < SILENCE_MAX)
    }

    fn text(&self) -> String {
        let mut registry = Registry::with_prefix("collab_operator");
        registry.register("writes", "Calls that changed something", self.writes.clone());
        registry.register("reconciles", "Reconciles by how they ended", self.reconciles.clone());
        let mut text = String::new();
        // Writing into a string cannot fail; an empty answer would show.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// Serves until the process ends.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(address: SocketAddr, context: Arc<Context>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, _) = listener.accept().await?;
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let context = context.clone();
        // Nobody waits for the task: it ends with its connection, and the semaphore bounds their number.
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&context, &request);
                async move { answer }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a probe's connection ended badly");
            }
            drop(place);
        });
    }
}

fn answer<B>(context: &Context, request: &Request<B>) -> hyper::http::Result<Response<Full<Bytes>>> {
    let metrics = &context.metrics;
    let (status, text) = match request.uri().path() {
        "/livez" if metrics.is_alive() => (StatusCode::OK, "ok\n".to_owned()),
        "/livez" => (StatusCode::SERVICE_UNAVAILABLE, "no reconcile for too long\n".to_owned()),
        "/readyz" if metrics.is_watching.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not watching yet\n".to_owned()),
        "/metrics" => (StatusCode::OK, metrics.text()),
        _ => (StatusCode::NOT_FOUND, "try /livez, /readyz or /metrics\n".to_owned()),
    };
    Response::builder().status(status).header("content-type", "text/plain; version=0.0.4").body(Full::from(text))
}
