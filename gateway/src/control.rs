//! The agent's door: a unix socket in a directory that only the pod's containers share.
//!
//! In: HTTP requests. `POST /v1/drain` with `{"ratePerSecond"?, "deadlineMs"?, "stayReady"?}` begins a drain or changes
//! the one that runs, `DELETE /v1/drain` calls it off, `GET /v1/status` asks. Out: always the status as JSON, or an error
//! of one line. It is not on the admin port, because whoever scrapes metrics must not be able to empty a pod.

use std::{convert::Infallible, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::{net::UnixListener, sync::Semaphore, task::JoinSet, time::Instant};

use crate::drain::{Drain, Ending, Order, Readiness};

/// One agent, and somebody who debugs it.
const PEERS_MAX: usize = 8;
/// An order is far shorter.
const BODY_BYTES_MAX: usize = 4096;
/// A peer that sends no request within this time is dropped; the agent opens a connection anew.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// A body that does not come.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The agent runs as another user of the same group.
const MODE: u32 = 0o660;
/// Longer than any pod takes to go.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    rate_per_second: Option<u32>,
    deadline_ms: Option<u64>,
    #[serde(default)]
    stay_ready: bool,
}

/// Binds the socket; one that a former process left is replaced.
///
/// # Errors
/// When the directory is not there or not writable.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Answers until `stop`; an order that names no deadline has this one.
pub async fn serve(listener: UnixListener, drain: Drain, deadline: Duration, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(PEERS_MAX));
    let mut peers = JoinSet::new();
    tokio::pin!(stop);
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => {
                // A failed accept (no file handles left) is the public port's news too.
                let Ok((stream, _)) = accepted else { tokio::task::yield_now().await; continue };
                let drain = drain.clone();
                peers.spawn(async move {
                    let service = service_fn(|request| {
                        let drain = drain.clone();
                        async move { Ok::<_, Infallible>(answer(request, &drain, deadline).await) }
                    });
                    // A peer that goes away in the middle is its own business.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    drop(place);
                });
                while peers.try_join_next().is_some() {}
            }
        }
    }
}

async fn answer(request: Request<Incoming>, drain: &Drain, deadline: Duration) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match (&method, path.as_str()) {
        (&Method::GET, "/v1/status") => status(drain),
        (&Method::POST, "/v1/drain") => {
            let order = match order(request.into_body(), deadline).await {
                Ok(order) => order,
                Err(why) => return error(StatusCode::BAD_REQUEST, &why),
            };
            match drain.order(order.0, order.1) {
                // An end that was moved forward was taken all the same.
                Ok(()) | Err(Ending) => status(drain),
            }
        }
        (&Method::DELETE, "/v1/drain") => match drain.cancel() {
            Ok(()) => status(drain),
            Err(ending) => error(StatusCode::CONFLICT, &ending.to_string()),
        },
        (_, "/v1/drain" | "/v1/status") => error(StatusCode::METHOD_NOT_ALLOWED, "no such method here"),
        (_, _) => error(StatusCode::NOT_FOUND, "there are /v1/drain and /v1/status here"),
    }
}

async fn order(body: Incoming, deadline: Duration) -> Result<(Order, Readiness), String> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let bytes = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => return Err(format!("the order did not come, or has more than {BODY_BYTES_MAX} bytes")),
    };
    let wanted: Wanted = match bytes.trim_ascii() {
        [] => Wanted::default(),
        bytes => serde_json::from_slice(bytes).map_err(|error| format!("no order: {error}"))?,
    };
    if wanted.rate_per_second == Some(0) {
        return Err("ratePerSecond must be at least 1".into());
    }
    let deadline = wanted.deadline_ms.map_or(deadline, Duration::from_millis).min(DEADLINE_MAX);
    let readiness = if wanted.stay_ready { Readiness::Stays } else { Readiness::Off };
    Ok((Order { per_second: wanted.rate_per_second, by: Instant::now() + deadline }, readiness))
}

fn status(drain: &Drain) -> Response<Full<Bytes>> {
    json(StatusCode::OK, &drain.status())
}

fn error(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": why }))
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    // Values of this file always are JSON.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
