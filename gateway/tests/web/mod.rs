//! A small web server of the application's: webhooks and a key set.
//!
//! In: what each path answers. Out: a real server on a free port that counts what it was asked, and that can hang.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// Long for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Web {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    answers: Mutex<HashMap<String, (u16, Bytes)>>,
    asked: Mutex<HashMap<String, usize>>,
    /// Requests under way now, and the most that were at one time.
    under_way: Mutex<(usize, usize)>,
    takes_ms: AtomicU64,
    hangs: watch::Sender<bool>,
}

impl Web {
    /// Every path is 404 until it is told otherwise.
    pub async fn start() -> Web {
        Web::listen(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The same over TLS for `localhost`, and the certificate that vouches for it.
    pub async fn start_tls() -> (Web, String) {
        let pair = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&pair).unwrap();
        let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        let tls = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (Web::over(listener, Some(TlsAcceptor::from(Arc::new(tls)))), certificate.pem())
    }

    pub fn listen(listener: TcpListener) -> Web {
        Web::over(listener, None)
    }

    fn over(listener: TcpListener, tls: Option<TlsAcceptor>) -> Web {
        let state = Arc::new(State::default());
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, tls, Arc::clone(&state)));
        Web { address, state, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on the path answers this.
    pub fn says(&self, path: &str, status: u16, body: impl Into<Bytes>) {
        self.state.answers.lock().unwrap().insert(path.to_owned(), (status, body.into()));
    }

    /// Requests for the path that have come.
    pub fn asked(&self, path: &str) -> usize {
        self.state.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Requests of any path that have come.
    pub fn asked_at_all(&self) -> usize {
        self.state.asked.lock().unwrap().values().sum()
    }

    /// Waits until the path was asked for so often.
    pub async fn until_asked(&self, path: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.asked(path) < times {
            assert!(Instant::now() < deadline, "{path} was asked for {} times", self.asked(path));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// How long each answer takes from now on.
    pub fn takes(&self, time: Duration) {
        self.state.takes_ms.store(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// The most requests that were under way at one time.
    pub fn most_at_once(&self) -> usize {
        self.state.under_way.lock().unwrap().1
    }

    /// Whether requests wait, those under way too. What they are told is decided when they come.
    pub fn hang(&self, hangs: bool) {
        self.state.hangs.send_replace(hangs);
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (state, tls) = (Arc::clone(&state), tls.clone());
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&state)));
            let http = hyper::server::conn::http1::Builder::new();
            // Peers that break off are no matter of the server's.
            match tls {
                None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(http.serve_connection(TokioIo::new(stream), service).await);
                    }
                }
            }
        });
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let (status, body) = state.answers.lock().unwrap().get(&path).cloned().unwrap_or((404, Bytes::new()));
    *state.asked.lock().unwrap().entry(path).or_default() += 1;
    let _under_way = UnderWay::begin(&state);
    let takes = Duration::from_millis(state.takes_ms.load(Ordering::Relaxed));
    if takes > Duration::ZERO {
        tokio::time::sleep(takes).await;
    }
    let mut hangs = state.hangs.subscribe();
    let _ = hangs.wait_for(|hangs| !hangs).await;
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}

/// Counted until the answer is given or the client breaks off.
struct UnderWay<'a>(&'a State);

impl UnderWay<'_> {
    fn begin(state: &State) -> UnderWay<'_> {
        let mut under_way = state.under_way.lock().unwrap();
        under_way.0 += 1;
        under_way.1 = under_way.1.max(under_way.0);
        UnderWay(state)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.lock().unwrap().0 -= 1;
    }
}
