//! A key set as identity providers publish it (RFC 7517).
//!
//! In: the body of a JWKS endpoint. Out: the keys that can verify a token here. A key that cannot is left out: providers
//! publish keys for other purposes in the same set.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::keys::{Key, bits, check_rsa_bits};

/// Keys that are taken of one set; providers publish two to five.
const KEYS_MAX: usize = 64;
/// Longer names are nobody's.
pub(super) const KID_BYTES_MAX: usize = 256;

/// A set, and what was left out of it.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    /// Those that can be used.
    pub(super) keys: Vec<Key>,
    /// In words, one for each key that cannot.
    pub(super) skipped: Vec<String>,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Reads a set.
///
/// # Errors
/// When it is no set. One without a usable key is one.
pub(super) fn parse(body: &[u8]) -> Result<KeySet, String> {
    let RawSet { keys } = serde_json::from_slice(body).map_err(|error| format!("no key set: {error}"))?;
    let mut set = KeySet::default();
    for (number, value) in keys.into_iter().enumerate() {
        if set.keys.len() == KEYS_MAX {
            set.skipped.push(format!("everything after the first {KEYS_MAX} keys"));
            break;
        }
        match serde_json::from_value::<RawKey>(value).map_err(|error| error.to_string()).and_then(usable) {
            Ok(key) => set.keys.push(key),
            Err(why) => set.skipped.push(format!("key {number}: {why}")),
        }
    }
    Ok(set)
}

fn usable(raw: RawKey) -> Result<Key, String> {
    if raw.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return Err("not for signatures".into());
    }
    if raw.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
        return Err("not for verifying".into());
    }
    if raw.kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(format!("its kid is longer than {KID_BYTES_MAX} bytes"));
    }
    let (name, algorithm) = match (raw.kty.as_str(), raw.crv.as_deref()) {
        ("RSA", _) => ("RS256", Algorithm::RS256),
        ("EC", Some("P-256")) => ("ES256", Algorithm::ES256),
        ("OKP", Some("Ed25519")) => ("EdDSA", Algorithm::EdDSA),
        // "oct" among them: a secret that is published is none.
        (kind, curve) => return Err(format!("of type {kind} {}", curve.unwrap_or_default())),
    };
    // RFC 9864 names the curve in the algorithm.
    let fits = |alg: &str| alg == name || (alg, name) == ("Ed25519", "EdDSA");
    if let Some(other) = raw.alg.as_deref().filter(|alg| !fits(alg)) {
        return Err(format!("for {other}"));
    }
    let part = |part: &Option<String>| {
        let text = part.as_deref().ok_or("a part of it is missing")?;
        URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| "a part of it is no base64url".to_owned())
    };
    let key = match name {
        "RS256" => {
            let (n, e) = (part(&raw.n)?, part(&raw.e)?);
            check_rsa_bits(bits(&n))?;
            if bits(&e) > 33 {
                return Err("its exponent is too large".into());
            }
            DecodingKey::from_rsa_raw_components(&n, &e)
        }
        "ES256" => {
            let (x, y) = (part(&raw.x)?, part(&raw.y)?);
            if (x.len(), y.len()) != (32, 32) {
                return Err("its coordinates are not of 32 bytes".into());
            }
            DecodingKey::from_ec_der(&[&[4][..], &x, &y].concat())
        }
        _ => {
            let x = part(&raw.x)?;
            if x.len() != 32 {
                return Err("its point is not of 32 bytes".into());
            }
            DecodingKey::from_ed_der(&x)
        }
    };
    Key::public(algorithm, raw.kid, key)
}
