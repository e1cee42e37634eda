//! The certificate of the public port.
//!
//! In: the files of `--tls-cert-file` and `--tls-key-file`, looked at every few seconds (a mounted Secret changes by
//! itself). Out: the configuration that the next handshake uses; connections that are open keep theirs. Files that became
//! wrong are reported once, counted, and change nothing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{NoServerSessionStorage, ProducesTickets},
    },
    server::TlsStream,
};

use crate::config::LOOK_INTERVAL;

/// A handshake takes two messages of the client; whoever needs longer is on no network worth serving.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Tickets that a client gets with a handshake: it has one connection, so it needs one to come back with.
const TICKETS: usize = 1;

/// Where the certificate and its key are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those that lead to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TlsError {
    #[error("--tls-cert-file: {0}")]
    Certificate(String),
    #[error("--tls-key-file: {0}")]
    Key(String),
}

/// Shakes hands with the present certificate.
#[derive(Clone)]
pub struct Tls {
    config: watch::Receiver<Arc<ServerConfig>>,
}

/// What keeps a [`Tls`] up to date.
pub struct Keeper {
    files: TlsFiles,
    contents: Contents,
    tickets: Arc<dyn ProducesTickets>,
    config: watch::Sender<Arc<ServerConfig>>,
    failures: Counter,
}

#[derive(Debug, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// Looks whether the files can be used.
///
/// # Errors
/// When not; it names the flag.
pub fn check(files: &TlsFiles) -> Result<(), TlsError> {
    Keeper::new(files.clone(), Counter::default()).map(|_| ())
}

impl Keeper {
    /// Reads the files for the first time; `failures` counts the later times that they cannot be used.
    ///
    /// # Errors
    /// When they cannot be used now.
    pub fn new(files: TlsFiles, failures: Counter) -> Result<(Keeper, Tls), TlsError> {
        // One for all certificates: whoever has a ticket comes back without a whole handshake.
        let tickets =
            rustls::crypto::ring::Ticketer::new().map_err(|error| TlsError::Key(format!("no random: {error}")))?;
        let contents = Contents::read(&files)?;
        let (config, receiver) = watch::channel(contents.config(&files, tickets.clone())?);
        Ok((Keeper { files, contents, tickets, config, failures }, Tls { config: receiver }))
    }

    /// Follows the files until nobody shakes hands any more.
    pub async fn follow(mut self) {
        let mut complaint = None;
        while !self.config.is_closed() {
            tokio::time::sleep(LOOK_INTERVAL).await;
            match self.look() {
                Ok(()) => complaint = None,
                // Said once: while it is wrong in the same way there is nothing new to say.
                Err(error) if complaint.as_ref() != Some(&error) => {
                    tracing::warn!(%error, "the new certificate cannot be used: the last good one stays");
                    self.failures.inc();
                    complaint = Some(error);
                }
                Err(_) => {}
            }
        }
    }

    fn look(&mut self) -> Result<(), TlsError> {
        let contents = Contents::read(&self.files)?;
        if contents == self.contents {
            return Ok(());
        }
        // A key that is not the certificate's may be one half of a change whose other half is still to come.
        let config = contents.config(&self.files, self.tickets.clone())?;
        self.contents = contents;
        self.config.send_replace(config);
        tracing::info!("the certificate was changed");
        Ok(())
    }
}

impl Tls {
    /// Shakes hands.
    ///
    /// # Errors
    /// When the peer does not, or not in time.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.config.borrow().clone());
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(accepted) => accepted,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Contents, TlsError> {
        Ok(Contents {
            cert: read(&files.cert).map_err(TlsError::Certificate)?,
            key: read(&files.key).map_err(TlsError::Key)?,
        })
    }

    fn config(&self, files: &TlsFiles, tickets: Arc<dyn ProducesTickets>) -> Result<Arc<ServerConfig>, TlsError> {
        let (cert, key) = (files.cert.display(), files.key.display());
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<_, _>>()
            .map_err(|error| TlsError::Certificate(format!("{cert} is not PEM: {error}")))?;
        if certificates.is_empty() {
            return Err(TlsError::Certificate(format!("{cert} has no certificate")));
        }
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| TlsError::Key(format!("{key} has no private key in PEM: {error}")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Key(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(certificates, private)
            .map_err(|error| TlsError::Key(format!("{key} does not fit the certificate: {error}")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Clients keep what is needed to come back, this pod keeps nothing.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets;
        config.send_tls13_tickets = TICKETS;
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}
