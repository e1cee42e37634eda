//! Who a token belongs to.
//!
//! In: the `auth.token` of a CONNECT. Out: [`Claims`], or a [`Denial`] with the message and code that clients get. HS256
//! only in this version; every secret file verifies, so that secrets can be rotated, and files are read again when they
//! change.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Jwt;

/// Clocks of the signing application and of this pod may differ by this much.
pub const LEEWAY_SECONDS: u64 = 30;
/// A longer token is somebody's mistake or attack; browsers' headers are smaller.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// CONTRACT section 1.
const USER_ID_BYTES_MAX: usize = 256;
/// How often the secret files' times are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
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

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `userId`, else `sub`.
    pub user_id: Arc<str>,
    /// The `name` claim.
    pub name: Option<String>,
    /// The `avatar` claim.
    pub avatar: Option<String>,
    /// Unix seconds; `None` for a token that never expires.
    pub expires_at: Option<u64>,
    /// Signed by [`Authenticator::sign_demo`].
    pub is_demo: bool,
}

/// Verifies tokens. Shared by all connections.
pub struct Authenticator {
    secrets: Mutex<Secrets>,
    validation: Validation,
}

struct Secrets {
    files: Vec<PathBuf>,
    /// The files' times when they were read.
    changed: Vec<Option<SystemTime>>,
    looked_at: Instant,
    /// The secrets themselves, in the files' order.
    values: Arc<Vec<Vec<u8>>>,
}

impl Authenticator {
    /// Reads the secret files; without any, a random secret that lives as long as the process.
    ///
    /// # Errors
    /// When a file cannot be read, or no randomness can be had.
    pub fn new(jwt: &Jwt) -> std::io::Result<Self> {
        let values = if jwt.secret_files.is_empty() { vec![random_secret()?] } else { read_all(&jwt.secret_files)? };
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.required_spec_claims.clear();
        match &jwt.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".into());
            }
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &jwt.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        let changed = times(&jwt.secret_files);
        let files = jwt.secret_files.clone();
        let secrets = Secrets { files, changed, looked_at: Instant::now(), values: Arc::new(values) };
        Ok(Self { secrets: Mutex::new(secrets), validation })
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// With the refusal that the client gets.
    pub fn verify(&self, token: Option<&str>) -> Result<Claims, Denial> {
        let token = token.filter(|token| !token.is_empty()).ok_or(Denial::TokenRequired)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Denial::TokenInvalid);
        }
        let mut denial = Denial::TokenInvalid;
        for secret in self.secrets().iter() {
            match jsonwebtoken::decode::<RawClaims>(token, &DecodingKey::from_secret(secret), &self.validation) {
                Ok(data) => return data.claims.check(),
                Err(error) if matches!(error.kind(), ErrorKind::ExpiredSignature) => denial = Denial::TokenExpired,
                Err(_) => {}
            }
        }
        Err(denial)
    }

    /// Signs one hour for a demo user with the first secret.
    ///
    /// # Errors
    /// When the token cannot be made.
    pub fn sign_demo(&self, user_id: &str, name: &str) -> Result<String, jsonwebtoken::errors::Error> {
        let exp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() + DEMO_SECONDS;
        let claims = DemoClaims { sub: user_id, name, exp, demo: true, iss: self.issuer(), aud: self.audience() };
        let secrets = self.secrets();
        let secret = secrets.first().map(Vec::as_slice).unwrap_or_default();
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret))
    }

    fn issuer(&self) -> Option<&str> {
        self.validation.iss.iter().flatten().next().map(String::as_str)
    }

    fn audience(&self) -> Option<&str> {
        self.validation.aud.iter().flatten().next().map(String::as_str)
    }

    /// The present secrets. A file that cannot be read any more keeps its last value.
    fn secrets(&self) -> Arc<Vec<Vec<u8>>> {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.looked_at.elapsed() >= LOOK_INTERVAL && !secrets.files.is_empty() {
            secrets.looked_at = Instant::now();
            let changed = times(&secrets.files);
            if changed != secrets.changed {
                match read_all(&secrets.files) {
                    Ok(values) => {
                        tracing::info!("read the token secrets again");
                        secrets.values = Arc::new(values);
                        secrets.changed = changed;
                    }
                    Err(error) => tracing::warn!(%error, "a token secret cannot be read: the old ones stay"),
                }
            }
        }
        secrets.values.clone()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawClaims {
    user_id: Option<Value>,
    sub: Option<Value>,
    name: Option<Value>,
    avatar: Option<Value>,
    exp: Option<f64>,
    #[serde(default)]
    demo: Value,
}

#[derive(Serialize)]
struct DemoClaims<'a> {
    sub: &'a str,
    name: &'a str,
    exp: u64,
    demo: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl RawClaims {
    fn check(self) -> Result<Claims, Denial> {
        let given = self.user_id.filter(|id| !id.is_null()).or(self.sub).ok_or(Denial::TokenInvalid)?;
        let user_id = user_id(&given).ok_or(Denial::TokenInvalid)?;
        let is_demo = self.demo == Value::Bool(true) && user_id.starts_with(DEMO_PREFIX);
        Ok(Claims {
            user_id: user_id.into(),
            name: self.name.and_then(text),
            avatar: self.avatar.and_then(text),
            expires_at: self.exp.map(|seconds| seconds.max(0.0) as u64),
            is_demo,
        })
    }
}

/// A string without control characters, or the decimal text of a whole number.
fn user_id(value: &Value) -> Option<String> {
    let id = match value {
        Value::String(id) => id.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let usable = (1..=USER_ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
    usable.then_some(id)
}

fn text(value: Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn read_all(files: &[PathBuf]) -> std::io::Result<Vec<Vec<u8>>> {
    files.iter().map(|file| std::fs::read(file).map(without_newline)).collect()
}

/// Editors and `echo` add one; it is not part of the secret.
fn without_newline(mut secret: Vec<u8>) -> Vec<u8> {
    if secret.last() == Some(&b'\n') {
        secret.pop();
    }
    secret
}

fn times(files: &[PathBuf]) -> Vec<Option<SystemTime>> {
    files.iter().map(|file| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()).collect()
}

fn random_secret() -> std::io::Result<Vec<u8>> {
    let mut secret = vec![0; 32];
    getrandom::fill(&mut secret).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::{Authenticator, Denial};
    use crate::config::Jwt;

    const FAR: u64 = 4_000_000_000;

    fn authenticator(secrets: &[&str], issuer: Option<&str>, audience: Option<&str>) -> Authenticator {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut secret_files = Vec::new();
        for (number, secret) in secrets.iter().enumerate() {
            let path = folder.path().join(number.to_string());
            writeln!(std::fs::File::create(&path).expect("created"), "{secret}").expect("written");
            secret_files.push(path);
        }
        let jwt = Jwt { secret_files, issuer: issuer.map(Into::into), audience: audience.map(Into::into) };
        Authenticator::new(&jwt).expect("reads the secrets")
    }

    fn token(secret: &str, claims: &Value) -> String {
        encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).expect("signs")
    }

    #[test]
    fn every_secret_verifies_and_its_newline_is_not_part_of_it() {
        let authenticator = authenticator(&["new", "old"], None, None);
        for secret in ["new", "old"] {
            let claims = authenticator.verify(Some(&token(secret, &json!({"sub": "u1", "exp": FAR})))).expect("good");
            assert_eq!(&*claims.user_id, "u1");
        }
        assert_eq!(
            authenticator.verify(Some(&token("other", &json!({"sub": "u1"})))).expect_err("bad"),
            Denial::TokenInvalid
        );
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let authenticator = authenticator(&["s"], Some("us"), Some("docs"));
        let good = json!({"sub": "u", "iss": "us", "aud": "docs", "exp": FAR});
        assert!(authenticator.verify(Some(&token("s", &good))).is_ok());
        let with = |key: &str, value: Value| {
            let mut claims = good.clone();
            claims[key] = value;
            authenticator.verify(Some(&token("s", &claims))).err()
        };
        assert_eq!(authenticator.verify(None), Err(Denial::TokenRequired));
        assert_eq!(authenticator.verify(Some("")), Err(Denial::TokenRequired));
        assert_eq!(authenticator.verify(Some("no.token.at all")), Err(Denial::TokenInvalid));
        assert_eq!(authenticator.verify(Some(&"x".repeat(10_000))), Err(Denial::TokenInvalid));
        assert_eq!(with("exp", json!(1)), Some(Denial::TokenExpired));
        assert_eq!(with("nbf", json!(FAR)), Some(Denial::TokenInvalid));
        assert_eq!(with("iss", json!("them")), Some(Denial::TokenInvalid));
        assert_eq!(with("aud", json!("mail")), Some(Denial::TokenInvalid));
        assert_eq!(with("sub", json!("a\u{7}b")), Some(Denial::TokenInvalid));
        assert_eq!(with("sub", json!("x".repeat(257))), Some(Denial::TokenInvalid));
        assert_eq!(with("sub", json!(1.5)), Some(Denial::TokenInvalid));
    }

    #[test]
    fn the_user_id_is_the_claim_user_id_before_sub_and_numbers_are_their_decimal_text() {
        let authenticator = authenticator(&["s"], None, None);
        let id = |claims: Value| authenticator.verify(Some(&token("s", &claims))).expect("good").user_id.to_string();
        assert_eq!(id(json!({"userId": 42, "sub": "x", "exp": FAR})), "42");
        assert_eq!(id(json!({"userId": null, "sub": "x"})), "x");
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        let authenticator = authenticator(&["s"], None, None);
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1MSJ9.";
        assert_eq!(authenticator.verify(Some(unsigned)), Err(Denial::TokenInvalid));
    }

    #[test]
    fn a_demo_token_verifies_where_it_was_signed_and_only_demo_users_are_demo() {
        let authenticator = authenticator(&["s"], Some("us"), Some("docs"));
        let claims = authenticator.verify(Some(&authenticator.sign_demo("demo-x", "Blue Fox").expect("signs")));
        assert!(claims.as_ref().is_ok_and(|claims| claims.is_demo && claims.name.as_deref() == Some("Blue Fox")));
        let forged = token("s", &json!({"sub": "boss", "demo": true, "iss": "us", "aud": "docs"}));
        assert!(!authenticator.verify(Some(&forged)).expect("good").is_demo);
    }
}
