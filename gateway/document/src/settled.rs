//! Whether anybody still waits for an answer: what a pod asks before it lets a connection, or the document, go.
//!
//! In: a connection, or the whole document. Out: yes once all of its edits are in the log, told and acknowledged, or were
//! refused, and no join of it is under way.

use crate::{
    ConnectionId, Document,
    connection::{Connection, Stage},
};

impl Document {
    /// Whether this connection waits for nothing: every edit that it handed in has been answered, those of its earlier
    /// sessions are in the log, and no join is under way. A connection that is not here waits for nothing.
    pub fn is_settled(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_none_or(|connection| is_answered(connection))
            && self.draining.iter().all(|left| left.id != id || left.chain.pending().is_empty())
            && !self.flight.as_ref().is_some_and(|flight| flight.origins.iter().any(|o| o.connection == Some(id)))
            && !self.healing.as_ref().is_some_and(|healing| healing.is_awaited_by(id))
            && !self.owes(id)
    }

    /// Whether the document has no edit that is not in the log or whose acknowledgement waits.
    pub fn is_all_settled(&self) -> bool {
        self.flight.is_none()
            && self.healing.is_none()
            && self.durability.waiting() == 0
            && self.draining.iter().all(|left| left.chain.pending().is_empty())
            && self.connections.values().all(|connection| is_answered(connection))
    }
}

fn is_answered(connection: &Connection) -> bool {
    // What a connection that was told to join again has sent meanwhile waits for that join, which is the client's to ask.
    let is_joining = matches!(connection.stage, Stage::Joining(_));
    !is_joining && connection.chain.pending().is_empty() && connection.inbox.is_empty()
}
