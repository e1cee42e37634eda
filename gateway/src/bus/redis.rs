//! The bus through the Redis server: one connection that hears all channels of this pod, one that speaks.
//!
//! The library's own subscriptions are not relied on: a task here knows every channel, subscribes to all of them anew on
//! each connection and then tells every subscriber that messages may be missing. A ping shows that the connection lives.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{Heard, Listener, Subscription};
use crate::store::{Link, RedisSettings, StoreError, find_primary};

/// How long the server may take to confirm, and how often it is asked whether it lives.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
const PING_EVERY: Duration = Duration::from_secs(5);
/// After a failed attempt the next one waits, twice as long each time, between these bounds.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Messages that wait to be published; while the server is away the newest are dropped, they are only hints.
const OUTGOING_MAX: usize = 4096;
/// Requests and messages taken at once.
const AT_ONCE_MAX: usize = 256;

/// The Redis server's channels; clones share the connections.
#[derive(Debug, Clone)]
pub struct RedisBus {
    // Unbounded, but there are never more requests than subscriptions.
    requests: mpsc::UnboundedSender<Request>,
    outgoing: mpsc::Sender<(String, Bytes)>,
}

#[derive(Debug)]
enum Request {
    Subscribe { channel: String, listener: Listener, done: oneshot::Sender<Result<(), StoreError>> },
    End { channel: String, id: u64 },
}

impl RedisBus {
    /// Starts the two tasks, which end when the last clone and the last subscription are gone.
    pub fn new(settings: Arc<RedisSettings>) -> Self {
        let (requests, incoming) = mpsc::unbounded_channel();
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        tokio::spawn(speak(Link::new(Arc::clone(&settings)), messages));
        tokio::spawn(Ear { settings, requests: incoming, channels: HashMap::new() }.run());
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
        let mut pipeline = redis::Pipeline::new();
        for (channel, message) in batch.drain(..) {
            pipeline.cmd("PUBLISH").arg(channel).arg(&message[..]).ignore();
        }
        if let Err(error) = link.pipeline::<()>(&pipeline).await {
            tracing::debug!(%error, "messages to other pods were lost");
        }
    }
}

/// The task that hears.
struct Ear {
    settings: Arc<RedisSettings>,
    requests: mpsc::UnboundedReceiver<Request>,
    channels: HashMap<String, Vec<Listener>>,
}

/// Why a connection was left.
enum Left {
    Lost(StoreError),
    NobodyListens,
}

impl Ear {
    async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.connect().await {
                Ok((sink, stream)) => {
                    backoff = BACKOFF_MIN;
                    match self.hear(sink, stream).await {
                        Left::Lost(error) => tracing::warn!(%error, "the subscriptions were lost, connecting again"),
                        Left::NobodyListens => return,
                    }
                }
                Err(error) => {
                    if self.refuse_for(backoff, &error).await {
                        return;
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    async fn connect(&self) -> Result<(PubSubSink, PubSubStream), StoreError> {
        let (client, _) = find_primary(&self.settings).await?;
        let connected = timeout(CONFIRM_TIMEOUT, client.get_async_pubsub()).await;
        let pubsub = connected.map_err(|_| slow())?.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(pubsub.split())
    }

    /// Waits, while answering everybody that there is no connection. True when nobody listens any more.
    async fn refuse_for(&mut self, wait: Duration, error: &StoreError) -> bool {
        let until = Instant::now() + wait;
        loop {
            match tokio::time::timeout_at(until, self.requests.recv()).await {
                Err(_) => return false,
                Ok(None) => return true,
                Ok(Some(Request::End { channel, id })) => {
                    self.end(&channel, id);
                }
                Ok(Some(Request::Subscribe { done, .. })) => {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
    }

    async fn hear(&mut self, mut sink: PubSubSink, mut stream: PubSubStream) -> Left {
        let names: Vec<&String> = self.channels.keys().collect();
        if !names.is_empty()
            && let Err(error) = confirmed(sink.subscribe(&names)).await
        {
            return Left::Lost(error);
        }
        for listener in self.channels.values().flatten() {
            listener.tell(Heard::Missed);
        }
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let outcome = tokio::select! {
                message = stream.next() => match message {
                    None => Err(StoreError::Unavailable("the connection was closed".into())),
                    Some(message) => {
                        self.tell(&message);
                        Ok(())
                    }
                },
                count = self.requests.recv_many(&mut batch, AT_ONCE_MAX) => {
                    if count == 0 {
                        return Left::NobodyListens;
                    }
                    self.serve(&mut sink, &mut batch).await
                }
                _ = pings.tick() => confirmed(sink.ping::<redis::Value>()).await.map(|_| ()),
            };
            if let Err(error) = outcome {
                return Left::Lost(error);
            }
        }
    }

    fn tell(&self, message: &redis::Msg) {
        let payload = Bytes::copy_from_slice(message.get_payload_bytes());
        for listener in self.channels.get(message.get_channel_name()).into_iter().flatten() {
            listener.tell(Heard::Message(payload.clone()));
        }
    }

    async fn serve(&mut self, sink: &mut PubSubSink, batch: &mut Vec<Request>) -> Result<(), StoreError> {
        let (mut wanted, mut unwanted, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for request in batch.drain(..) {
            match request {
                Request::Subscribe { channel, listener, done } => {
                    if !self.channels.contains_key(&channel) {
                        unwanted.retain(|name| *name != channel);
                        wanted.push(channel.clone());
                    }
                    self.channels.entry(channel).or_default().push(listener);
                    waiting.push(done);
                }
                Request::End { channel, id } => {
                    if self.end(&channel, id) {
                        unwanted.push(channel);
                    }
                }
            }
        }
        wanted.retain(|name| !unwanted.contains(name));
        let mut outcome = Ok(());
        if !wanted.is_empty() {
            outcome = confirmed(sink.subscribe(&wanted)).await;
        }
        if outcome.is_ok() && !unwanted.is_empty() {
            outcome = confirmed(sink.unsubscribe(&unwanted)).await;
        }
        for done in waiting {
            let _ = done.send(outcome.clone());
        }
        outcome
    }

    /// Forgets a subscriber; true if it was the channel's last.
    fn end(&mut self, channel: &str, id: u64) -> bool {
        let Some(listeners) = self.channels.get_mut(channel) else { return false };
        listeners.retain(|listener| listener.id != id);
        let is_last = listeners.is_empty();
        if is_last {
            self.channels.remove(channel);
        }
        is_last
    }
}

async fn confirmed<T>(call: impl Future<Output = redis::RedisResult<T>>) -> Result<T, StoreError> {
    match timeout(CONFIRM_TIMEOUT, call).await {
        Err(_) => Err(slow()),
        Ok(result) => result.map_err(|error| StoreError::Unavailable(error.to_string())),
    }
}

fn slow() -> StoreError {
    StoreError::Unavailable("the server did not answer in time".into())
}
