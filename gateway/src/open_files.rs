//! How many files the process may have open: each connection is one.
//!
//! In: the limits that the process was started with. Out: the soft limit raised to the hard one. Container runtimes start
//! processes with a soft limit of 1024, for the sake of programs that use `select`, which nothing here does.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are no clients: documents' store, bus, listeners, files of secrets, and a reserve.
const OTHERS: u64 = 512;

/// Raises the limit as far as it goes.
pub fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // None is no limit.
    let limit = if raised.is_ok() { maximum } else { current };
    limit.unwrap_or(u64::MAX)
}

/// Says so when the pod admits more connections than it may have files.
pub fn warn_if_few(limit: u64, max_connections: usize) {
    let needed = u64::try_from(max_connections).unwrap_or(u64::MAX).saturating_add(OTHERS);
    if limit < needed {
        tracing::warn!(limit, needed, "the limit of open files is below --max-connections: raise it (ulimit -n)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
    }
}
