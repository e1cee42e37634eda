//! Streams to a Redis server: TCP, or TLS over it, signed in.
//!
//! In: settings and an address. Out: a stream for whoever speaks the protocol himself, or a pipelined connection.
//! Certificates and passwords are read anew for every connection, so that both can be changed while the gateway runs.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt, future::BoxFuture};
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tokio_util::codec::{Decoder, Framed};

use super::{
    RedisSettings, StoreError,
    errors::classify,
    resp::{Codec, Reply},
};

/// A server that does not even accept within this time is as good as away.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Either kind of stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that speaks the protocol: commands as they are packed in, values out.
pub(crate) type RawConnection = Framed<Box<dyn Stream>, Codec>;

/// The system's certificates, read once: they belong to the image.
static SYSTEM_ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    // What cannot be read is not trusted; a server that needs it is refused by name later.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

/// A signed-in connection whose calls may take this long.
///
/// # Errors
/// Passing, with the address in front.
pub(crate) async fn connect(
    settings: &RedisSettings,
    address: &str,
    response_timeout: Duration,
) -> Result<MultiplexedConnection, StoreError> {
    with_passwords(settings, address, move |stream, username, password| {
        Box::pin(sign_in(stream, username, password, response_timeout))
    })
    .await
}

async fn sign_in(
    stream: Box<dyn Stream>,
    username: Option<String>,
    password: Option<String>,
    response_timeout: Duration,
) -> RedisResult<MultiplexedConnection> {
    // Servers before 7.2 answer the library's name with an error, which looks like trouble in their statistics.
    let mut user = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(username) = username {
        user = user.set_username(username);
    }
    if let Some(password) = password {
        user = user.set_password(password);
    }
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout));
    let (connection, driver) = MultiplexedConnection::new_with_config(&user, stream, config).await?;
    // It ends with the last clone of the connection.
    tokio::spawn(driver);
    Ok(connection)
}

/// The same without the library's pipeline, for subscriptions.
///
/// # Errors
/// Passing, with the address in front.
pub(crate) async fn connect_raw(settings: &RedisSettings, address: &str) -> Result<RawConnection, StoreError> {
    with_passwords(settings, address, |stream, username, password| Box::pin(sign_in_raw(stream, username, password)))
        .await
}

async fn sign_in_raw(
    stream: Box<dyn Stream>,
    username: Option<String>,
    password: Option<String>,
) -> RedisResult<RawConnection> {
    let mut connection = Codec.framed(stream);
    let Some(password) = password else { return Ok(connection) };
    let mut auth = redis::cmd("AUTH");
    if let Some(username) = username {
        auth.arg(username);
    }
    connection.send(auth.arg(password).get_packed_command()).await?;
    match connection.next().await.unwrap_or_else(|| Err(closed()))? {
        Reply::Word(_) => Ok(connection),
        other @ (Reply::Error(_) | Reply::Number(_) | Reply::Bulk(_) | Reply::Parts(_)) => {
            Err((redis::ErrorKind::AuthenticationFailed, "AUTH", format!("{other:?}")).into())
        }
    }
}

async fn with_passwords<T>(
    settings: &RedisSettings,
    address: &str,
    sign_in: impl Fn(Box<dyn Stream>, Option<String>, Option<String>) -> BoxFuture<'static, RedisResult<T>>,
) -> Result<T, StoreError> {
    let mut last = None;
    for password in passwords(settings)? {
        let attempt = async {
            let stream = dial(settings, address).await?;
            sign_in(stream, settings.username.clone(), password).await.map_err(|error| Failed {
                is_password: is_about_password(&error),
                error: StoreError::Unavailable(format!("{address}: {}", classify(&error).0.reason())),
            })
        };
        match timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(Failed { is_password: true, error })) => last = Some(error),
            Ok(Err(Failed { error, .. })) => return Err(error),
            Err(_) => return Err(StoreError::Unavailable(format!("{address}: does not answer"))),
        }
    }
    Err(last.unwrap_or_else(|| StoreError::Unavailable(format!("{address}: no password"))))
}

struct Failed {
    is_password: bool,
    error: StoreError,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self { is_password: false, error }
    }
}

async fn dial(settings: &RedisSettings, address: &str) -> Result<Box<dyn Stream>, StoreError> {
    let failed = |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("{address}: {error}"));
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    // Small commands must not wait for each other. Failing that only costs time.
    let _ = stream.set_nodelay(true);
    if !settings.tls {
        return Ok(Box::new(stream));
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
    let connector = TlsConnector::from(Arc::new(tls(settings.ca_file.as_deref())?));
    let stream = connector.connect(name, stream).await.map_err(|error| failed(&error))?;
    Ok(Box::new(stream))
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, StoreError> {
    let roots = match ca_file {
        None => Arc::clone(&SYSTEM_ROOTS),
        Some(path) => Arc::new(roots(path)?),
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates of a PEM file.
///
/// # Errors
/// When there are none.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, StoreError> {
    authorities(path).map_err(|why| StoreError::Unavailable(format!("--redis-ca-file: {} {why}", path.display())))
}

/// Whether a file is one of certificates in PEM, for the start.
///
/// # Errors
/// With what is wrong with it.
pub(crate) fn check_authorities(path: &Path) -> Result<(), String> {
    authorities(path).map(|_| ())
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let unread = |error| format!("cannot be read: {error}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unread)? {
        let certificate = certificate.map_err(unread)?;
        roots.add(certificate).map_err(|error| format!("holds a certificate that cannot be used: {error}"))?;
    }
    if roots.is_empty() { Err("holds no certificate: PEM is needed".into()) } else { Ok(roots) }
}

/// The lines of the password file; one `None` where there is no file.
fn passwords(settings: &RedisSettings) -> Result<Vec<Option<String>>, StoreError> {
    let Some(path) = &settings.password_file else { return Ok(vec![None]) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| StoreError::Unavailable(format!("--redis-password-file {}: {error}", path.display())))?;
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).map(|line| Some(line.to_owned())).collect();
    if lines.is_empty() {
        return Err(StoreError::Unavailable(format!("--redis-password-file {} is empty", path.display())));
    }
    Ok(lines)
}

fn is_about_password(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

pub(crate) fn closed() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the connection was closed")
}
