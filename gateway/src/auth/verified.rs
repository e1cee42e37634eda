//! Tokens that were verified not long ago: a client that comes back costs a hash and not a signature.
//!
//! In: tokens and what they were found to say. Out: the same claims, as long as the keys are the same and the token has
//! not expired. Only good tokens are kept, so strangers cannot fill it.

use std::time::Duration;

use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{Claims, LEEWAY_SECONDS};
use crate::clock::unix_s;

/// All entries together.
const BYTES_MAX: usize = 16 << 20;
/// The longest that an entry is kept, whatever its token says.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// What an entry costs beside its texts.
const ENTRY_BYTES: usize = 256;

/// A token's name in the cache: the token itself is a secret that need not be kept.
pub(super) type Print = [u8; 32];

#[derive(Debug)]
pub(super) struct Verified {
    cache: Cache<Print, Entry, Weigh>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Of the keys.
    generation: u64,
    kept_at: Instant,
    claims: Claims,
}

#[derive(Debug, Clone, Copy)]
struct Weigh;

impl Weighter<Print, Entry> for Weigh {
    fn weight(&self, _: &Print, entry: &Entry) -> u64 {
        let Claims { user_id, name, avatar, expires_at: _, is_demo: _ } = &entry.claims;
        let texts = user_id.len() + name.as_ref().map_or(0, String::len) + avatar.as_ref().map_or(0, String::len);
        (ENTRY_BYTES + texts) as u64
    }
}

impl Verified {
    pub(super) fn new() -> Verified {
        Verified { cache: Cache::with_weighter(BYTES_MAX / ENTRY_BYTES, BYTES_MAX as u64, Weigh) }
    }

    pub(super) fn print(token: &str) -> Print {
        Sha256::digest(token.as_bytes()).into()
    }

    pub(super) fn get(&self, print: &Print, generation: u64) -> Option<Claims> {
        let is_good = |entry: &Entry| entry.generation == generation && entry.kept_at.elapsed() < LIFE_MAX;
        let entry = self.cache.get(print).filter(is_good)?;
        let has_ended = |at: u64| at.saturating_add(LEEWAY_SECONDS) < unix_s();
        (!entry.claims.expires_at.is_some_and(has_ended)).then_some(entry.claims)
    }

    /// `generation`: of the keys that verified it, which may have changed meanwhile.
    pub(super) fn keep(&self, print: Print, generation: u64, claims: Claims) {
        self.cache.insert(print, Entry { generation, kept_at: Instant::now(), claims });
    }

    /// Bytes that are taken, roughly.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}
