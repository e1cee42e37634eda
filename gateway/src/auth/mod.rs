//! Who a token belongs to.
//!
//! In: the `auth.token` of a CONNECT. Out: [`Claims`], or a [`Denial`] with the message and code that clients get, or the
//! news that nobody can tell now. HS256 with secrets from files; RS256, ES256 and EdDSA with public keys from a file or a
//! key set that is fetched (`keeper.rs`). Every key verifies, so that keys can be rotated.

mod claims;
mod jwks;
mod keeper;
mod keys;
mod signatures;
mod verified;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;

pub use self::claims::Claims;
pub(crate) use self::keys::check_public_file;
use self::{
    claims::{DemoClaims, RawClaims},
    keeper::{Keeper, Keys, Remote},
    keys::Key,
    verified::Verified,
};
use crate::{clock::unix_s, config::Jwt, metrics::Metrics};

/// Clocks of the signing application and of this pod may differ by this much.
pub const LEEWAY_SECONDS: u64 = 30;
/// A longer token is somebody's mistake or attack; browsers' headers are smaller.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Keys that are tried with one token: of a set without names not every key, at up to 0.1 ms each.
const CANDIDATES_MAX: usize = 16;
/// How long a demo token lives.
const DEMO_SECONDS: u64 = 3600;
/// Marks the users that [`Authenticator::sign_demo`] made; nobody else's token can carry it with their names.
pub const DEMO_PREFIX: &str = "demo-";

/// Why a CONNECT is refused: always a statement about the token or the user, never about the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// No token.
    TokenRequired,
    /// Not signed by us, malformed, for somebody else, or without a usable user id.
    TokenInvalid,
    /// It was good once.
    TokenExpired,
    /// The directory does not know the user.
    UserNotFound,
}

impl Denial {
    /// The `message` of `connect_error`.
    pub fn message(self) -> &'static str {
        match self {
            Self::TokenRequired => "Authentication token required",
            Self::TokenInvalid | Self::TokenExpired => "Authentication failed",
            Self::UserNotFound => "User not found",
        }
    }

    /// The `data.code` of `connect_error`, and the label in metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::TokenRequired => "TOKEN_REQUIRED",
            Self::TokenInvalid => "TOKEN_INVALID",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::UserNotFound => "USER_NOT_FOUND",
        }
    }
}

/// Why there are no claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoClaims {
    /// A statement about the token.
    #[error("{}", .0.message())]
    Denied(Denial),
    /// The key set has not been fetched, or not since tokens name a key that it does not have: no statement at all.
    #[error("the key set cannot be asked")]
    KeysAway,
}

impl From<Denial> for NoClaims {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// Verifies tokens. Shared by all connections; cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

struct Inner {
    keeper: Keeper,
    rules: Rules,
    verified: Verified,
    /// Signatures that are checked at once; more wait, so that a storm leaves the sockets their processors.
    checks: Semaphore,
}

/// What tokens must say, for each algorithm.
struct Rules {
    issuer: Option<String>,
    audience: Option<String>,
}

/// What a token says of its own signature. Other fields, such as a key or the address of one, are never believed.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    /// Extensions that whoever does not know them must refuse (RFC 7515); none is known here.
    crit: Option<Value>,
}

impl Authenticator {
    /// Reads the files; without a secret file, a random secret that lives as long as the process.
    ///
    /// # Errors
    /// When a file cannot be read, or no randomness can be had.
    pub fn new(jwt: &Jwt, metrics: &Metrics) -> std::io::Result<Self> {
        signatures::install();
        let inner = Inner {
            keeper: Keeper::new(jwt, metrics.clone())?,
            rules: Rules { issuer: jwt.issuer.clone(), audience: jwt.audience.clone() },
            verified: Verified::new(),
            checks: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Follows files and key set for good. Without it the keys stay as they were read first.
    pub async fn keep_keys(self) {
        self.inner.keeper.keep().await;
    }

    /// Returns at the next change of the keys: what could not be verified may be verified then.
    pub async fn keys_change(&self) {
        // It fails when nobody keeps the keys any more.
        if self.inner.keeper.changes().changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// With the refusal that the client gets, or because nobody can tell now.
    pub async fn verify(&self, token: Option<&str>) -> Result<Claims, NoClaims> {
        let token = token.filter(|token| !token.is_empty()).ok_or(Denial::TokenRequired)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Denial::TokenInvalid.into());
        }
        let header = TokenHeader::read(token).ok_or(Denial::TokenInvalid)?;
        match header.alg.as_str() {
            "HS256" => Ok(self.verify_secret(token)?),
            "RS256" => self.verify_public(token, header, Algorithm::RS256).await,
            "ES256" => self.verify_public(token, header, Algorithm::ES256).await,
            "EdDSA" => self.verify_public(token, header, Algorithm::EdDSA).await,
            // "none" among them.
            _ => Err(Denial::TokenInvalid.into()),
        }
    }

    /// A few microseconds, which the cache would cost too.
    fn verify_secret(&self, token: &str) -> Result<Claims, Denial> {
        let keys = self.inner.keeper.keys();
        let validation = self.inner.rules.validation(Algorithm::HS256);
        first_good(keys.secret_keys.iter(), |key| check(token, key, &validation, true))
    }

    async fn verify_public(&self, token: &str, header: TokenHeader, algorithm: Algorithm) -> Result<Claims, NoClaims> {
        let inner = &self.inner;
        let keys = inner.keeper.keys();
        let print = Verified::print(token);
        if let Some(claims) = inner.verified.get(&print, keys.generation) {
            return Ok(claims);
        }
        let kid = header.kid.as_deref();
        let candidates: Vec<DecodingKey> = candidates(&keys, algorithm, kid).map(|key| key.key.clone()).collect();
        let checked = if candidates.is_empty() {
            Err(Denial::TokenInvalid)
        } else {
            // The semaphore is never closed.
            let permit = inner.checks.acquire().await.map_err(|_| NoClaims::KeysAway)?;
            let (token, validation) = (token.to_owned(), inner.rules.validation(algorithm));
            let check = move || first_good(candidates.iter(), |key| check(&token, key, &validation, false));
            let checked = tokio::task::spawn_blocking(check).await;
            drop(permit);
            // The process is about to end.
            checked.map_err(|_| NoClaims::KeysAway)?
        };
        match (checked, &keys.remote) {
            (Ok(claims), _) => {
                inner.verified.keep(print, keys.generation, claims.clone());
                Ok(claims)
            }
            (Err(Denial::TokenInvalid), Remote::Awaited) => Err(NoClaims::KeysAway),
            (Err(Denial::TokenInvalid), Remote::Fetched { keys, asked_at }) => {
                let is_missing = |kid: &&str| !keys.iter().any(|key| key.kid.as_deref() == Some(kid));
                // A longer name is no key's, and is not remembered.
                match kid.filter(|kid| kid.len() <= jwks::KID_BYTES_MAX).filter(is_missing) {
                    Some(kid) if !inner.keeper.is_unknown(kid, *asked_at) => Err(NoClaims::KeysAway),
                    Some(_) | None => Err(Denial::TokenInvalid.into()),
                }
            }
            (Err(denial), _) => Err(denial.into()),
        }
    }

    /// Signs one hour for a demo user with the first secret.
    ///
    /// # Errors
    /// When the token cannot be made.
    pub fn sign_demo(&self, user_id: &str, name: &str) -> Result<String, jsonwebtoken::errors::Error> {
        let exp = unix_s() + DEMO_SECONDS;
        let Rules { issuer, audience } = &self.inner.rules;
        let (iss, aud) = (issuer.as_deref(), audience.as_deref());
        let claims = DemoClaims { sub: user_id, name, exp, demo: true, iss, aud };
        let keys = self.inner.keeper.keys();
        let secret = keys.secrets.first().map(Vec::as_slice).unwrap_or_default();
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret))
    }
}

impl TokenHeader {
    fn read(token: &str) -> Option<TokenHeader> {
        let mut parts = token.split('.');
        let (head, _, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
        let header: TokenHeader = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
        Some(header).filter(|header| header.crit.is_none())
    }
}

impl Rules {
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.required_spec_claims.clear();
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".into());
            }
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        validation
    }
}

/// The keys that may have signed a token: all of the file, and of the set those with its name or without any.
fn candidates<'a>(keys: &'a Keys, algorithm: Algorithm, kid: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
    let fetched = match &keys.remote {
        Remote::Fetched { keys, .. } => keys.as_slice(),
        Remote::Absent | Remote::Awaited => &[],
    };
    let is_called = move |key: &&Key| match (kid, key.kid.as_deref()) {
        (Some(wanted), Some(name)) => wanted == name,
        (None, _) | (_, None) => true,
    };
    keys.public
        .iter()
        .chain(fetched.iter().filter(is_called))
        .filter(move |key| key.algorithm == algorithm)
        .take(CANDIDATES_MAX)
}

/// What the first key that fits says; else that the token has expired, if one fits but for that.
fn first_good<'a>(
    keys: impl Iterator<Item = &'a DecodingKey>,
    check: impl Fn(&DecodingKey) -> Result<Claims, Denial>,
) -> Result<Claims, Denial> {
    let mut denial = Denial::TokenInvalid;
    for key in keys {
        match check(key) {
            Ok(claims) => return Ok(claims),
            Err(Denial::TokenExpired) => denial = Denial::TokenExpired,
            Err(_) => {}
        }
    }
    Err(denial)
}

fn check(token: &str, key: &DecodingKey, validation: &Validation, is_ours: bool) -> Result<Claims, Denial> {
    match jsonwebtoken::decode::<RawClaims>(token, key, validation) {
        Ok(data) => data.claims.check(is_ours),
        Err(error) if matches!(error.kind(), ErrorKind::ExpiredSignature) => Err(Denial::TokenExpired),
        Err(_) => Err(Denial::TokenInvalid),
    }
}

#[cfg(test)]
mod tests;
