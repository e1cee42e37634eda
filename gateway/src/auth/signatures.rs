//! What checks signatures of public keys: ring, which TLS uses here too. The library's own takes eight times as long for
//! RS256 and four times for ES256.
//!
//! In: keys and algorithms, as `jsonwebtoken` asks for them. Out: whether a signature holds. Everything else (secrets,
//! signing, what keys are made of) stays the library's.

use std::sync::LazyLock;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    crypto::{CryptoProvider, JwtVerifier, rust_crypto::DEFAULT_PROVIDER},
    errors::{ErrorKind, Result},
    signature::{self, Verifier},
};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};

static PROVIDER: LazyLock<CryptoProvider> = LazyLock::new(|| CryptoProvider {
    signer_factory: DEFAULT_PROVIDER.signer_factory,
    verifier_factory: verifier,
    key_utils: DEFAULT_PROVIDER.key_utils.clone(),
});

/// Makes the library check signatures by it, in the whole process; before the library's first signature, or it keeps to
/// its own.
pub(super) fn install() {
    // It fails where that has happened.
    let _ = PROVIDER.install_default();
}

/// Whether the library can read the key at all: a point on another curve is found here and not at the first token.
pub(super) fn check(algorithm: Algorithm, key: &DecodingKey) -> Result<()> {
    (DEFAULT_PROVIDER.verifier_factory)(&algorithm, key).map(drop)
}

/// What checks tokens of this key.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else the library knows stays its own")]
pub(super) fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let family = match algorithm {
        Algorithm::RS256 => AlgorithmFamily::Rsa,
        Algorithm::ES256 => AlgorithmFamily::Ec,
        Algorithm::EdDSA => AlgorithmFamily::Ed,
        _ => return (DEFAULT_PROVIDER.verifier_factory)(algorithm, key),
    };
    // A key is of one family, whatever a token says.
    if key.family() != family {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Public { algorithm: *algorithm, key: key.clone() }))
}

struct Public {
    /// RS256, ES256 or EdDSA.
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for Public {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        let by = |rules: &'static dyn ring::signature::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(rules, key).verify(message, signature)
        };
        let checked = match (self.algorithm, self.key.kind()) {
            (Algorithm::RS256, DecodingKeyKind::SecretOrDer(der)) => by(&RSA_PKCS1_2048_8192_SHA256, der),
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let key = RsaPublicKeyComponents { n: significant(n), e: significant(e) };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => by(&ECDSA_P256_SHA256_FIXED, point),
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => by(&ED25519, point),
            _ => Err(ring::error::Unspecified),
        };
        checked.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Public {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// A big-endian number without its leading zeros, which some issuers write into key sets and ring refuses.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
