//! The digest of a document's text, by which pods and clients notice that their copies differ.
//!
//! In: text. Out: CONTRACT's formula over its UTF-16 units, once forwards and once backwards, as 16 hex digits. One pass
//! over the whole text: it is computed for one version in [`DIGEST_EVERY`], once on each pod.

use std::{fmt, str::FromStr};

/// Versions divisible by this carry a digest.
pub const DIGEST_EVERY: u64 = 256;

const OFFSET: u32 = 2_166_136_261;
const PRIME: u32 = 16_777_619;

/// What a text comes to, forwards and backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    forwards: u32,
    backwards: u32,
}

/// These are not 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest has 16 hex digits")]
pub struct NoDigest;

impl Digest {
    /// Of this text, an embed being U+FFFC.
    pub fn of(text: &str) -> Self {
        Self { forwards: fold(text.encode_utf16()), backwards: fold(text.chars().rev().flat_map(units_backwards)) }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.forwards, self.backwards)
    }
}

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoDigest);
        }
        let half = |range| u32::from_str_radix(text.get(range).unwrap_or_default(), 16).map_err(|_| NoDigest);
        Ok(Self { forwards: half(0..8)?, backwards: half(8..16)? })
    }
}

fn fold(units: impl Iterator<Item = u16>) -> u32 {
    units.fold(OFFSET, |hash, unit| (hash ^ u32::from(unit)).wrapping_mul(PRIME))
}

/// A character's units, the last one first.
fn units_backwards(character: char) -> impl Iterator<Item = u16> {
    let mut units = [0; 2];
    let count = character.encode_utf16(&mut units).len();
    (0..count).rev().map(move |index| units[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_what_the_client_computes() {
        // node: digestOf(text) of gateway/client/core/digest.js.
        for (text, expected) in
            [("", "811c9dc5811c9dc5"), ("abc", "1a47e90b016d9863"), ("zoë\u{1F600}用", "a8b662f6bd575338")]
        {
            assert_eq!(Digest::of(text).to_string(), expected, "{text:?}");
            assert_eq!(expected.parse(), Ok(Digest::of(text)));
        }
    }

    #[test]
    fn what_is_no_digest_is_not_read_as_one() {
        for text in ["", "811c9dc5811c9dc", "811c9dc5811c9dc5a", "811c9dc5+11c9dc5", "811c9dc5811c9dé"] {
            assert_eq!(text.parse::<Digest>(), Err(NoDigest), "{text:?}");
        }
    }
}
