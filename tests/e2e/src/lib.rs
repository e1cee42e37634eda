//! End-to-end tests on a real cluster: what they share.
//!
//! [`Stack`] is the cluster with our images and the operator on it; [`Tenant`] is one namespace with one CollabCluster;
//! [`Forward`] is a loopback address in front of its gateway pods; [`Replay`] runs writers through such addresses.

mod replay;
mod stack;
mod tenant;

use std::{future::Future, time::Duration};

use anyhow::{Result, bail};

pub use cluster::forward::Forward;
pub use replay::{Replay, Verdict, friendsforever};
pub use stack::Stack;
pub use tenant::{Tenant, USERS};

/// Asks `condition` until it answers, and fails with what it said last when `deadline` has passed.
///
/// # Errors
/// When the deadline passes first, or the condition itself fails.
pub async fn wait_for<T, F, Fut>(what: &str, deadline: Duration, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Result<T, String>>>,
{
    let end = tokio::time::Instant::now() + deadline;
    loop {
        let state = match condition().await? {
            Ok(value) => return Ok(value),
            Err(state) => state,
        };
        if tokio::time::Instant::now() > end {
            bail!("waited {deadline:?} for {what}; at the end: {state}");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
