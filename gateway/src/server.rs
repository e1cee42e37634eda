//! The public port: HTTP until the upgrade, then connections.
//!
//! In: TCP connections. Out: upgraded sockets in tasks of their own, or a refusal before anything was spent on the
//! client: 503 while draining or full, Engine.IO's JSON for requests that are not Socket.IO over WebSocket. With the
//! demo, its page.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::HandshakeError;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Admission, Arrival},
    connection::{Attend, Pod},
    demo,
    live::Live,
    stream::Stream,
    tls::Tls,
    unheard::{Turn, Unheard},
    upgrade::{self, Refusal, plain},
};

/// Where stock clients connect.
const PATH: &str = "/socket.io/";
/// Peers without an upgrade at a time: several seconds of a storm, and with [`REQUEST_BYTES_MAX`] 64 MiB at most.
const UNHEARD_MAX: usize = 2048;
/// A peer that sends no whole request within this time is dropped, however many bytes of it come in.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// So long at most a connection is plain HTTP: the demo's page and probes need less, and a peer that does not read its
/// answers has no other end.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);
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
    tls: Option<Tls>,
    allowed_origins: Vec<String>,
    unheard: Unheard,
    tasks: TaskTracker,
}

impl Server {
    /// A server that admits by the live settings and encrypts if it is given a certificate; browsers only from these
    /// origins, from any if there are none.
    pub fn new(
        pod: Arc<Pod>,
        live: watch::Receiver<Live>,
        tls: Option<Tls>,
        allowed_origins: Vec<String>,
    ) -> Arc<Server> {
        let connections = Box::new(pod.clone());
        Server::attended_by(connections, pod, live, tls, allowed_origins)
    }

    /// The same with connections that are somebody else's, which the official protocol suites need.
    pub fn attended_by(
        connections: Box<dyn Attend>,
        pod: Arc<Pod>,
        live: watch::Receiver<Live>,
        tls: Option<Tls>,
        allowed_origins: Vec<String>,
    ) -> Arc<Server> {
        let admission = Admission::new(live, pod.registry.clone(), pod.metrics.clone(), pod.tickets.clone());
        let unheard = Unheard::new(UNHEARD_MAX, pod.metrics.clone());
        let tasks = TaskTracker::new();
        Arc::new(Server { pod, connections, admission, tls, allowed_origins, unheard, tasks })
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

    /// From now on they are not.
    pub fn welcome(&self) {
        self.admission.welcome();
    }

    /// Takes connections until `stop`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let arrival = if self.tls.is_some() { Arrival::Tls } else { Arrival::Plain };
        let next = async || {
            // Whoever waits longer than the kernel's backlog is long tries again by himself.
            self.admission.next_arrival(arrival).await;
            listener.accept().await
        };
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = next() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let turn = self.unheard.arrive();
            self.tasks.spawn(self.clone().arrived(stream, peer, turn));
        }
    }

    /// Waits until no connection is left.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn arrived(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, mut turn: Turn) {
        // Small frames must not wait for each other. Failing that only costs time.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.http(stream, peer, turn).await };
        let accepted = tokio::select! {
            accepted = tls.accept(stream) => accepted,
            () = turn.over() => return tracing::debug!(%peer, "a peer that shook no hands gave way to others"),
        };
        match accepted {
            Ok(stream) => self.http(stream, peer, turn).await,
            // Balancers look whether the port is open and say nothing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                tracing::debug!(%peer, "a peer left before it had shaken hands");
            }
            Err(error) => {
                self.pod.metrics.refuse("tls");
                tracing::debug!(%error, %peer, "a handshake failed");
            }
        }
    }

    async fn http<S>(self: &Arc<Self>, stream: S, peer: SocketAddr, mut turn: Turn)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // A second request that does not come is no refusal.
        let is_answered = AtomicBool::new(false);
        let service = service_fn(|request| {
            let response = self.answer(request);
            is_answered.store(true, Ordering::Relaxed);
            async { Ok::<_, Infallible>(response) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(REQUEST_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            served = tokio::time::timeout(HTTP_TIMEOUT, served) => match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, %peer, "a request failed");
                    if error.is_parse() {
                        self.pod.metrics.refuse("bad_http");
                    } else if error.is_timeout() && !is_answered.load(Ordering::Relaxed) {
                        self.pod.metrics.refuse("slow_request");
                    }
                }
                Err(_) => tracing::debug!(%peer, "a connection was plain HTTP for too long"),
            },
            () = turn.over() => tracing::debug!(%peer, "a peer that said nothing gave way to others"),
        }
    }

    fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if path == PATH || path == PATH.trim_end_matches('/') {
            return self.socket_io(request).unwrap_or_else(|refusal| {
                if let Some(reason) = refusal.reason() {
                    self.pod.metrics.refuse(reason);
                }
                refusal.response()
            });
        }
        let page = match (*request.method() == Method::GET, &self.pod.demo_host) {
            (true, Some(_)) => demo::answer(path, &self.pod.authenticator),
            _ => None,
        };
        page.unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "Socket.IO is at /socket.io/\n"))
    }

    fn socket_io(self: &Arc<Self>, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refusal> {
        let accept = upgrade::check(&request)?;
        if !upgrade::is_allowed_origin(request.headers(), &self.allowed_origins) {
            return Err(Refusal::Handshake(HandshakeError::Forbidden));
        }
        let ticket = request.uri().query().and_then(protocol::resume_ticket);
        let seat = self.admission.admit(ticket).map_err(Refusal::Later)?;
        let deflate = if self.pod.compression { upgrade::deflate(request.headers()) } else { None };
        if let Some(deflate) = deflate {
            seat.outbox().set_deflate(deflate);
        }
        let upgraded = hyper::upgrade::on(&mut request);
        let server = self.clone();
        self.tasks.spawn(async move {
            let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_TIMEOUT, upgraded).await else { return };
            let Some((stream, first)) = socket(upgraded) else { return };
            // A task of its own: what the upgrade needed is not part of the connection.
            server.connections.attend(&server.tasks, seat, stream, first);
        });
        Ok(upgrade::switching(accept, deflate))
    }
}

/// What was below HTTP, and what came with the request already.
fn socket(upgraded: Upgraded) -> Option<(Stream, Vec<u8>)> {
    // A copy, nearly always of nothing: the slice would keep all of hyper's buffer as long as the connection.
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => Some((parts.io.into_inner().into(), parts.read_buf.to_vec())),
        Err(upgraded) => {
            let parts = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>().ok()?;
            Some((parts.io.into_inner().into(), parts.read_buf.to_vec()))
        }
    }
}
