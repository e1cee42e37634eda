//! The public port: HTTP until the upgrade, then connections.
//!
//! In: TCP connections. Out: upgraded sockets in tasks of their own, or a refusal before anything was spent on the
//! client: 503 while draining or full, Engine.IO's JSON for requests that are not Socket.IO over WebSocket. With the
//! demo, its page.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

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
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Admission, Later},
    connection::{Attend, Pod},
    demo,
    live::Live,
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

/// The public port's part of the process.
pub struct Server {
    pod: Arc<Pod>,
    connections: Box<dyn Attend>,
    admission: Admission,
    allowed_origins: Vec<String>,
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
        let admission = Admission::new(live, pod.registry.clone(), pod.metrics.clone(), pod.tickets.clone());
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let tasks = TaskTracker::new();
        Arc::new(Server { pod, connections, admission, allowed_origins, requests, tasks })
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
        self.admission.drain();
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
        let ticket = request.uri().query().and_then(protocol::resume_ticket);
        let seat = self.admission.admit(ticket).map_err(Refusal::Later)?;
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
}

/// Why a request gets no socket.
enum Refusal {
    Handshake(HandshakeError),
    Later(Later),
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
            Refusal::Later(later) => {
                let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "come back later\n");
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(later.retry_after_s()));
                // A proxy that reuses the connection would only be refused again.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
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
