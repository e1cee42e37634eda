//! Words between pods: channels that every pod with an interest subscribes to.
//!
//! In: subscriptions and messages. Out: the messages of a channel, and [`Heard::Missed`] where some may have been lost.
//! A message is a hint that spares a round trip; whoever relies on something reads it from the store.

mod ear;
mod memory;
mod redis;
mod server_wide;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::mpsc;

pub use memory::MemoryBus;
pub use redis::RedisBus;
pub use server_wide::{BEHIND_MAX as SERVER_WIDE_BEHIND_MAX, ServerWide, hear_server_wide};

use crate::store::StoreError;

/// Messages a subscriber may be behind; a document that is further behind reads the log instead.
const HEARD_MAX: usize = 256;

/// The same in bytes: mostly small messages, and a few of the largest.
const HEARD_BYTES_MAX: usize = 256 << 10;

/// Where pods announce the clients that connected to them.
pub const CLIENT_CHANNEL: &str = "collab:client";

/// Where applications say that they changed a user or an access.
pub const CHANGED_CHANNEL: &str = "collab:changed";

/// The channel of a document.
pub fn document_channel(document: &str) -> String {
    format!("{{doc:{document}}}")
}

/// One of the two buses; cheap to clone.
#[derive(Debug, Clone)]
pub enum Bus {
    /// Within this process.
    Memory(MemoryBus),
    /// Through the Redis server.
    Redis(RedisBus),
}

impl Bus {
    /// Hears a channel from now on: what is published after this returned arrives, or [`Heard::Missed`] does.
    pub async fn subscribe(&self, channel: &str) -> Result<Subscription, StoreError> {
        match self {
            Bus::Memory(bus) => Ok(bus.subscribe(channel)),
            Bus::Redis(bus) => bus.subscribe(channel).await,
        }
    }

    /// Tells whoever hears the channel, if possible; never waits.
    pub fn publish(&self, channel: &str, message: Bytes) {
        match self {
            Bus::Memory(bus) => bus.publish(channel, &message),
            Bus::Redis(bus) => bus.publish(channel, message),
        }
    }
}

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Bytes),
    /// Messages may have been lost: read what matters.
    Missed,
}

/// The hearing end of a channel; dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    messages: mpsc::Receiver<Heard>,
    backlog: Arc<Backlog>,
    // Tells the bus which subscriber is gone.
    _end: End,
}

impl Subscription {
    /// The next message. Ends only with the bus itself.
    pub async fn next(&mut self) -> Option<Heard> {
        if self.messages.is_empty() && self.backlog.overflowed.swap(false, Ordering::AcqRel) {
            return Some(Heard::Missed);
        }
        let heard = self.messages.recv().await;
        if let Some(heard) = &heard {
            self.backlog.bytes.fetch_sub(heard.bytes(), Ordering::AcqRel);
        }
        heard
    }
}

impl Heard {
    fn bytes(&self) -> usize {
        match self {
            Heard::Message(message) => message.len(),
            Heard::Missed => 0,
        }
    }
}

/// What a subscriber has not taken yet.
#[derive(Debug, Default)]
struct Backlog {
    bytes: AtomicUsize,
    /// Something did not fit.
    overflowed: AtomicBool,
}

/// The telling end of a subscription.
#[derive(Debug)]
pub(crate) struct Listener {
    id: u64,
    messages: mpsc::Sender<Heard>,
    backlog: Arc<Backlog>,
}

impl Listener {
    /// A subscription and its telling end; `ended` is called with its id when the subscriber is gone.
    fn new(ended: impl FnOnce(u64) + Send + Sync + 'static) -> (Self, Subscription) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (sender, messages) = mpsc::channel(HEARD_MAX);
        let backlog = Arc::<Backlog>::default();
        let listener = Self { id, messages: sender, backlog: Arc::clone(&backlog) };
        let end = End(Some(Box::new(move || ended(id))));
        (listener, Subscription { messages, backlog, _end: end })
    }

    fn tell(&self, heard: Heard) {
        let bytes = heard.bytes();
        // One message always fits, whatever its size.
        let before = self.backlog.bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = before == 0 || before + bytes <= HEARD_BYTES_MAX;
        if !fits || self.messages.try_send(heard).is_err() {
            self.backlog.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.backlog.overflowed.store(true, Ordering::Release);
        }
    }
}

type OnEnd = Box<dyn FnOnce() + Send + Sync>;

struct End(Option<OnEnd>);

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("End")
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}
