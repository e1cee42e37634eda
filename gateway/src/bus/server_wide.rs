//! What concerns every pod: editors that connected elsewhere, users and accesses that applications changed.
//!
//! In: the channels [`CLIENT_CHANNEL`] and [`CHANGED_CHANNEL`]. Out: one stream for whoever in this process listens.
//! The bus has no memory: after [`ServerWide::Missed`] anything may have been said.

use std::time::Duration;

use bytes::Bytes;
use protocol::{Change, Claim};
use tokio::sync::broadcast;

use super::{Bus, CHANGED_CHANNEL, CLIENT_CHANNEL, Heard, Subscription};
use crate::store::StoreError;

/// Messages a listener may be behind before it misses some.
pub const BEHIND_MAX: usize = 1024;
/// After a subscription that could not be made.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(500);

/// A message that concerns every pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerWide {
    /// An editor connected somewhere.
    Claim(Claim),
    /// An application changed what it says of a user or a document.
    Changed(Change),
    /// Messages may have been lost: read what matters.
    Missed,
}

/// Hears both channels for good.
pub async fn hear_server_wide(bus: Bus, listeners: broadcast::Sender<ServerWide>) {
    loop {
        match subscribe(&bus).await {
            Ok((mut claims, mut changes)) => loop {
                let said = tokio::select! {
                    heard = claims.next() => heard.map(|heard| read(heard, claim)),
                    heard = changes.next() => heard.map(|heard| read(heard, change)),
                };
                let Some(said) = said else { break };
                // Nobody need listen.
                let _ = said.map(|said| listeners.send(said));
            },
            Err(error) => tracing::debug!(%error, "no subscription to what concerns every pod yet"),
        }
        tokio::time::sleep(SUBSCRIBE_AGAIN).await;
    }
}

async fn subscribe(bus: &Bus) -> Result<(Subscription, Subscription), StoreError> {
    Ok((bus.subscribe(CLIENT_CHANNEL).await?, bus.subscribe(CHANGED_CHANNEL).await?))
}

fn read(heard: Heard, read: impl Fn(&Bytes) -> Option<ServerWide>) -> Option<ServerWide> {
    match heard {
        Heard::Missed => Some(ServerWide::Missed),
        Heard::Message(message) => {
            let said = read(&message);
            if said.is_none() {
                tracing::debug!("a message for every pod that is none");
            }
            said
        }
    }
}

fn claim(message: &Bytes) -> Option<ServerWide> {
    let text = std::str::from_utf8(message).ok()?;
    protocol::decode_claim(text).ok().map(ServerWide::Claim)
}

/// An application that says something unreadable means something: then it may be anything.
fn change(message: &Bytes) -> Option<ServerWide> {
    let decoded = std::str::from_utf8(message).ok().and_then(|text| protocol::decode_change(text).ok());
    if decoded.is_none() {
        tracing::warn!("a message on {CHANGED_CHANNEL} that cannot be read: everything is read again");
    }
    Some(ServerWide::Changed(decoded.unwrap_or_default()))
}
