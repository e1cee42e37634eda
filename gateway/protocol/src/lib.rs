//! What goes over wires and into the store, and nothing else: the Engine.IO and Socket.IO codec, the events of clients
//! and of the gateway, and the formats of log entries, snapshots and messages between pods.
//!
//! In: text from strangers or from the store. Out: typed values, or a refusal that says what to write instead; and the
//! same the other way round. No I/O, no clock, no randomness. JSON appears nowhere else in the gateway.

mod delta;
mod engineio;
mod entry;
mod incoming;
mod outgoing;
mod peer;
mod snapshot;
mod socketio;

pub use delta::{DeltaJson, decode as decode_delta, parse as parse_delta};
pub use engineio::{
    EnginePacket, Handshake, HandshakeError, PING, check_query, decode as decode_engine, open, resume_ticket,
};
pub use entry::{Unreadable, decode_entry, encode_entry};
pub use incoming::{
    Auth, ClientEvent, EditEvent, JoinEvent, Limits, Refused, event as client_event, is_client_id, is_document_id,
    is_user_id,
};
pub use outgoing::{
    acknowledgement, code_name, connect_error, connected, demo_pod, draining, error, event, event_with_ticket,
    invalid_namespace, refused_answer, token_expiring, token_refreshed, token_refused,
};
pub use peer::{
    Change, Claim, decode_change, decode_claim, decode_member, decode_peer, encode_change, encode_claim, encode_member,
    encode_peer,
};
pub use snapshot::{decode_snapshot, encode_snapshot};
pub use socketio::{DISCONNECT, MAX_ATTACHMENTS, Packet, decode as decode_packet};

/// The peer broke the wire protocol: its connection, and no other, is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet: {0}")]
pub struct Malformed(pub &'static str);

#[cfg(test)]
mod tests;
