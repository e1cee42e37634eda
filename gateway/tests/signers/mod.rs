//! Keys that sign tokens, made anew for each test.
//!
//! In: an algorithm. Out: its public key as PEM and as JWK, and tokens, good and forged.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::process::Command;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::{Value, json};

/// Seconds that are far enough away.
pub const FAR: u64 = 4_000_000_000;

pub struct Signer {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    pub public_pem: String,
    private: EncodingKey,
    /// Of an Ed25519 key its point, which the library does not tell.
    point: Vec<u8>,
}

impl Signer {
    pub fn rsa(bits: usize) -> Signer {
        let private = openssl(&["genrsa", &bits.to_string()], "");
        let public_pem = openssl(&["rsa", "-pubout"], &private);
        let private = openssl(&["pkcs8", "-topk8", "-nocrypt"], &private);
        let private = EncodingKey::from_rsa_pem(private.as_bytes()).unwrap();
        Signer { algorithm: Algorithm::RS256, kid: None, public_pem, private, point: Vec::new() }
    }

    pub fn ec() -> Signer {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        Signer { algorithm: Algorithm::ES256, kid: None, public_pem: pair.public_key_pem(), private, point: Vec::new() }
    }

    pub fn ed() -> Signer {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let private = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
        Signer {
            algorithm: Algorithm::EdDSA,
            kid: None,
            public_pem: pair.public_key_pem(),
            private,
            point: pair.public_key_raw().to_vec(),
        }
    }

    pub fn called(self, kid: &str) -> Signer {
        Signer { kid: Some(kid.to_owned()), ..self }
    }

    /// The key as a set has it.
    pub fn jwk(&self) -> Value {
        let mut jwk = if self.point.is_empty() {
            serde_json::to_value(Jwk::from_encoding_key(&self.private, self.algorithm).unwrap()).unwrap()
        } else {
            json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": URL_SAFE_NO_PAD.encode(&self.point)})
        };
        if let Some(kid) = &self.kid {
            jwk["kid"] = json!(kid);
        }
        jwk["use"] = json!("sig");
        jwk
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = self.kid.clone();
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }

    /// A token of the user that is good for long.
    pub fn token(&self, user_id: &str) -> String {
        self.sign(&json!({"sub": user_id, "name": user_id, "exp": FAR}))
    }
}

/// A set of these keys.
pub fn key_set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

/// A public key on a curve that the gateway does not take.
pub fn p384_public_pem() -> String {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem()
}

/// A token signed with these bytes as an HS256 secret.
pub fn hs256(secret: &[u8], claims: &Value) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn openssl(arguments: &[&str], input: &str) -> String {
    use std::io::Write;
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("openssl is installed (`make setup`)");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}
