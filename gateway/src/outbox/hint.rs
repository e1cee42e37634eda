//! The hint before a paced close, to those who can hear it.
//!
//! In: when a connection will be closed, from a drain that does not know how far it is. Out: `draining`, once its CONNECT
//! was answered: a seat may be taken whose socket is still being upgraded, and there Engine.IO's open packet comes first,
//! as the answer to CONNECT comes before every event.

use tokio::time::Instant;

use super::Outbox;
use crate::clock::milliseconds;

impl Outbox {
    /// Tells the client when it will be closed, now or as soon as it is connected.
    pub fn hint(&self, closes_at: Instant) {
        self.queue().hint = Some(closes_at);
        self.say_hint();
    }

    /// CONNECT was answered: from now on events may be said.
    pub fn connected(&self) {
        self.queue().is_connected = true;
        self.say_hint();
    }

    fn say_hint(&self) {
        let mut queue = self.queue();
        let hint = if queue.is_connected { queue.hint.take() } else { None };
        drop(queue);
        if let Some(closes_at) = hint {
            let after = closes_at.saturating_duration_since(Instant::now());
            self.push_text(&protocol::draining(milliseconds(after)));
        }
    }
}
