//! From flags to a configuration that works.
//!
//! In: [`Flags`] and the files they name. Out: a [`Config`], or a [`Mistake`] that names the flag.

use super::{
    Config, Durability, Jwt, Mistake, Redis, URL_FILE,
    flags::Flags,
    otlp,
    values::{addresses, origin, read_text, unreadable, web_url},
};
use crate::{
    auth::check_public_file,
    directory::Urls,
    live::{self, Live},
    store::check_authorities,
    tickets::Tickets,
    tls::{self, TlsFiles},
};

impl Flags {
    pub(super) fn check(self) -> Result<Config, Mistake> {
        let redis = self.redis()?;
        let jwt = self.jwt(redis.is_some())?;
        let webhooks = self.webhooks()?;
        let given = self.allowed_origins.iter().filter(|text| !text.trim().is_empty());
        let allowed_origins = given.map(|text| origin(text)).collect::<Result<_, _>>()?;
        let tls = self.tls()?;
        let traces = otlp::endpoint(self.otlp_endpoint.as_deref(), |name| std::env::var(name).ok())?.transpose();
        let (otlp_traces, otlp_trouble) = match traces {
            Ok(url) => (url, None),
            Err(mistake) => (None, Some(mistake.to_string())),
        };
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
        if let Some(file) = &self.resume_key_file {
            Tickets::new(Some(file))
                .map_err(|error| Mistake(format!("--resume-key-file: {} {error}", file.display())))?;
        }
        let given = live::Partial {
            max_connections: self.max_connections,
            accept_rate: self.accept_rate,
            drain_rate: self.drain_rate,
            max_buffer_bytes: self.max_buffer_bytes,
            max_documents_bytes: self.max_documents_bytes,
            max_connections_per_user: self.max_connections_per_user,
            max_documents_per_connection: self.max_documents_per_connection,
            join_rate: self.join_rate,
            cursor_rate: self.cursor_rate,
            message_rate: self.message_rate,
            message_bytes_rate: self.message_bytes_rate,
            log_level: self.log_level,
        };
        let file = match &self.config {
            None => live::Partial::default(),
            Some(path) => live::read(path).map_err(|error| Mistake(format!("--config: {error}")))?,
        };
        let live = Live::from(file.or(given.clone()));
        Ok(Config {
            listen: self.listen,
            admin_listen: self.admin_listen,
            redis,
            jwt,
            users_from_claims: self.users_from_claims,
            webhooks,
            tls,
            allowed_origins,
            document_bytes_max: self.max_document_bytes,
            edit_bytes_max: self.max_edit_bytes,
            drain_deadline: self.drain_deadline,
            control_socket: self.control_socket,
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            otlp_traces,
            otlp_trouble,
            compression: self.compression,
            demo: self.demo,
            live,
            live_file: self.config.map(|path| live::File { path, flags: given }),
            resume_key_file: self.resume_key_file,
        })
    }

    fn tls(&self) -> Result<Option<TlsFiles>, Mistake> {
        let files = match (&self.tls_cert_file, &self.tls_key_file) {
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(Mistake("--tls-key-file is missing: --tls-cert-file needs its key".into())),
            (None, Some(_)) => {
                return Err(Mistake("--tls-cert-file is missing: --tls-key-file needs its certificate".into()));
            }
            (Some(cert), Some(key)) => TlsFiles { cert: cert.clone(), key: key.clone() },
        };
        tls::check(&files).map_err(|error| Mistake(error.to_string()))?;
        Ok(Some(files))
    }

    fn jwt(&self, is_shared: bool) -> Result<Jwt, Mistake> {
        let has_keys =
            !self.jwt_secret_file.is_empty() || self.jwt_public_key_file.is_some() || self.jwks_url.is_some();
        if !has_keys && (is_shared || !self.demo) {
            let or = if is_shared { "" } else { ", or add --demo" };
            return Err(Mistake(format!(
                "--jwt-secret-file is missing: name a file with the secret that signs tokens (or --jwt-public-key-file, \
                 --jwks-url){or}"
            )));
        }
        if self.demo && is_shared && self.jwt_secret_file.is_empty() {
            return Err(Mistake("--demo with --redis-url needs --jwt-secret-file: all pods sign with it".into()));
        }
        for file in &self.jwt_secret_file {
            let secret = std::fs::read(file).map_err(|error| unreadable("--jwt-secret-file", file, &error))?;
            if secret.trim_ascii().is_empty() {
                return Err(Mistake(format!("--jwt-secret-file: {} is empty", file.display())));
            }
        }
        if let Some(file) = &self.jwt_public_key_file {
            check_public_file(file)
                .map_err(|why| Mistake(format!("--jwt-public-key-file: {} {why}", file.display())))?;
        }
        let jwks_url = self.jwks_url.as_deref().map(|url| web_url("--jwks-url", url)).transpose()?;
        Ok(Jwt {
            secret_files: self.jwt_secret_file.clone(),
            public_key_file: self.jwt_public_key_file.clone(),
            jwks_url,
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone(),
        })
    }

    fn webhooks(&self) -> Result<Urls, Mistake> {
        if self.user_directory_url.is_some() && self.users_from_claims {
            return Err(Mistake(
                "--user-directory-url and --users-from-claims exclude each other: leave one out".into(),
            ));
        }
        let url = |flag: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => match web_url(flag, text)? {
                // Something is appended to it.
                url if url.query().is_some() => Err(Mistake(format!("{flag} must not have a query (?…)"))),
                url => Ok(Some(url)),
            },
        };
        Ok(Urls {
            users: url("--user-directory-url", &self.user_directory_url)?,
            access: url("--access-url", &self.access_url)?,
        })
    }

    fn redis(&self) -> Result<Option<Redis>, Mistake> {
        let (flag, url) = match (&self.redis_url, &self.redis_url_file) {
            (Some(url), _) => ("--redis-url", url.clone()),
            (None, Some(file)) => (URL_FILE, read_text(URL_FILE, file)?),
            (None, None) if self.durability == Durability::Async => return Ok(None),
            (None, None) => {
                return Err(Mistake("--durability other than async needs --redis-url: alone nothing is kept".into()));
            }
        };
        if let Some(file) = &self.redis_password_file {
            let text = read_text("--redis-password-file", file)?;
            if text.lines().all(str::is_empty) {
                return Err(Mistake(format!("--redis-password-file: {} holds no password", file.display())));
            }
        }
        let (tls, addresses) = addresses(flag, url.trim())?;
        if let Some(file) = &self.redis_ca_file {
            if !tls {
                return Err(Mistake("--redis-ca-file has no meaning without a --redis-url of rediss://".into()));
            }
            check_authorities(file).map_err(|why| Mistake(format!("--redis-ca-file: {} {why}", file.display())))?;
        }
        Ok(Some(Redis {
            addresses,
            url_file: self.redis_url_file.clone(),
            username: self.redis_username.clone(),
            password_file: self.redis_password_file.clone(),
            tls,
            ca_file: self.redis_ca_file.clone(),
            durability: self.durability,
        }))
    }
}
