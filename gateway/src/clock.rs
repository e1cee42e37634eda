//! The wall clock, in the numbers that tokens, tickets and records hold.
//!
//! In: nothing. Out: the time since the Unix epoch, and durations in milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since the Unix epoch; zero where the clock stands before it.
pub(crate) fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Unix milliseconds.
pub(crate) fn unix_ms() -> u64 {
    milliseconds(unix())
}

/// Unix seconds.
pub(crate) fn unix_s() -> u64 {
    unix().as_secs()
}

/// As many as fit into the number.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
