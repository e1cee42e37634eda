//! The flags as they are typed: names, environment variables, defaults and the words of `--help`.
//!
//! In: the command line. Out: [`Flags`], which `check.rs` turns into a configuration.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;

use super::{Durability, values::duration};
use crate::live;

/// What a document may hold unless configured otherwise.
const DOCUMENT_BYTES_DEFAULT: usize = 4 << 20;
/// What one edit may hold unless configured otherwise.
const EDIT_BYTES_DEFAULT: usize = 1 << 20;

/// The WebSocket gateway of CollabCluster.
#[derive(Debug, Parser)]
#[command(name = "collab-gateway", version, about, allow_negative_numbers = true)]
pub(super) struct Flags {
    /// Where clients connect.
    #[arg(long, env = "COLLAB_LISTEN", default_value = "[::]:3000")]
    pub(super) listen: SocketAddr,
    /// Where probes and scrapers connect: /livez, /readyz, /metrics.
    #[arg(long, env = "COLLAB_ADMIN_LISTEN", default_value = "[::]:9090")]
    pub(super) admin_listen: SocketAddr,
    /// redis://host:port[,host:port…]; without it documents live in this process alone.
    #[arg(long, env = "COLLAB_REDIS_URL")]
    pub(super) redis_url: Option<String>,
    /// A file that holds the URL.
    #[arg(long, env = "COLLAB_REDIS_URL_FILE", conflicts_with = "redis_url")]
    pub(super) redis_url_file: Option<PathBuf>,
    /// An ACL user.
    #[arg(long, env = "COLLAB_REDIS_USERNAME")]
    pub(super) redis_username: Option<String>,
    /// A file of passwords, one a line, all valid.
    #[arg(long, env = "COLLAB_REDIS_PASSWORD_FILE")]
    pub(super) redis_password_file: Option<PathBuf>,
    /// A PEM file of the certificates that sign the server's; without it the system's.
    #[arg(long, env = "COLLAB_REDIS_CA_FILE")]
    pub(super) redis_ca_file: Option<PathBuf>,
    /// A file with an HS256 secret; repeat it for several that all verify.
    #[arg(long, env = "COLLAB_JWT_SECRET_FILE", value_delimiter = ',')]
    pub(super) jwt_secret_file: Vec<PathBuf>,
    /// A PEM file of public keys for RS256, ES256 and EdDSA; all of them verify.
    #[arg(long, env = "COLLAB_JWT_PUBLIC_KEY_FILE")]
    pub(super) jwt_public_key_file: Option<PathBuf>,
    /// Where a JWKS is fetched, again every 5 to 10 minutes and when a token names an unknown key.
    #[arg(long, env = "COLLAB_JWKS_URL")]
    pub(super) jwks_url: Option<String>,
    /// The `iss` claim that tokens must have.
    #[arg(long, env = "COLLAB_JWT_ISSUER")]
    pub(super) jwt_issuer: Option<String>,
    /// The `aud` claim that tokens must have.
    #[arg(long, env = "COLLAB_JWT_AUDIENCE")]
    pub(super) jwt_audience: Option<String>,
    /// A webhook that knows users: GET <url>/users/<id> answers {"name", "avatar"?}, or 404.
    #[arg(long, env = "COLLAB_USER_DIRECTORY_URL")]
    pub(super) user_directory_url: Option<String>,
    /// Trust `name` and `avatar` claims instead of a directory.
    #[arg(long, env = "COLLAB_USERS_FROM_CLAIMS", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    pub(super) users_from_claims: bool,
    /// A webhook that knows accesses, in place of keys: GET <url>/documents/<id>/access/<userId> answers
    /// {"role": "write"}, comment or read, or 404.
    #[arg(long, env = "COLLAB_ACCESS_URL")]
    pub(super) access_url: Option<String>,
    /// Connections that this pod admits; beyond it upgrades are refused with 503.
    #[arg(long, env = "COLLAB_MAX_CONNECTIONS")]
    pub(super) max_connections: Option<usize>,
    /// New connections a second that this pod admits.
    #[arg(long, env = "COLLAB_ACCEPT_RATE")]
    pub(super) accept_rate: Option<u32>,
    /// What an acknowledgement promises.
    #[arg(long, env = "COLLAB_DURABILITY", default_value = "async")]
    pub(super) durability: Durability,
    /// How long a drain may take, such as 8m.
    #[arg(long, env = "COLLAB_DRAIN_DEADLINE", default_value = "20s", value_parser = duration)]
    pub(super) drain_deadline: Duration,
    /// Connections a second that a drain closes.
    #[arg(long, env = "COLLAB_DRAIN_RATE")]
    pub(super) drain_rate: Option<u32>,
    /// A unix socket for the pod's agent: drain, status. It exists only where this names it.
    #[arg(long, env = "COLLAB_CONTROL_SOCKET")]
    pub(super) control_socket: Option<PathBuf>,
    /// Browsers' origins that may connect; none means any.
    #[arg(long, env = "COLLAB_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub(super) allowed_origins: Vec<String>,
    /// The largest document in bytes.
    #[arg(long, env = "COLLAB_MAX_DOCUMENT_BYTES", default_value_t = DOCUMENT_BYTES_DEFAULT)]
    pub(super) max_document_bytes: usize,
    /// The largest edit in bytes.
    #[arg(long, env = "COLLAB_MAX_EDIT_BYTES", default_value_t = EDIT_BYTES_DEFAULT)]
    pub(super) max_edit_bytes: usize,
    /// The public port's certificate and those above it, in PEM; re-read when it changes.
    #[arg(long, env = "COLLAB_TLS_CERT_FILE")]
    pub(super) tls_cert_file: Option<PathBuf>,
    /// Its private key, in PEM; re-read when it changes.
    #[arg(long, env = "COLLAB_TLS_KEY_FILE")]
    pub(super) tls_key_file: Option<PathBuf>,
    /// A file of keys, common to all pods, that sign resume tickets; of several lines the last signs, the last two verify.
    #[arg(long, env = "COLLAB_RESUME_KEY_FILE")]
    pub(super) resume_key_file: Option<PathBuf>,
    /// Between two heartbeats.
    #[arg(long, env = "COLLAB_PING_INTERVAL", default_value = "25s", value_parser = duration)]
    pub(super) ping_interval: Duration,
    /// How long a client may take to answer one.
    #[arg(long, env = "COLLAB_PING_TIMEOUT", default_value = "20s", value_parser = duration)]
    pub(super) ping_timeout: Duration,
    /// Compress messages (permessage-deflate) for clients that can inflate them: fewer bytes for more work.
    #[arg(long, env = "COLLAB_COMPRESSION", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    pub(super) compression: bool,
    /// A YAML file of the settings that change while it runs; its keys are flag names.
    #[arg(long, env = "COLLAB_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Connections of one user on this pod; one more ends the oldest.
    #[arg(long, env = "COLLAB_MAX_CONNECTIONS_PER_USER")]
    pub(super) max_connections_per_user: Option<usize>,
    /// Documents that one connection may have open; an editor has one, a dashboard a few.
    #[arg(long, env = "COLLAB_MAX_DOCUMENTS_PER_CONNECTION")]
    pub(super) max_documents_per_connection: Option<usize>,
    /// Joins a second of one connection.
    #[arg(long, env = "COLLAB_JOIN_RATE")]
    pub(super) join_rate: Option<u32>,
    /// Cursors a second of one connection, and as many typing signals.
    #[arg(long, env = "COLLAB_CURSOR_RATE")]
    pub(super) cursor_rate: Option<u32>,
    /// Messages a second that are read of one connection; beyond it its socket is read more slowly.
    #[arg(long, env = "COLLAB_MESSAGE_RATE")]
    pub(super) message_rate: Option<u32>,
    /// The same in bytes a second.
    #[arg(long, env = "COLLAB_MESSAGE_BYTES_RATE")]
    pub(super) message_bytes_rate: Option<u32>,
    /// Bytes that all clients together may make the pod hold: unread frames, half messages, waiting edits.
    #[arg(long, env = "COLLAB_MAX_BUFFER_BYTES")]
    pub(super) max_buffer_bytes: Option<usize>,
    /// Bytes that open documents may take in this pod's memory: their content and recent history.
    #[arg(long, env = "COLLAB_MAX_DOCUMENTS_BYTES")]
    pub(super) max_documents_bytes: Option<usize>,
    /// error, warn, info, debug or trace.
    #[arg(long, env = "COLLAB_LOG_LEVEL")]
    pub(super) log_level: Option<live::LogLevel>,
    /// A collector's URL, such as http://collector:4318: traces are sent to it, OTLP over HTTP; none without it and without
    /// OTEL_EXPORTER_OTLP_ENDPOINT. OTEL_TRACES_SAMPLER says which; 1 % otherwise.
    #[arg(long, env = "COLLAB_OTLP_ENDPOINT")]
    pub(super) otlp_endpoint: Option<String>,
    /// Serve the demo page at / and sign tokens for demo users at /demo/token.
    #[arg(long, env = "COLLAB_DEMO", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    pub(super) demo: bool,
}
