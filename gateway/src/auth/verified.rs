//! Tokens that were verified not long ago: a client that comes back costs a hash and not a signature.
//!
//! In: tokens and what they were found to say. Out: the same claims, as long as the keys are the same and the token has
//! not expired. Only good tokens are kept, so strangers cannot fill it.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{Claims, LEEWAY_SECONDS};
use crate::clock::unix_s;

/// All entries together.
const BYTES_MAX: u64 = 16 << 20;
/// The longest that an entry is kept, whatever its token says.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// What an entry costs beside its texts.
const ENTRY_BYTES: usize = 256;

/// A token's name in the cache: the token itself is a secret that need not be kept.
pub(super) type Print = [u8; 32];

#[derive(Debug)]
pub(super) struct Verified {
    cache: moka::sync::Cache<Print, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Of the keys.
    generation: u64,
    claims: Claims,
}

/// Entries end with their tokens.
struct End;

impl moka::Expiry<Print, Entry> for End {
    fn expire_after_create(&self, _: &Print, entry: &Entry, _: std::time::Instant) -> Option<Duration> {
        let ends = entry.claims.expires_at?.saturating_add(LEEWAY_SECONDS);
        Some(Duration::from_secs(ends.saturating_sub(unix_s())))
    }
}

impl Verified {
    pub(super) fn new() -> Verified {
        let weigh = |_: &Print, entry: &Entry| {
            let Claims { user_id, name, avatar, expires_at: _, is_demo: _ } = &entry.claims;
            let texts = user_id.len() + name.as_ref().map_or(0, String::len) + avatar.as_ref().map_or(0, String::len);
            u32::try_from(ENTRY_BYTES + texts).unwrap_or(u32::MAX)
        };
        let cache = moka::sync::Cache::builder().max_capacity(BYTES_MAX).weigher(weigh);
        Verified { cache: cache.time_to_live(LIFE_MAX).expire_after(End).build() }
    }

    pub(super) fn print(token: &str) -> Print {
        Sha256::digest(token.as_bytes()).into()
    }

    pub(super) fn get(&self, print: &Print, generation: u64) -> Option<Claims> {
        let entry = self.cache.get(print).filter(|entry| entry.generation == generation)?;
        let has_ended = |at: u64| at.saturating_add(LEEWAY_SECONDS) < unix_s();
        // The wall clock may have been set since.
        (!entry.claims.expires_at.is_some_and(has_ended)).then_some(entry.claims)
    }

    /// `generation`: of the keys that verified it, which may have changed meanwhile.
    pub(super) fn keep(&self, print: Print, generation: u64, claims: Claims) {
        self.cache.insert(print, Entry { generation, claims });
    }

    /// Bytes that are taken, roughly.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.cache.run_pending_tasks();
        self.cache.weighted_size()
    }
}
