//! Configuration: flags, their environment variables and the file of live settings, checked before any port opens.
//!
//! In: the command line, `COLLAB_<FLAG>` variables, `--config`. Out: a [`Config`] on which everything else relies, or a
//! [`Mistake`] of one line that names the flag.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;

use crate::live::{self, Live};

/// What a document may hold unless configured otherwise.
const DOCUMENT_BYTES_DEFAULT: usize = 4 << 20;
/// What one edit may hold unless configured otherwise.
const EDIT_BYTES_DEFAULT: usize = 1 << 20;

/// A configuration that cannot work: one line that names the flag and says what to write.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Mistake(String);

/// Everything the process is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where probes and scrapers connect.
    pub admin_listen: SocketAddr,
    /// `None` means the embedded store.
    pub redis: Option<Redis>,
    /// Who may sign in.
    pub jwt: Jwt,
    /// Trust the `name` and `avatar` claims instead of a directory.
    pub users_from_claims: bool,
    /// Browsers' `Origin`s that may connect; empty means any.
    pub allowed_origins: Vec<String>,
    /// The largest document, in bytes of UTF-8.
    pub document_bytes_max: usize,
    /// The largest edit, in bytes of its message.
    pub edit_bytes_max: usize,
    /// How long a drain may take.
    pub drain_deadline: Duration,
    /// Between two heartbeats.
    pub ping_interval: Duration,
    /// How long a client may take to answer one.
    pub ping_timeout: Duration,
    /// Serve the demo page and sign demo tokens.
    pub demo: bool,
    /// The settings that change while it runs, as they are at the start.
    pub live: Live,
    /// The file that changes them.
    pub live_file: Option<PathBuf>,
}

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct Redis {
    /// `host:port` of every server.
    pub addresses: Vec<String>,
    /// An ACL user; `None` means `default`.
    pub username: Option<String>,
    /// Re-read at every new connection; several lines are several valid passwords.
    pub password_file: Option<PathBuf>,
}

/// What a token must satisfy.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// HS256 secrets, each in a file of its own; all verify.
    pub secret_files: Vec<PathBuf>,
    /// The `iss` claim, where required.
    pub issuer: Option<String>,
    /// The `aud` claim, where required.
    pub audience: Option<String>,
}

impl Config {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// With the first flag that cannot work.
    pub fn load(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Loading> {
        let flags = Flags::try_parse_from(arguments).map_err(|error| {
            use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
            if matches!(error.kind(), DisplayHelp | DisplayVersion) {
                Loading::Asked(error)
            } else {
                Loading::Mistake(Mistake(first_line(&error.to_string())))
            }
        })?;
        flags.check().map_err(Loading::Mistake)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Loading {
    /// `--help` or `--version`.
    #[error("{0}")]
    Asked(clap::Error),
    /// Something cannot work.
    #[error(transparent)]
    Mistake(#[from] Mistake),
}

/// The WebSocket gateway of CollabCluster.
#[derive(Debug, Parser)]
#[command(name = "collab-gateway", version, about)]
struct Flags {
    /// Where clients connect.
    #[arg(long, env = "COLLAB_LISTEN", default_value = "[::]:3000")]
    listen: SocketAddr,
    /// Where probes and scrapers connect: /livez, /readyz, /metrics.
    #[arg(long, env = "COLLAB_ADMIN_LISTEN", default_value = "[::]:9090")]
    admin_listen: SocketAddr,
    /// redis://host:port[,host:port…]; without it documents live in this process alone.
    #[arg(long, env = "COLLAB_REDIS_URL")]
    redis_url: Option<String>,
    /// A file that holds the URL.
    #[arg(long, env = "COLLAB_REDIS_URL_FILE", conflicts_with = "redis_url")]
    redis_url_file: Option<PathBuf>,
    /// An ACL user.
    #[arg(long, env = "COLLAB_REDIS_USERNAME")]
    redis_username: Option<String>,
    /// A file of passwords, one a line, all valid.
    #[arg(long, env = "COLLAB_REDIS_PASSWORD_FILE")]
    redis_password_file: Option<PathBuf>,
    /// Not in this version yet.
    #[arg(long, env = "COLLAB_REDIS_CA_FILE")]
    redis_ca_file: Option<PathBuf>,
    /// A file with an HS256 secret; repeat it for several that all verify.
    #[arg(long, env = "COLLAB_JWT_SECRET_FILE", value_delimiter = ',')]
    jwt_secret_file: Vec<PathBuf>,
    /// Not in this version yet.
    #[arg(long, env = "COLLAB_JWT_PUBLIC_KEY_FILE")]
    jwt_public_key_file: Option<PathBuf>,
    /// Not in this version yet.
    #[arg(long, env = "COLLAB_JWKS_URL")]
    jwks_url: Option<String>,
    /// The `iss` claim that tokens must have.
    #[arg(long, env = "COLLAB_JWT_ISSUER")]
    jwt_issuer: Option<String>,
    /// The `aud` claim that tokens must have.
    #[arg(long, env = "COLLAB_JWT_AUDIENCE")]
    jwt_audience: Option<String>,
    /// Not in this version yet.
    #[arg(long, env = "COLLAB_USER_DIRECTORY_URL")]
    user_directory_url: Option<String>,
    /// Trust `name` and `avatar` claims instead of a directory.
    #[arg(long, env = "COLLAB_USERS_FROM_CLAIMS", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    users_from_claims: bool,
    /// Not in this version yet.
    #[arg(long, env = "COLLAB_ACCESS_URL")]
    access_url: Option<String>,
    /// Connections that this pod admits; beyond it upgrades are refused with 503.
    #[arg(long, env = "COLLAB_MAX_CONNECTIONS")]
    max_connections: Option<usize>,
    /// New connections a second that this pod admits.
    #[arg(long, env = "COLLAB_ACCEPT_RATE")]
    accept_rate: Option<u32>,
    /// What an acknowledgement promises; only `async` in this version.
    #[arg(long, env = "COLLAB_DURABILITY", default_value = "async")]
    durability: String,
    /// How long a drain may take, such as 8m.
    #[arg(long, env = "COLLAB_DRAIN_DEADLINE", default_value = "20s", value_parser = duration)]
    drain_deadline: Duration,
    /// Connections a second that a drain closes.
    #[arg(long, env = "COLLAB_DRAIN_RATE")]
    drain_rate: Option<u32>,
    /// Browsers' origins that may connect; none means any.
    #[arg(long, env = "COLLAB_ALLOWED_ORIGINS", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    /// The largest document in bytes.
    #[arg(long, env = "COLLAB_MAX_DOCUMENT_BYTES", default_value_t = DOCUMENT_BYTES_DEFAULT)]
    max_document_bytes: usize,
    /// The largest edit in bytes.
    #[arg(long, env = "COLLAB_MAX_EDIT_BYTES", default_value_t = EDIT_BYTES_DEFAULT)]
    max_edit_bytes: usize,
    /// Not in this version yet.
    #[arg(long, env = "COLLAB_TLS_CERT_FILE")]
    tls_cert_file: Option<PathBuf>,
    /// Not in this version yet.
    #[arg(long, env = "COLLAB_TLS_KEY_FILE")]
    tls_key_file: Option<PathBuf>,
    /// Not in this version yet.
    #[arg(long, env = "COLLAB_RESUME_KEY_FILE")]
    resume_key_file: Option<PathBuf>,
    /// Between two heartbeats.
    #[arg(long, env = "COLLAB_PING_INTERVAL", default_value = "25s", value_parser = duration)]
    ping_interval: Duration,
    /// How long a client may take to answer one.
    #[arg(long, env = "COLLAB_PING_TIMEOUT", default_value = "20s", value_parser = duration)]
    ping_timeout: Duration,
    /// A YAML file of the settings that change while it runs; its keys are flag names.
    #[arg(long, env = "COLLAB_CONFIG")]
    config: Option<PathBuf>,
    /// error, warn, info, debug or trace.
    #[arg(long, env = "COLLAB_LOG_LEVEL")]
    log_level: Option<live::LogLevel>,
    /// Serve the demo page at / and sign tokens for demo users at /demo/token.
    #[arg(long, env = "COLLAB_DEMO", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    demo: bool,
}

impl Flags {
    fn check(self) -> Result<Config, Mistake> {
        self.refuse_what_is_not_built()?;
        let redis = self.redis()?;
        if redis.is_some() && self.jwt_secret_file.is_empty() {
            return Err(Mistake("--jwt-secret-file is missing: name a file with the secret that signs tokens".into()));
        }
        if redis.is_none() && self.jwt_secret_file.is_empty() && !self.demo {
            return Err(Mistake("--jwt-secret-file is missing: name a file with the secret, or add --demo".into()));
        }
        for file in &self.jwt_secret_file {
            let secret = std::fs::read(file).map_err(|error| unreadable("--jwt-secret-file", file, &error))?;
            if secret.trim_ascii().is_empty() {
                return Err(Mistake(format!("--jwt-secret-file: {} is empty", file.display())));
            }
        }
        for (flag, bytes) in
            [("--max-document-bytes", self.max_document_bytes), ("--max-edit-bytes", self.max_edit_bytes)]
        {
            if bytes == 0 {
                return Err(Mistake(format!("{flag} must be at least 1")));
            }
        }
        if self.ping_interval.is_zero() || self.ping_timeout.is_zero() {
            return Err(Mistake("--ping-interval and --ping-timeout must be longer than 0s".into()));
        }
        let given = live::Partial {
            max_connections: self.max_connections,
            accept_rate: self.accept_rate,
            drain_rate: self.drain_rate,
            log_level: self.log_level,
        };
        let file = match &self.config {
            None => live::Partial::default(),
            Some(path) => live::read(path).map_err(|error| Mistake(format!("--config: {error}")))?,
        };
        Ok(Config {
            listen: self.listen,
            admin_listen: self.admin_listen,
            redis,
            jwt: Jwt { secret_files: self.jwt_secret_file, issuer: self.jwt_issuer, audience: self.jwt_audience },
            users_from_claims: self.users_from_claims,
            allowed_origins: self.allowed_origins.into_iter().filter(|origin| !origin.is_empty()).collect(),
            document_bytes_max: self.max_document_bytes,
            edit_bytes_max: self.max_edit_bytes,
            drain_deadline: self.drain_deadline,
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            demo: self.demo,
            live: Live::from(file.or(given)),
            live_file: self.config,
        })
    }

    fn refuse_what_is_not_built(&self) -> Result<(), Mistake> {
        let given = [
            ("--redis-ca-file", self.redis_ca_file.is_some()),
            ("--jwt-public-key-file", self.jwt_public_key_file.is_some()),
            ("--jwks-url", self.jwks_url.is_some()),
            ("--user-directory-url", self.user_directory_url.is_some()),
            ("--access-url", self.access_url.is_some()),
            ("--tls-cert-file", self.tls_cert_file.is_some()),
            ("--tls-key-file", self.tls_key_file.is_some()),
            ("--resume-key-file", self.resume_key_file.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Mistake(format!("{flag} is not in this version yet: leave it out")));
        }
        match self.durability.as_str() {
            "async" => Ok(()),
            "replicated" | "synced" => {
                Err(Mistake(format!("--durability {} is not in this version yet: use async", self.durability)))
            }
            other => Err(Mistake(format!("--durability {other} is unknown: use async"))),
        }
    }

    fn redis(&self) -> Result<Option<Redis>, Mistake> {
        let url = match (&self.redis_url, &self.redis_url_file) {
            (Some(url), _) => url.clone(),
            (None, Some(file)) => {
                std::fs::read_to_string(file).map_err(|error| unreadable("--redis-url-file", file, &error))?
            }
            (None, None) => return Ok(None),
        };
        if let Some(file) = &self.redis_password_file {
            std::fs::read(file).map_err(|error| unreadable("--redis-password-file", file, &error))?;
        }
        let addresses = addresses(url.trim())?;
        let password_file = self.redis_password_file.clone();
        Ok(Some(Redis { addresses, username: self.redis_username.clone(), password_file }))
    }
}

fn addresses(url: &str) -> Result<Vec<String>, Mistake> {
    let wrong = |why: &str| Mistake(format!("--redis-url {why}: write redis://host:port, several hosts by commas"));
    if url.starts_with("rediss://") {
        return Err(Mistake("--redis-url: rediss:// is not in this version yet: use redis://".into()));
    }
    let hosts = url.strip_prefix("redis://").ok_or_else(|| wrong("has no redis:// in front"))?;
    if hosts.contains(['@', '/']) {
        return Err(wrong("holds more than hosts; user and password have flags of their own"));
    }
    let with_port = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => Ok(host.to_owned()),
        None if !host.is_empty() => Ok(format!("{host}:6379")),
        _ => Err(wrong("has a host that is empty or a port that is no number")),
    };
    hosts.split(',').map(|host| with_port(host.trim())).collect()
}

/// `25s`, `1m30s`, `500ms`: the form that the resource uses too.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write something like 25s, 1m30s or 500ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let after = &rest[digits..];
        let units = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let unit_ms = match &after[..units] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &after[units..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

fn unreadable(flag: &str, file: &std::path::Path, error: &std::io::Error) -> Mistake {
    Mistake(format!("{flag}: {} cannot be read: {error}", file.display()))
}

fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("bad arguments");
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Config, duration};

    fn refusal(arguments: &[&str]) -> String {
        let all = std::iter::once("collab-gateway").chain(arguments.iter().copied());
        Config::load(all.map(Into::into)).expect_err("must be refused").to_string()
    }

    #[test]
    fn durations_are_read_as_the_resource_writes_them() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "5", "s", "5 s", "1.5s", "-1s", "99999999999999999999h", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mistake_is_one_line_that_names_the_flag() {
        for (arguments, flag) in [
            (&["--listen", "nowhere"][..], "--listen"),
            (&["--redis-url", "redis://redis:6379"], "--jwt-secret-file"),
            (&["--redis-url", "http://redis", "--demo"], "--redis-url"),
            (&["--redis-url", "redis://user:word@redis", "--demo"], "--redis-url"),
            (&["--jwt-secret-file", "/does/not/exist"], "--jwt-secret-file"),
            (&["--demo", "--durability", "synced"], "--durability"),
            (&["--demo", "--jwks-url", "https://keys"], "--jwks-url"),
            (&["--demo", "--ping-interval", "0s"], "--ping-interval"),
            (&["--demo", "--config", "/does/not/exist"], "--config"),
            (&["--demo", "--max-edit-bytes", "0"], "--max-edit-bytes"),
            (&["--no-such-flag"], "--no-such-flag"),
        ] {
            let line = refusal(arguments);
            assert!(line.contains(flag) && !line.contains('\n'), "{arguments:?} gave {line:?}");
        }
    }

    #[test]
    fn the_demo_needs_nothing_else() {
        let config = Config::load(["collab-gateway", "--demo"].map(Into::into)).expect("works");
        assert!(config.demo && config.redis.is_none());
        assert_eq!(config.live.max_connections, 15_000);
    }
}
