//! The bus through the Redis servers: connections that hear all channels of this pod (`ear.rs`), and one that speaks.

use std::sync::Arc;

use bytes::Bytes;
use redis::Cmd;
use tokio::sync::{mpsc, oneshot};

use super::{
    Listener, Subscription,
    ear::{Ear, Request},
};
use crate::store::{Link, RedisSettings, Servers, StoreError};

/// Messages that wait to be published; while the server is away the newest are dropped, they are only hints.
const OUTGOING_MAX: usize = 4096;
/// Messages published at once.
const AT_ONCE_MAX: usize = 256;

/// The Redis servers' channels; clones share the connections.
#[derive(Debug, Clone)]
pub struct RedisBus {
    // Unbounded, but there are never more requests than subscriptions.
    requests: mpsc::UnboundedSender<Request>,
    outgoing: mpsc::Sender<(String, Bytes)>,
}

impl RedisBus {
    /// Starts the two tasks, which end when the last clone and the last subscription are gone.
    pub fn new(settings: Arc<RedisSettings>) -> Self {
        Self::over(&Servers::new(settings))
    }

    /// The same over servers that others use too.
    pub fn over(servers: &Servers) -> Self {
        let (requests, incoming) = mpsc::unbounded_channel();
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        tokio::spawn(speak(Link::new(servers.clone()), messages));
        tokio::spawn(Ear::new(servers.clone(), incoming).run());
        Self { requests, outgoing }
    }

    pub(super) async fn subscribe(&self, channel: &str) -> Result<Subscription, StoreError> {
        let (requests, name) = (self.requests.clone(), channel.to_owned());
        let (listener, subscription) = Listener::new(move |id| {
            // The task is gone only when the process ends.
            let _ = requests.send(Request::End { channel: name, id });
        });
        let (done, answer) = oneshot::channel();
        let gone = || StoreError::Unavailable("the bus has ended".into());
        self.requests.send(Request::Subscribe { channel: channel.to_owned(), listener, done }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        Ok(subscription)
    }

    pub(super) fn publish(&self, channel: &str, message: Bytes) {
        let _ = self.outgoing.try_send((channel.to_owned(), message));
    }
}

async fn speak(link: Link, mut messages: mpsc::Receiver<(String, Bytes)>) {
    let mut batch = Vec::new();
    while messages.recv_many(&mut batch, AT_ONCE_MAX).await > 0 {
        if let Err(error) = tell(&link, batch.drain(..)).await {
            tracing::debug!(%error, "messages to other pods were lost");
        }
    }
}

/// To one server they go in one write, and in order.
async fn tell(link: &Link, batch: impl Iterator<Item = (String, Bytes)>) -> Result<(), StoreError> {
    if link.servers().view().await?.is_cluster() {
        let told = batch.map(|(channel, message)| {
            let link = link.clone();
            async move { publish(&link, &channel, &message).await }
        });
        // All of them: one server that is away keeps nothing from the others.
        return futures_util::future::join_all(told).await.into_iter().try_for_each(|heard| heard.map(|_| ()));
    }
    let mut pipeline = redis::Pipeline::new();
    for (channel, message) in batch {
        pipeline.cmd("PUBLISH").arg(channel).arg(&message[..]).ignore();
    }
    link.pipeline("", &pipeline).await
}

/// Publishes on one channel; answers how many heard it on the server that has the channel.
pub(super) async fn publish(link: &Link, channel: &str, message: &[u8]) -> Result<u64, StoreError> {
    // A document's channel stays with its slot; the others are heard on every server of a cluster.
    let is_sharded = channel.starts_with('{') && link.servers().view().await?.is_cluster();
    let command = if is_sharded { "SPUBLISH" } else { "PUBLISH" };
    link.query(channel, Cmd::new().arg(command).arg(channel).arg(message)).await
}
