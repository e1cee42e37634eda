//! A small HTTP client for what others serve: key sets, webhooks, collectors of traces.
//!
//! In: URLs, requests. Out: the status and a bounded body, within a bounded time. It follows no redirects: whoever
//! configures a URL means that one. TLS trusts the system's certificates, or those that `SSL_CERT_FILE` names.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode, Uri,
    header::{ACCEPT, USER_AGENT},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// A server that does not even accept within this time is as good as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that are kept for the next request.
const IDLE_MAX: usize = 16;
/// Shorter than what common servers wait before they close an idle connection.
const IDLE: Duration = Duration::from_secs(30);

/// Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What one request may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Until the last byte of the body.
    pub time: Duration,
    /// Of the body.
    pub bytes: usize,
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer. All of these may pass.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoAnswer {
    /// It took too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The body is larger than allowed.
    #[error("the answer is larger than {0} bytes")]
    Large(usize),
    /// Not reachable, no TLS, or no HTTP.
    #[error("{0}")]
    Failed(String),
}

impl HttpClient {
    /// A client without connections.
    ///
    /// # Errors
    /// When this build's TLS has no version of the protocol, which would be a bug.
    pub fn new() -> Result<HttpClient, NoAnswer> {
        let mut roots = RootCertStore::empty();
        // What cannot be read is not trusted; a server that needs it is refused by name later.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| NoAnswer::Failed(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector.wrap_connector(tcp));
        Ok(HttpClient { client })
    }

    /// Fetches a URL.
    ///
    /// # Errors
    /// When there was no answer within the limit.
    pub async fn get(&self, url: Uri, limit: Limit) -> Result<Answer, NoAnswer> {
        let request = Request::get(url)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("collab-gateway/", env!("CARGO_PKG_VERSION")))
            .body(Full::default())
            .map_err(|error| NoAnswer::Failed(error.to_string()))?;
        self.send(request, limit).await
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When there was no answer within the limit.
    pub async fn send(&self, request: Request<Full<Bytes>>, limit: Limit) -> Result<Answer, NoAnswer> {
        timeout(limit.time, self.exchange(request, limit.bytes)).await.unwrap_or(Err(NoAnswer::Late(limit.time)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, bytes_max: usize) -> Result<Answer, NoAnswer> {
        let response = self.client.request(request).await.map_err(|error| NoAnswer::Failed(causes(&error)))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, bytes_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                NoAnswer::Large(bytes_max)
            } else {
                NoAnswer::Failed(error.to_string())
            }
        })?;
        Ok(Answer { status: head.status, body: body.to_bytes() })
    }
}

/// The client's errors say no more than "error trying to connect" by themselves.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
