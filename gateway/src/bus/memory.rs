//! The bus of a gateway alone: channels within the process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::{Heard, Listener, Subscription};

type Channels = HashMap<String, Vec<Listener>>;

/// Channels of one process; clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryBus {
    channels: Arc<Mutex<Channels>>,
}

impl MemoryBus {
    /// Hears a channel from now on.
    pub fn subscribe(&self, channel: &str) -> Subscription {
        let (channels, name) = (Arc::clone(&self.channels), channel.to_owned());
        let (listener, subscription) = Listener::new(move |id| {
            let mut channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(listeners) = channels.get_mut(&name) {
                listeners.retain(|listener| listener.id != id);
                if listeners.is_empty() {
                    channels.remove(&name);
                }
            }
        });
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.entry(channel.to_owned()).or_default().push(listener);
        subscription
    }

    /// Tells whoever hears the channel.
    pub fn publish(&self, channel: &str, message: &Bytes) {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in channels.get(channel).into_iter().flatten() {
            listener.tell(Heard::Message(message.clone()));
        }
    }
}
