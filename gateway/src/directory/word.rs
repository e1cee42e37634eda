//! How a change of users or accesses is known, and what was known before it is worth while nobody can tell what is true now.
//!
//! Nobody may get a byte of a document that he may not read, and nobody is to be cut off because the application's webhook
//! is away: whoever is named by a change goes at once, and what may be about anybody is waited for a bounded time.

use std::time::Duration;

use super::memory::STALE;

/// As long as a change may take to be noticed that nobody tells of (CONTRACT section 2). An application that says
/// "anything" while it starts again, before its webhook does, would otherwise cut everybody off.
pub(crate) const ANYTHING_MAX: Duration = Duration::from_secs(60);
const NAMED_MAX: Duration = Duration::from_secs(2);

/// How it is known that something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The document or the user was named: it is meant.
    Named,
    /// Nothing was named: anything may have changed.
    Anything,
    /// Nothing was heard.
    Unheard,
}

impl Word {
    /// How long what was known before the word is relied on while nobody can tell what is true now.
    pub(crate) fn counts_for(self) -> Duration {
        match self {
            Word::Named => NAMED_MAX,
            // Not all at once: they come back.
            Word::Anything => ANYTHING_MAX.mul_f64(rand::random_range(0.75..1.0)),
            Word::Unheard => STALE.mul_f64(rand::random_range(0.75..1.0)),
        }
    }
}
