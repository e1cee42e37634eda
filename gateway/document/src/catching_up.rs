//! Connections that were not told of the newest entries because they read too slowly.
//!
//! In: the version that such a connection was told of last. Out: what came after it, from the window, as if it had come
//! just now; or `rejoin` where the window does not reach back so far.

use std::sync::Arc;

use crate::{Canonical, Command, ConnectionId, Document, Event, Version};

impl Document {
    /// The connection can be told more again.
    pub(crate) fn on_catch_up(&mut self, id: ConnectionId, after: Version) {
        // Whoever joins, or was told to, learns everything by that.
        let Some(connection) = self.connections.get(&id).filter(|connection| connection.is_joined()) else { return };
        let client_id = connection.client_id.clone();
        let Some(missed) = self.history.after(after.max(connection.joined_version)) else {
            return self.send_rejoin(id);
        };
        let missed: Vec<Arc<Canonical>> = missed.cloned().collect();
        for entry in missed {
            let event = if entry.client_id == client_id { committed(&entry) } else { Event::Edit(entry) };
            self.out.push(Command::Send { to: vec![id], event });
        }
    }
}

/// What the writer is told of its entry.
pub(crate) fn committed(entry: &Canonical) -> Event {
    Event::EditCommitted {
        at: entry.at.clone(),
        client_id: entry.client_id.clone(),
        seq: (!entry.identity.by_gateway).then_some(entry.identity.seq),
        digest: entry.digest,
    }
}
