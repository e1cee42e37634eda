//! The admin port: `/livez`, `/readyz`, `/metrics`, and `POST /v1/changed` for applications.
//!
//! In: HTTP requests from probes, scrapers and applications. Out: what [`State`] says, and words for every pod. It shares
//! no listener with clients, so that a crowded public port does not make a healthy pod look dead.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::Change;
use serde_json::{Map, Value};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    bus::{Bus, CHANGED_CHANNEL},
    drain::Readiness,
    metrics::Metrics,
    store::Store,
};

/// Probes and scrapers that are served at once; more wait in the kernel's backlog.
const REQUESTS_MAX: usize = 64;
/// A peer that sends no request within this time is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// So long a connection has in all: a peer that does not read its answers has no other end, and a few dozen of them would
/// keep out the probes by which the pod is known to live.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// A store that takes longer to answer is not there, as far as readiness goes.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// A change is two ids.
const CHANGE_BYTES_MAX: usize = 4096;
/// OpenMetrics' own type.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the endpoints tell. Cheap to clone.
#[derive(Clone)]
pub struct State {
    metrics: Metrics,
    store: Store,
    bus: Bus,
    draining: Arc<AtomicBool>,
}

impl State {
    /// Ready as soon as the store has answered once, and from then on until it drains. A pod is unready for what it lacks
    /// and other pods have. The store is the same for all: if they became unready with it, the Service would be empty at
    /// once, and clients that can be held until the store is back would be turned away, to arrive all together when the
    /// last probe has noticed. What is wrong is told in the answer's text and by `collab_gateway_store_up`.
    pub fn new(metrics: Metrics, store: Store, bus: Bus) -> Self {
        Self { metrics, store, bus, draining: Arc::default() }
    }

    /// The pod drains: from now on `/readyz` says no, unless it is to stay ready.
    pub fn drain(&self, readiness: Readiness) {
        self.draining.fetch_or(readiness == Readiness::Off, Ordering::AcqRel);
        self.metrics.draining.set(1);
    }

    /// It does not any more.
    pub fn welcome(&self) {
        self.draining.store(false, Ordering::Release);
        self.metrics.draining.set(0);
    }

    async fn ready(&self) -> Result<String, &'static str> {
        if self.draining.load(Ordering::Acquire) {
            return Err("draining");
        }
        if !self.store.has_answered() {
            self.store_answers().await?;
        }
        // No other question to the store: one that hangs must not make the probe time out.
        if let Some(away) = self.store.away() {
            let seconds = away.since.as_secs();
            return Ok(format!(
                "ok, but the store takes no changes for {seconds} s now, edits are held: {}\n",
                away.why
            ));
        }
        if let Some(why) = self.store.unsynced() {
            return Ok(format!("ok, but --durability synced: nothing is acknowledged, for {why}\n"));
        }
        Ok(match self.store.acknowledges_late() {
            None => "ok\n".to_owned(),
            Some(late) => {
                let seconds = late.since.as_secs();
                format!("ok, but acknowledgements wait (--durability) for {seconds} s now: {}\n", late.why)
            }
        })
    }

    fn metrics(&self) -> String {
        self.metrics.store_up.set(i64::from(self.store.away().is_none()));
        self.metrics.store_may_evict.set(i64::from(self.store.evicting().is_some()));
        self.metrics.text()
    }

    async fn store_answers(&self) -> Result<(), &'static str> {
        match tokio::time::timeout(STORE_TIMEOUT, self.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the store does not answer\n"),
        }
    }
}

/// Serves until `stop` is done; requests under way then are cut off, which probes do not mind.
pub async fn serve(listener: TcpListener, state: State, stop: impl Future<Output = ()>) {
    let mut requests = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept(), if requests.len() < REQUESTS_MAX => {
                // A failed accept (no file handles left) is the public port's news too; the next one may work.
                let Ok((stream, _)) = accepted else { tokio::task::yield_now().await; continue };
                let state = state.clone();
                let service = service_fn(move |request| answer(request, state.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                requests.spawn(tokio::time::timeout(HTTP_TIMEOUT, connection));
            }
            Some(_) = requests.join_next() => {}
        }
    }
}

async fn answer(request: Request<Incoming>, state: State) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_get = *request.method() == Method::GET;
    Ok(match request.uri().path() {
        "/v1/changed" if *request.method() == Method::POST => match changed(request, &state).await {
            Ok(()) => text(StatusCode::ACCEPTED, "every pod is told\n"),
            Err((status, why)) => text(status, why),
        },
        "/v1/changed" => only("POST"),
        "/livez" | "/readyz" | "/metrics" if !is_get => only("GET"),
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match state.ready().await {
            Ok(told) => text(StatusCode::OK, told),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, state.metrics());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz, /metrics and /v1/changed here\n"),
    })
}

/// Tells every pod, this one among them, what an application changed.
async fn changed(request: Request<Incoming>, state: &State) -> Result<(), (StatusCode, String)> {
    let bad = |why: &str| (StatusCode::BAD_REQUEST, format!("{why}\n"));
    let reading = Limited::new(request.into_body(), CHANGE_BYTES_MAX).collect();
    let body = tokio::time::timeout(HEADER_TIMEOUT, reading)
        .await
        .map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the body did not come\n".to_owned()))?
        .map_err(|_| bad(&format!("the body must have at most {CHANGE_BYTES_MAX} bytes")))?
        .to_bytes();
    let change = read_change(&body).map_err(|why| bad(&why))?;
    // A message that nobody can carry would be lost without a word. Pods read everything again after such a time.
    state.store_answers().await.map_err(|why| (StatusCode::SERVICE_UNAVAILABLE, why.to_owned()))?;
    state.bus.publish(CHANGED_CHANNEL, protocol::encode_change(&change).into());
    Ok(())
}

fn read_change(body: &[u8]) -> Result<Change, String> {
    const FORM: &str = "write a JSON object with documentId, userId, both or none";
    let fields: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("the body is no JSON object ({error}): {FORM}"))?;
    let mut change = Change::default();
    for (name, value) in fields {
        let id = match value {
            Value::Null => continue,
            Value::String(id) => id,
            Value::Number(id) if name == "userId" && !id.is_f64() => id.to_string(),
            Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                return Err(format!("{name} must be a string: {FORM}"));
            }
        };
        match name.as_str() {
            "documentId" if protocol::is_document_id(&id) => change.document_id = Some(id.into()),
            "documentId" => {
                return Err("documentId must have 1 to 128 characters, each a letter, a digit or one of . _ ~ -".into());
            }
            "userId" if protocol::is_user_id(&id) => change.user_id = Some(id.into()),
            "userId" => return Err("userId must have 1 to 256 bytes and no control characters".into()),
            // A misspelt name would mean that everything changed.
            other => return Err(format!("{other:?} is unknown: {FORM}")),
        }
    }
    Ok(change)
}

fn only(method: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {method}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
