//! Configuration: flags, their environment variables and the file of live settings, checked before any port opens.
//!
//! In: the command line, `COLLAB_<FLAG>` variables, `--config`. Out: a [`Config`] on which everything else relies, or a
//! [`Mistake`] of one line that names the flag.

mod check;
mod flags;
mod otlp;
mod values;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use hyper::Uri;

use self::flags::Flags;
use crate::{
    directory::Urls,
    live::{self, Live},
    tls::TlsFiles,
};

/// How often files that change while the process runs are looked at; mounted Secrets and ConfigMaps lag by up to a minute
/// anyway.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The flag whose file is looked at whenever the primary is looked for.
const URL_FILE: &str = "--redis-url-file";

/// A configuration that cannot work: one line that names the flag and says what to write.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Mistake(pub(crate) String);

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
    /// Keys of resume tickets; `None` means a random one.
    pub resume_key_file: Option<PathBuf>,
    /// Who else is asked about people and their access.
    pub webhooks: Urls,
    /// The public port's certificate; `None` means no encryption.
    pub tls: Option<TlsFiles>,
    /// Browsers' `Origin`s that may connect; empty means any.
    pub allowed_origins: Vec<String>,
    /// The largest document, in bytes of UTF-8.
    pub document_bytes_max: usize,
    /// The largest edit, in bytes of its message.
    pub edit_bytes_max: usize,
    /// How long a drain may take.
    pub drain_deadline: Duration,
    /// Where the pod's agent connects.
    pub control_socket: Option<PathBuf>,
    /// Between two heartbeats.
    pub ping_interval: Duration,
    /// How long a client may take to answer one.
    pub ping_timeout: Duration,
    /// Where traces are sent; `None` means that there are none.
    pub otlp_traces: Option<Uri>,
    /// Why there are none, although the environment names a place.
    pub otlp_trouble: Option<String>,
    /// Compress messages for clients that can inflate them.
    pub compression: bool,
    /// Serve the demo page and sign demo tokens.
    pub demo: bool,
    /// The settings that change while it runs, as they are at the start.
    pub live: Live,
    /// The file that changes them.
    pub live_file: Option<live::File>,
}

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct Redis {
    /// `host:port` of every server, as they were at the start.
    pub addresses: Vec<String>,
    /// Where they are read again; see [`Redis::addresses_now`].
    pub url_file: Option<PathBuf>,
    /// An ACL user; `None` means `default`.
    pub username: Option<String>,
    /// Re-read at every new connection; several lines are several valid passwords.
    pub password_file: Option<PathBuf>,
    /// Encrypted, the server's certificate checked against `ca_file`, or the system's certificates.
    pub tls: bool,
    /// PEM; re-read at every new connection.
    pub ca_file: Option<PathBuf>,
    /// What an acknowledgement promises.
    pub durability: Durability,
}

impl Redis {
    /// These servers, as a plain `--redis-url` names them.
    pub fn at(addresses: Vec<String>) -> Self {
        let durability = Durability::Async;
        Self { addresses, url_file: None, username: None, password_file: None, tls: false, ca_file: None, durability }
    }
}

impl Redis {
    /// The servers as the file of `--redis-url-file` names them now; `None` without such a file.
    ///
    /// # Errors
    /// When it cannot be read, or asks for what only another process can do: whoever has addresses keeps them.
    pub fn addresses_now(&self) -> Result<Option<Vec<String>>, Mistake> {
        let Some(file) = &self.url_file else { return Ok(None) };
        let (tls, addresses) = values::addresses(URL_FILE, values::read_text(URL_FILE, file)?.trim())?;
        if tls != self.tls {
            return Err(Mistake(format!("{URL_FILE}: from redis:// to rediss:// or back needs a restart")));
        }
        Ok(Some(addresses))
    }
}

/// What an acknowledged edit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Durability {
    /// Nothing but the primary's own restart, as its persistence is configured.
    #[default]
    Async,
    /// The loss of the primary: a follower has it.
    Replicated,
    /// The loss of power everywhere: it is on a follower's disk and the primary's. Needs Redis 7.2 or Valkey.
    Synced,
}

/// What a token must satisfy.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// HS256 secrets, each in a file of its own; all verify.
    pub secret_files: Vec<PathBuf>,
    /// PEM of public keys for RS256, ES256 and EdDSA; all verify.
    pub public_key_file: Option<PathBuf>,
    /// Where a key set is fetched.
    pub jwks_url: Option<Uri>,
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

fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("bad arguments");
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::{
        Config, Redis,
        flags::Flags,
        values::{duration, origin},
    };

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
            (&["--redis-url", "redis://redis", "--demo", "--jwks-url", "https://keys"], "--jwt-secret-file"),
            (&["--redis-url", "http://redis", "--demo"], "--redis-url"),
            (&["--redis-url-file", "/does/not/exist", "--demo"], "--redis-url-file"),
            (&["--redis-url-file", "/dev/null", "--demo"], "--redis-url-file"),
            (&["--redis-url-file", "x", "--redis-url", "redis://redis"], "--redis-url"),
            (&["--redis-url", "redis://redis:port"], "--redis-url"),
            (&["--redis-url", "redis://redis,"], "--redis-url"),
            (&["--redis-url", "redis://fd00::1"], "[fd00::1]"),
            (&["--redis-url", "redis://fd00::1:6379"], "--redis-url has an IPv6 address without brackets"),
            (&["--redis-url", "redis://[fd00::1"], "--redis-url"),
            (&["--redis-url", "redis://[redis]:6379"], "--redis-url"),
            (&["--redis-url", "redis://[::1]6379"], "--redis-url"),
            (&["--redis-url", "redis://redis:63:79"], "--redis-url"),
            (&["--redis-url", "redis://redis", "--redis-password-file", "/dev/null"], "--redis-password-file"),
            (&["--redis-url", "rediss://redis", "--redis-ca-file", "/dev/null"], "--redis-ca-file"),
            (&["--redis-url", "rediss://redis", "--redis-ca-file", "Cargo.toml"], "--redis-ca-file"),
            (&["--redis-url", "redis://redis", "--redis-password-file", "/does/not/exist"], "--redis-password-file"),
            (&["--redis-url", "redis://redis", "--redis-ca-file", "x"], "--redis-ca-file"),
            (&["--redis-url", "rediss://redis", "--redis-ca-file", "/does/not/exist"], "--redis-ca-file"),
            (&["--jwt-secret-file", "/dev/null"], "--jwt-secret-file"),
            (&["--admin-listen", "9090"], "--admin-listen"),
            (&["--max-connections", "many"], "--max-connections"),
            (&["--accept-rate", "-1"], "--accept-rate"),
            (&["--drain-rate", "1.5"], "--drain-rate"),
            (&["--drain-deadline", "8"], "--drain-deadline"),
            (&["--durability", "perhaps"], "--durability"),
            (&["--demo", "--max-document-bytes", "0"], "--max-document-bytes"),
            (&["--demo", "--allowed-origins", "docs.example.com"], "--allowed-origins"),
            (&["--demo", "--ping-timeout", "0s"], "--ping-timeout"),
            (&["--demo", "--access-url", "here"], "--access-url"),
            (&[], "--jwt-secret-file"),
            (&["--redis-url", "redis://user:word@redis", "--demo"], "--redis-url"),
            (&["--jwt-secret-file", "/does/not/exist"], "--jwt-secret-file"),
            (&["--demo", "--durability", "synced"], "--durability"),
            (&["--demo", "--jwks-url", "ftp://keys"], "--jwks-url"),
            (&["--demo", "--jwks-url", "https://name:word@keys/set"], "--jwks-url"),
            (&["--demo", "--jwt-public-key-file", "/does/not/exist"], "--jwt-public-key-file"),
            (&["--demo", "--user-directory-url", "people"], "--user-directory-url"),
            (&["--demo", "--access-url", "http://x/y?z=1"], "--access-url"),
            (&["--demo", "--user-directory-url", "http://x", "--users-from-claims"], "--user-directory-url"),
            (&["--demo", "--otlp-endpoint", "collector:4317"], "--otlp-endpoint"),
            (&["--demo", "--ping-interval", "0s"], "--ping-interval"),
            (&["--demo", "--config", "/does/not/exist"], "--config"),
            (&["--demo", "--max-edit-bytes", "0"], "--max-edit-bytes"),
            (&["--demo", "--resume-key-file", "/does/not/exist"], "--resume-key-file"),
            (&["--no-such-flag"], "--no-such-flag"),
        ] {
            let line = refusal(arguments);
            assert!(line.contains(flag) && !line.contains('\n'), "{arguments:?} gave {line:?}");
        }
    }

    #[test]
    fn every_flag_has_a_variable_and_lists_are_cut_at_commas() {
        let command = Flags::command();
        let own = command.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()));
        let mut flags = Vec::new();
        for argument in own {
            let flag = argument.get_long().expect("a long name");
            let variable = format!("COLLAB_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&*variable), "--{flag}");
            let is_list = matches!(argument.get_action(), clap::ArgAction::Append);
            assert_eq!(argument.get_value_delimiter(), is_list.then_some(','), "--{flag}");
            flags.push(flag);
        }
        for flag in [
            "listen",
            "admin-listen",
            "redis-url",
            "redis-url-file",
            "redis-username",
            "redis-password-file",
            "redis-ca-file",
            "jwt-secret-file",
            "jwt-public-key-file",
            "jwks-url",
            "jwt-issuer",
            "jwt-audience",
            "user-directory-url",
            "users-from-claims",
            "access-url",
            "max-connections",
            "accept-rate",
            "durability",
            "drain-deadline",
            "drain-rate",
            "allowed-origins",
            "max-document-bytes",
            "max-edit-bytes",
            "tls-cert-file",
            "tls-key-file",
            "resume-key-file",
            "ping-interval",
            "ping-timeout",
            "config",
            "demo",
        ] {
            assert!(flags.contains(&flag), "--{flag} is missing");
        }
    }

    #[test]
    fn what_is_not_said_is_as_the_contract_has_it() {
        let config = Config::load(["collab-gateway", "--demo"].map(Into::into)).expect("works");
        assert_eq!(
            (config.listen.to_string(), config.admin_listen.to_string()),
            ("[::]:3000".into(), "[::]:9090".into())
        );
        assert_eq!((config.document_bytes_max, config.edit_bytes_max), (4 << 20, 1 << 20));
        assert_eq!((config.ping_interval, config.ping_timeout), (Duration::from_secs(25), Duration::from_secs(20)));
        assert_eq!((config.live.max_connections, config.live.accept_rate, config.live.drain_rate), (15_000, 500, 200));
        assert!(config.allowed_origins.is_empty() && !config.compression && config.tls.is_none());
    }

    #[test]
    fn the_file_of_the_url_is_read_again_and_a_bad_one_changes_nothing() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |text: &str| std::fs::write(file.path(), text).expect("written");
        write("redis://one:1,two\n");
        let path = file.path().to_str().expect("text");
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), "secret").expect("written");
        let secret = secret.path().to_str().expect("text");
        let words = ["collab-gateway", "--redis-url-file", path, "--jwt-secret-file", secret];
        let redis = Config::load(words.map(Into::into)).expect("works").redis.expect("a store");
        assert_eq!(redis.addresses, ["one:1", "two:6379"]);
        write("redis://[::1],[fd00::2]:7");
        assert_eq!(
            redis.addresses_now().expect("reads"),
            Some(vec!["[::1]:6379".to_owned(), "[fd00::2]:7".to_owned()])
        );
        write("redis://three");
        assert_eq!(redis.addresses_now().expect("reads"), Some(vec!["three:6379".to_owned()]));
        for wrong in ["", "three", "rediss://three", "redis://three,"] {
            write(wrong);
            let why = redis.addresses_now().expect_err(wrong).to_string();
            assert!(why.contains("--redis-url-file") && !why.contains('\n'), "{why}");
        }
        assert_eq!(Redis::at(Vec::new()).addresses_now().expect("no file"), None);
    }

    #[test]
    fn origins_are_kept_as_browsers_write_them() {
        for (text, kept) in [
            ("https://Docs.Example.com/", "https://docs.example.com"),
            ("HTTPS://docs.example.com:443", "https://docs.example.com"),
            ("http://localhost:80", "http://localhost"),
            (" http://localhost:3000 ", "http://localhost:3000"),
            ("https://docs.example.com:80", "https://docs.example.com:80"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(origin(text).expect(text), kept);
        }
        for text in [
            "*",
            "null",
            "docs.example.com",
            "://x",
            "https://",
            "https://x/y",
            "https://*.x",
            "https://a@x",
            "https://ö",
        ] {
            let why = origin(text).expect_err(text).to_string();
            assert!(why.contains("--allowed-origins") && !why.contains('\n'), "{why}");
        }
    }

    #[test]
    fn the_demo_needs_nothing_else() {
        let config = Config::load(["collab-gateway", "--demo"].map(Into::into)).expect("works");
        assert!(config.demo && config.redis.is_none());
        assert_eq!(config.live.max_connections, 15_000);
    }
}
