//! Keys that verify signatures.
//!
//! In: secret files, PEM files of public keys. Out: [`Key`]s, each for exactly one algorithm, or a sentence about what is
//! wrong with the file. A key is never tried with another algorithm than its own, so that a public key cannot pass for
//! an HS256 secret.

use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, DecodingKey};

use super::signatures;

/// Keys in one PEM file; two or three are a rotation.
const FILE_KEYS_MAX: usize = 16;
/// A larger file is no file of keys.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Shorter RSA keys are not safe any more; longer ones would let strangers keep the processors busy.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// One key and its only algorithm.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// HS256, RS256, ES256 or EdDSA.
    pub(super) algorithm: Algorithm,
    /// The name that tokens call it by, if its source gives it one.
    pub(super) kid: Option<String>,
    /// What verifies.
    pub(super) key: DecodingKey,
}

impl Key {
    /// A public key that this process can use, or why it cannot.
    pub(super) fn public(algorithm: Algorithm, kid: Option<String>, key: DecodingKey) -> Result<Key, String> {
        if algorithm == Algorithm::EdDSA && key.try_get_as_bytes().is_ok_and(|point| point.len() != 32) {
            // The library would panic at its first token.
            return Err("an Ed25519 key that is not of 32 bytes".into());
        }
        if algorithm != Algorithm::RS256 {
            signatures::check(algorithm, &key)
                .map_err(|_| "a key that is not on the curve P-256 or Ed25519".to_owned())?;
        }
        Ok(Key { algorithm, kid, key })
    }
}

/// The secrets of these files, each usable as it is.
pub(super) fn secrets(files: &[PathBuf]) -> std::io::Result<Vec<Vec<u8>>> {
    files.iter().map(|file| std::fs::read(file).map(without_newline)).collect()
}

/// The public keys of a PEM file: at least one.
///
/// # Errors
/// With what is wrong, in words that fit behind the file's name.
pub(crate) fn check_public_file(file: &Path) -> Result<(), String> {
    public_file(file).map(drop)
}

pub(super) fn public_file(file: &Path) -> Result<Vec<Key>, String> {
    let size = std::fs::metadata(file).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))?;
    public_pem(&text)
}

pub(super) fn public_pem(text: &str) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        let block = &rest[start..];
        let label = block["-----BEGIN ".len()..].split("-----").next().unwrap_or_default();
        let end = format!("-----END {label}-----");
        let length = block.find(&end).ok_or_else(|| format!("has a block {label} without an end"))? + end.len();
        keys.push(public_block(label, &block[..length])?);
        if keys.len() > FILE_KEYS_MAX {
            return Err(format!("holds more than {FILE_KEYS_MAX} keys"));
        }
        rest = &block[length..];
    }
    if keys.is_empty() {
        return Err("holds no public key: it must have a block that begins with -----BEGIN PUBLIC KEY-----".into());
    }
    Ok(keys)
}

fn public_block(label: &str, block: &str) -> Result<Key, String> {
    match label {
        "PUBLIC KEY" => {}
        "RSA PUBLIC KEY" => return rsa(block),
        label if label.ends_with("PRIVATE KEY") => {
            return Err("holds a private key: a gateway must have the public one only (openssl pkey -pubout)".into());
        }
        "CERTIFICATE" => {
            return Err("holds a certificate: write its public key (openssl x509 -pubkey -noout)".into());
        }
        other => return Err(format!("holds a block {other}: only PUBLIC KEY is read")),
    }
    if let Ok(key) = DecodingKey::from_ec_pem(block.as_bytes()) {
        return Key::public(Algorithm::ES256, None, key).map_err(|why| format!("holds {why}: use P-256"));
    }
    if let Ok(key) = DecodingKey::from_ed_pem(block.as_bytes()) {
        return Key::public(Algorithm::EdDSA, None, key).map_err(|why| format!("holds {why}"));
    }
    rsa(block)
}

fn rsa(block: &str) -> Result<Key, String> {
    let unusable = |_| "holds a public key that is none of RSA, EC on P-256 and Ed25519".to_owned();
    let key = DecodingKey::from_rsa_pem(block.as_bytes()).map_err(unusable)?;
    let bits = key.try_get_as_bytes().ok().and_then(modulus_bits).ok_or("holds an RSA key that cannot be read")?;
    check_rsa_bits(bits).map_err(|why| format!("holds {why}"))?;
    Key::public(Algorithm::RS256, None, key)
}

/// An RSA key's size in bits may be used.
pub(super) fn check_rsa_bits(bits: usize) -> Result<(), String> {
    if RSA_BITS.contains(&bits) {
        return Ok(());
    }
    Err(format!("an RSA key of {bits} bits: use {} to {}", RSA_BITS.start(), RSA_BITS.end()))
}

/// The length of a big-endian number without its leading zeros.
pub(super) fn bits(number: &[u8]) -> usize {
    let significant = number.iter().position(|byte| *byte != 0).map_or(&[][..], |first| &number[first..]);
    significant.first().map_or(0, |first| significant.len() * 8 - first.leading_zeros() as usize)
}

/// The modulus is the first number in the sequence that PKCS#1 makes of a public key.
fn modulus_bits(der: &[u8]) -> Option<usize> {
    let inside = der_value(der, 0x30)?;
    der_value(inside, 0x02).map(bits)
}

/// The value of a DER element with this tag at the beginning.
fn der_value(der: &[u8], tag: u8) -> Option<&[u8]> {
    let (&found, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f)).filter(|(bytes, _)| bytes.len() <= 4)?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    rest.get(..length).filter(|_| found == tag)
}

/// Editors and `echo` add one; it is not part of the secret.
fn without_newline(mut secret: Vec<u8>) -> Vec<u8> {
    if secret.last() == Some(&b'\n') {
        secret.pop();
    }
    secret
}
