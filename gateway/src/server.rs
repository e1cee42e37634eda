//! The public port: HTTP until the upgrade, then connections.
//!
//! In: TCP connections. Out: upgraded sockets in tasks of their own, or a refusal before anything was spent on the
//! client: 503 while draining or full, Engine.IO's JSON for requests that are not Socket.IO over WebSocket. With the
//! demo, its page.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
        SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::HandshakeError;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    connection::{Attend, Pod},
    demo,
    live::Live,
    registry::Seat,
};

/// Where stock clients connect.
const PATH: &str = "/socket.io/";
/// Requests before their upgrade that are served at once; more wait in the kernel's backlog.
const REQUESTS_MAX: usize = 2048;
/// A peer that sends no whole request within this time is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answered upgrade may take to become a socket.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of browsers with cookies fit; a request needs no more memory than this.
const REQUEST_BYTES_MAX: usize = 32 * 1024;
/// After a failed accept (no file handles left) it may work again soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What refused clients are told to wait, in seconds: between these two, so that they do not come back together.
const RETRY_AFTER_S: std::ops::RangeInclusive<u32> = 2..=8;

/// The public port's part of the process.
pub struct Server {
    pod: Arc<Pod>,
    connections: Box<dyn Attend>,
    live: watch::Receiver<Live>,
    allowed_origins: Vec<String>,
    draining: AtomicBool,
    rate: Mutex<Rate>,
    requests: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Server {
    /// A server that admits by the live settings; browsers only from these origins, from any if there are none.
    pub fn new(pod: Arc<Pod>, live: watch::Receiver<Live>, allowed_origins: Vec<String>) -> Arc<Server> {
        let connections = Box::new(pod.clone());
        Server::attended_by(connections, pod, live, allowed_origins)
    }

    /// The same with connections that are somebody else's, which the official protocol suites need.
    pub fn attended_by(
        connections: Box<dyn Attend>,
        pod: Arc<Pod>,
        live: watch::Receiver<Live>,
        allowed_origins: Vec<String>,
    ) -> Arc<Server> {
        let rate = Mutex::new(Rate { tokens: f64::from(live.borrow().accept_rate), at: Instant::now() });
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let tasks = TaskTracker::new();
        Arc::new(Server {
            pod,
            connections,
            live,
            allowed_origins,
            draining: AtomicBool::new(false),
            rate,
            requests,
            tasks,
        })
    }

    /// The pod whose connections these are.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The same, to keep.
    pub fn shared_pod(&self) -> Arc<Pod> {
        self.pod.clone()
    }

    /// From now on upgrades are refused with 503.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Takes connections until `stop`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        loop {
            // The semaphore is never closed.
            let Ok(request) = self.requests.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let server = self.clone();
            self.tasks.spawn(async move {
                server.http(stream, peer).await;
                drop(request);
            });
        }
    }

    /// Waits until no connection is left.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn http(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Small frames must not wait for each other. Failing that only costs time.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| {
            let response = self.answer(request);
            async { Ok::<_, Infallible>(response) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(REQUEST_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, %peer, "a request failed");
        }
    }

    fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if path == PATH || path == PATH.trim_end_matches('/') {
            return self.socket_io(request).unwrap_or_else(|refusal| refusal.response());
        }
        let page = match (*request.method() == Method::GET, &self.pod.demo_host) {
            (true, Some(_)) => demo::answer(path, &self.pod.authenticator),
            _ => None,
        };
        page.unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "Socket.IO is at /socket.io/\n"))
    }

    fn socket_io(self: &Arc<Self>, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refusal> {
        protocol::check_query(request.uri().query().unwrap_or_default()).map_err(Refusal::Handshake)?;
        if *request.method() != Method::GET {
            return Err(Refusal::Handshake(HandshakeError::BadMethod));
        }
        let accept = accept(&request).ok_or(Refusal::Handshake(HandshakeError::BadRequest))?;
        self.check_origin(&request)?;
        let seat = self.admit()?;
        let upgrade = hyper::upgrade::on(&mut request);
        let server = self.clone();
        self.tasks.spawn(async move {
            let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_TIMEOUT, upgrade).await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
            // A copy, nearly always of nothing: the slice would keep all of hyper's buffer as long as the connection.
            let first = parts.read_buf.to_vec();
            drop(parts.read_buf);
            // A task of its own: what the upgrade needed is not part of the connection.
            server.connections.attend(&server.tasks, seat, parts.io.into_inner(), first);
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        Ok(response)
    }

    fn check_origin(&self, request: &Request<Incoming>) -> Result<(), Refusal> {
        // Only browsers send it; others may claim what they like anyway.
        let Some(origin) = request.headers().get(ORIGIN).filter(|_| !self.allowed_origins.is_empty()) else {
            return Ok(());
        };
        if self.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            return Ok(());
        }
        self.pod.metrics.refuse("origin");
        Err(Refusal::Handshake(HandshakeError::Forbidden))
    }

    fn admit(&self) -> Result<Seat, Refusal> {
        let (max_connections, accept_rate) = {
            let live = self.live.borrow();
            (live.max_connections, live.accept_rate)
        };
        let refuse = |reason| {
            self.pod.metrics.refuse(reason);
            Refusal::Later
        };
        if self.draining.load(Ordering::Acquire) {
            return Err(refuse("draining"));
        }
        if !self.rate.lock().unwrap_or_else(PoisonError::into_inner).take(accept_rate, Instant::now()) {
            return Err(refuse("accept_rate"));
        }
        self.pod.registry.admit(max_connections).ok_or_else(|| refuse("max_connections"))
    }
}

/// Why a request gets no socket.
enum Refusal {
    Handshake(HandshakeError),
    Later,
}

impl Refusal {
    fn response(self) -> Response<Full<Bytes>> {
        match self {
            Refusal::Handshake(error) => {
                let mut response = plain(StatusCode::BAD_REQUEST, error.body());
                *response.status_mut() = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Refusal::Later => {
                let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "come back later\n");
                let seconds = rand::random_range(RETRY_AFTER_S);
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                // A proxy that reuses the connection would only be refused again.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
    }
}

/// New connections a second: one second's worth may come at once.
#[derive(Debug)]
struct Rate {
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        self.tokens = (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * rate).min(rate.max(1.0));
        self.at = now;
        let has_one = self.tokens >= 1.0;
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

/// The answer to the request's key, if it asks for a WebSocket of version 13.
fn accept(request: &Request<Incoming>) -> Option<HeaderValue> {
    let has = |name: HeaderName, wanted: &str| {
        let values = request.headers().get_all(name);
        let mut words = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    if !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket") || !has(SEC_WEBSOCKET_VERSION, "13") {
        return None;
    }
    let key = request.headers().get(SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    HeaderValue::try_from(websocket::accept_key(key)?).ok()
}

fn plain(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_accept_rate_lets_one_second_through_at_once_and_no_more() {
        let start = Instant::now();
        let mut rate = Rate { tokens: 2.0, at: start };
        let mut take = |after_ms| rate.take(2, start + Duration::from_millis(after_ms));
        assert_eq!(
            [take(0), take(0), take(0), take(400), take(500), take(600)],
            [true, true, false, false, true, false]
        );
        assert_eq!([take(60_000), take(60_000), take(60_000)], [true, true, false]);
    }
}
