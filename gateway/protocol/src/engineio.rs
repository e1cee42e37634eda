//! Engine.IO protocol 4 over WebSocket: one packet per text message.
//!
//! In: the query of the upgrade request and text messages. Out: packets, or the standard refusals of the handshake.

use serde::Serialize;

use crate::Malformed;

/// The heartbeat that the server sends; the client answers with a pong.
pub const PING: &str = "2";

/// A packet from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnginePacket<'a> {
    /// The client is going.
    Close,
    /// The answer to a heartbeat.
    Pong,
    /// A Socket.IO packet.
    Message(&'a str),
    /// Means nothing on WebSocket and is ignored.
    Noop,
}

/// Reads one text message.
///
/// # Errors
/// Packets that only servers send, or none at all.
pub fn decode(text: &str) -> Result<EnginePacket<'_>, Malformed> {
    let Some(kind) = text.as_bytes().first() else { return Err(Malformed("an empty message")) };
    match kind {
        b'1' => Ok(EnginePacket::Close),
        b'3' => Ok(EnginePacket::Pong),
        // One ASCII byte was matched, so the rest is a string.
        b'4' => Ok(EnginePacket::Message(&text[1..])),
        b'6' => Ok(EnginePacket::Noop),
        b'0' | b'2' | b'5' => Err(Malformed("an Engine.IO packet that clients do not send over WebSocket")),
        _ => Err(Malformed("an unknown Engine.IO packet")),
    }
}

/// What the server tells first.
#[derive(Debug, Clone, Copy)]
pub struct Handshake<'a> {
    /// The Engine.IO session id.
    pub sid: &'a str,
    /// Between two heartbeats.
    pub ping_interval_ms: u64,
    /// How long the client may take to answer one.
    pub ping_timeout_ms: u64,
    /// The largest message that is read.
    pub max_payload_bytes: usize,
}

/// The open packet.
pub fn open(handshake: Handshake<'_>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Open<'a> {
        sid: &'a str,
        upgrades: [&'a str; 0],
        ping_interval: u64,
        ping_timeout: u64,
        max_payload: usize,
    }
    let open = Open {
        sid: handshake.sid,
        upgrades: [],
        ping_interval: handshake.ping_interval_ms,
        ping_timeout: handshake.ping_timeout_ms,
        max_payload: handshake.max_payload_bytes,
    };
    format!("0{}", crate::outgoing::json(&open))
}

/// Why an upgrade request is refused, as Engine.IO numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Engine.IO's")]
pub enum HandshakeError {
    UnknownTransport,
    UnknownSid,
    BadMethod,
    BadRequest,
    Forbidden,
    UnsupportedVersion,
}

impl HandshakeError {
    /// The HTTP status: 403 for a forbidden origin, else 400.
    pub fn status(self) -> u16 {
        if self == HandshakeError::Forbidden { 403 } else { 400 }
    }

    /// The JSON body that Engine.IO servers answer with.
    pub fn body(self) -> &'static str {
        match self {
            HandshakeError::UnknownTransport => r#"{"code":0,"message":"Transport unknown"}"#,
            HandshakeError::UnknownSid => r#"{"code":1,"message":"Session ID unknown"}"#,
            HandshakeError::BadMethod => r#"{"code":2,"message":"Bad handshake method"}"#,
            HandshakeError::BadRequest => r#"{"code":3,"message":"Bad request"}"#,
            HandshakeError::Forbidden => r#"{"code":4,"message":"Forbidden"}"#,
            HandshakeError::UnsupportedVersion => r#"{"code":5,"message":"Unsupported protocol version"}"#,
        }
    }
}

/// Checks the query string of a request to `/socket.io/`. Polling is an unknown transport here.
///
/// # Errors
/// The refusal that an Engine.IO server with the WebSocket transport alone would give.
pub fn check_query(query: &str) -> Result<(), HandshakeError> {
    let value = |name| value(query, name);
    if value("transport") != Some("websocket") {
        return Err(HandshakeError::UnknownTransport);
    }
    if value("EIO") != Some("4") {
        return Err(HandshakeError::UnsupportedVersion);
    }
    // A session id is only sent to upgrade from polling, which never happened here.
    if value("sid").is_some() {
        return Err(HandshakeError::UnknownSid);
    }
    Ok(())
}

/// The resume ticket in the query string of a request to `/socket.io/`, unchecked.
pub fn resume_ticket(query: &str) -> Option<&str> {
    value(query, "resume")
}

/// The first value of that name; what we look for needs no escapes.
fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_packet_has_all_five_keys() {
        let handshake =
            Handshake { sid: "abc", ping_interval_ms: 25_000, ping_timeout_ms: 20_000, max_payload_bytes: 1_000_000 };
        assert_eq!(
            open(handshake),
            r#"0{"sid":"abc","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
        );
    }

    #[test]
    fn packets_of_servers_and_unknown_ones_are_malformed() {
        for text in ["", "0", "2", "2probe", "5", "7", "x", "é", "\u{1F600}"] {
            assert!(decode(text).is_err(), "{text:?}");
        }
        assert_eq!(decode("40"), Ok(EnginePacket::Message("0")));
        assert_eq!(decode("3"), Ok(EnginePacket::Pong));
        assert_eq!(decode("1"), Ok(EnginePacket::Close));
        assert_eq!(decode("6"), Ok(EnginePacket::Noop));
    }

    #[test]
    fn only_a_fresh_websocket_of_protocol_4_is_let_in() {
        assert_eq!(check_query("EIO=4&transport=websocket"), Ok(()));
        assert_eq!(check_query("transport=websocket&EIO=4&t=abc"), Ok(()));
        assert_eq!(check_query("EIO=4&transport=polling"), Err(HandshakeError::UnknownTransport));
        assert_eq!(check_query(""), Err(HandshakeError::UnknownTransport));
        assert_eq!(check_query("EIO=3&transport=websocket"), Err(HandshakeError::UnsupportedVersion));
        assert_eq!(check_query("EIO=4&transport=websocket&sid=x"), Err(HandshakeError::UnknownSid));
    }
}
