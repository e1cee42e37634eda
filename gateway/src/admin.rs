//! The admin port: `/livez`, `/readyz`, `/metrics`.
//!
//! In: HTTP requests from probes and scrapers. Out: what [`State`] says. It shares no listener with clients, so that a
//! crowded public port does not make a healthy pod look dead.

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
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{metrics::Metrics, store::Store};

/// Probes and scrapers that are served at once; more wait in the kernel's backlog.
const REQUESTS_MAX: usize = 64;
/// A peer that sends no request within this time is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A store that takes longer to answer is not there, as far as readiness goes.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// OpenMetrics' own type.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the endpoints tell. Cheap to clone.
#[derive(Clone)]
pub struct State {
    metrics: Metrics,
    store: Store,
    draining: Arc<AtomicBool>,
}

impl State {
    /// Ready as soon as the store answers.
    pub fn new(metrics: Metrics, store: Store) -> Self {
        Self { metrics, store, draining: Arc::default() }
    }

    /// From now on `/readyz` says no.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.metrics.draining.set(1);
    }

    async fn ready(&self) -> Result<(), &'static str> {
        if self.draining.load(Ordering::Acquire) {
            return Err("draining");
        }
        match tokio::time::timeout(STORE_TIMEOUT, self.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the store does not answer"),
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
                requests.spawn(connection);
            }
            Some(_) = requests.join_next() => {}
        }
    }
}

async fn answer(request: Request<Incoming>, state: State) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
    }
    Ok(match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match state.ready().await {
            Ok(()) => text(StatusCode::OK, "ok\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, state.metrics.text());
            response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(METRICS_TYPE));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics here\n"),
    })
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
