//! What an error of the server means: for the caller, for the connection, and for who the primary is.
//!
//! In: the library's error. Out: a [`StoreError`] with a line that an operator understands, and a [`Consequence`].

use redis::{ErrorKind, RedisError};

use super::StoreError;

/// What an error means for the connection it came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// The server answered: the connection is as good as before.
    Nothing,
    /// The server may not be the primary (any more): look for it before the next call.
    AskAgain,
    /// Another server of the cluster has the key now.
    Moved,
    /// Another server of the cluster has the key for this call.
    Ask,
    /// The key is on its way to another server; the same call succeeds in a moment.
    TryAgain,
    /// Nothing more may be expected of the connection; look for the primary as well.
    Broken,
}

/// What an error means. Only what will be the same next time is damage.
pub(crate) fn classify(error: &RedisError) -> (StoreError, Consequence) {
    use Consequence::{Ask, AskAgain, Broken, Moved, Nothing, TryAgain};
    let text = error.to_string();
    let away = |why: &str| StoreError::Unavailable(format!("{why} ({text})"));
    match error.code() {
        Some("FENCED") => (StoreError::Fenced, AskAgain),
        Some("BOUNDS") => (StoreError::OutOfBounds(text), Nothing),
        Some("DAMAGED" | "WRONGTYPE") => (StoreError::Damaged(text), Nothing),
        Some("READONLY") => (away("the server is a follower and cannot be written"), AskAgain),
        Some("LOADING") => (away("the server is still loading its data"), AskAgain),
        Some("MASTERDOWN") => (away("the server is a follower without its primary"), AskAgain),
        Some("NOREPLICAS") => (away("the primary has too few followers to be written"), AskAgain),
        Some("CLUSTERDOWN") => (away("the cluster does not serve all slots"), AskAgain),
        Some("MOVED") => (away("another server of the cluster has the key"), Moved),
        Some("ASK") => (away("the key is moving to another server"), Ask),
        Some("TRYAGAIN") => (away("the key is moving to another server"), TryAgain),
        Some("OOM") => (away("the server is out of memory: raise maxmemory"), Nothing),
        Some("MISCONF") => (away("the server cannot write its data to disk and refuses changes"), Nothing),
        Some("BUSY") => (away("the server is busy with a script"), Nothing),
        Some("NOSCRIPT") => (away("the server forgot the script"), Nothing),
        Some("NOAUTH" | "WRONGPASS") => (away("the server refuses the password"), Broken),
        Some("NOPERM") => (away("the server's user may not do this: grant it all commands and keys"), Broken),
        // A script that stumbles over what it reads.
        Some("ERR") if text.contains("user_script") => (StoreError::Damaged(text), Nothing),
        // The connection ends in another's answer: what follows cannot be told apart any more.
        _ if matches!(error.kind(), ErrorKind::Parse) => (StoreError::Damaged(text), Broken),
        _ if matches!(error.kind(), ErrorKind::UnexpectedReturnType) => (StoreError::Damaged(text), Nothing),
        _ if error.is_timeout() => (away("the server did not answer in time"), Broken),
        _ => (StoreError::Unavailable(text), Broken),
    }
}
