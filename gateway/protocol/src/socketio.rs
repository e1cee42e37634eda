//! Socket.IO protocol 5, as far as one namespace and text packets go.
//!
//! In: the text of an Engine.IO message. Out: a packet whose payload is still JSON text. Events with binary
//! attachments are recognised, so that they can be refused with their acknowledgement instead of by a close.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::Malformed;

/// The whole Engine.IO message that ends a connection so that stock clients do not come back by themselves.
pub const DISCONNECT: &str = "41";

/// Most attachments of one packet, as in socket.io-parser.
pub const MAX_ATTACHMENTS: usize = 10;

/// Most arguments of one event: the contract's events have one.
const MAX_ARGUMENTS: usize = 16;

/// A packet from a client.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names are Socket.IO's")]
pub enum Packet<'a> {
    /// `auth` is the JSON object that the client gave, if any.
    Connect {
        namespace: Cow<'a, str>,
        auth: Option<&'a str>,
    },
    Disconnect {
        namespace: Cow<'a, str>,
    },
    /// `arguments` follow the name. `attachments` binary messages come right after the packet.
    Event {
        namespace: Cow<'a, str>,
        reply: Option<u64>,
        name: Cow<'a, str>,
        arguments: Vec<&'a RawValue>,
        attachments: usize,
    },
    /// An acknowledgement of an event that the gateway sent; it never asks for one.
    Ack {
        namespace: Cow<'a, str>,
        attachments: usize,
    },
}

/// Reads one packet.
///
/// # Errors
/// Whatever a Socket.IO server closes the connection for.
pub fn decode(text: &str) -> Result<Packet<'_>, Malformed> {
    let kind = *text.as_bytes().first().ok_or(Malformed("an empty Socket.IO packet"))?;
    if !(b'0'..=b'6').contains(&kind) {
        return Err(Malformed("an unknown Socket.IO packet type"));
    }
    let mut rest = &text[1..];
    let mut attachments = 0;
    if matches!(kind, b'5' | b'6') {
        let (count, after) = rest.split_once('-').ok_or(Malformed("no number of attachments"))?;
        attachments = number(count).and_then(|n| usize::try_from(n).ok()).ok_or(Malformed("a bad number"))?;
        if attachments > MAX_ATTACHMENTS {
            return Err(Malformed("too many attachments"));
        }
        rest = after;
    }
    let mut namespace = Cow::Borrowed("/");
    if rest.starts_with('/') {
        let (name, after) = rest.split_once(',').unwrap_or((rest, ""));
        // Clients may put a query behind the name; it is not part of it.
        namespace = Cow::Borrowed(name.split_once('?').map_or(name, |(name, _)| name));
        rest = after;
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (id, payload) = rest.split_at(digits);
    let reply = match id {
        "" => None,
        id => Some(number(id).ok_or(Malformed("a bad acknowledgement id"))?),
    };
    match kind {
        b'0' => {
            if reply.is_some() {
                return Err(Malformed("a CONNECT with an id"));
            }
            let auth = if payload.is_empty() { None } else { Some(object(payload)?) };
            Ok(Packet::Connect { namespace, auth })
        }
        b'1' => {
            if reply.is_some() || !payload.is_empty() {
                return Err(Malformed("a DISCONNECT with a payload"));
            }
            Ok(Packet::Disconnect { namespace })
        }
        b'2' | b'5' => {
            let mut arguments = array(payload)?;
            if arguments.is_empty() {
                return Err(Malformed("an event without a name"));
            }
            let name = event_name(arguments.remove(0))?;
            Ok(Packet::Event { namespace, reply, name, arguments, attachments })
        }
        b'3' | b'6' => {
            if reply.is_none() {
                return Err(Malformed("an acknowledgement without an id"));
            }
            array(payload)?;
            Ok(Packet::Ack { namespace, attachments })
        }
        _ => Err(Malformed("a CONNECT_ERROR from a client")),
    }
}

/// A decimal number without a sign, a leading zero or more than 15 digits (JavaScript counts no further).
fn number(digits: &str) -> Option<u64> {
    let plain = digits.len() <= 15 && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain || digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    digits.parse().ok()
}

fn object(payload: &str) -> Result<&str, Malformed> {
    let raw: &RawValue = serde_json::from_str(payload).map_err(|_| Malformed("a payload that is not JSON"))?;
    if raw.get().starts_with('{') { Ok(raw.get()) } else { Err(Malformed("a payload that is not an object")) }
}

fn array(payload: &str) -> Result<Vec<&RawValue>, Malformed> {
    let arguments: Arguments<'_> =
        serde_json::from_str(payload).map_err(|_| Malformed("a payload that is not a JSON array of a few"))?;
    Ok(arguments.0)
}

/// At most [`MAX_ARGUMENTS`]: a list of all that fit into a message would take eight times its memory.
struct Arguments<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Arguments<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ArgumentsVisitor)
    }
}

struct ArgumentsVisitor;

impl<'de> Visitor<'de> for ArgumentsVisitor {
    type Value = Arguments<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at most {MAX_ARGUMENTS} arguments")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut sequence: S) -> Result<Self::Value, S::Error> {
        let mut arguments = Vec::new();
        while let Some(argument) = sequence.next_element()? {
            if arguments.len() == MAX_ARGUMENTS {
                return Err(S::Error::invalid_length(MAX_ARGUMENTS + 1, &self));
            }
            arguments.push(argument);
        }
        Ok(Arguments(arguments))
    }
}

fn event_name(raw: &RawValue) -> Result<Cow<'_, str>, Malformed> {
    const RESERVED: [&str; 6] =
        ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];
    let text = raw.get();
    let name = match text.as_bytes().first() {
        Some(b'"') => {
            Cow::Owned(serde_json::from_str::<String>(text).map_err(|_| Malformed("an event name that is no text"))?)
        }
        // socket.io-parser lets numbers pass.
        Some(b'0'..=b'9' | b'-') => Cow::Borrowed(text),
        _ => return Err(Malformed("an event name that is not a string")),
    };
    if RESERVED.contains(&name.as_ref()) { Err(Malformed("a reserved event name")) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_has_a_namespace_and_an_optional_object() {
        let Ok(Packet::Connect { namespace, auth }) = decode("0") else { panic!() };
        assert_eq!((namespace.as_ref(), auth), ("/", None));
        let Ok(Packet::Connect { namespace, auth }) = decode(r#"0{"token":"x"}"#) else { panic!() };
        assert_eq!((namespace.as_ref(), auth), ("/", Some(r#"{"token":"x"}"#)));
        let Ok(Packet::Connect { namespace, auth }) = decode(r#"0/admin,{"a":1}"#) else { panic!() };
        assert_eq!((namespace.as_ref(), auth), ("/admin", Some(r#"{"a":1}"#)));
        let Ok(Packet::Connect { namespace, .. }) = decode("0/admin?x=1,") else { panic!() };
        assert_eq!(namespace, "/admin");
    }

    #[test]
    fn events_carry_their_name_arguments_and_id() {
        let Ok(Packet::Event { namespace, reply, name, arguments, attachments }) =
            decode(r#"2/n,17["edit",{"a":[1,"]"]},null]"#)
        else {
            panic!()
        };
        assert_eq!((namespace.as_ref(), reply, name.as_ref(), attachments), ("/n", Some(17), "edit", 0));
        assert_eq!(arguments.iter().map(|raw| raw.get()).collect::<Vec<_>>(), [r#"{"a":[1,"]"]}"#, "null"]);
        let Ok(Packet::Event { reply, name, .. }) = decode(r#"2["\u0065dit"]"#) else { panic!() };
        assert_eq!((reply, name.as_ref()), (None, "edit"));
    }

    #[test]
    fn binary_events_are_recognised_with_their_attachments() {
        let Ok(Packet::Event { reply, attachments, .. }) = decode(r#"51-3["x",{"_placeholder":true,"num":0}]"#) else {
            panic!()
        };
        assert_eq!((reply, attachments), (Some(3), 1));
        assert!(decode(r#"511-["x"]"#).is_err());
        assert!(decode(r#"5["x"]"#).is_err());
        assert!(matches!(decode("61-3[]"), Ok(Packet::Ack { attachments: 1, .. })));
    }

    #[test]
    fn what_servers_close_for_is_malformed() {
        let cases = [
            "",
            "4",
            "7",
            "9",
            "a",
            "2",
            "2{}",
            "2abc[\"x\"]",
            "2[]",
            "2[1,",
            "2[{}]",
            "2[null]",
            "2[\"connect\"]",
            "2[\"x\"]y",
            "3[]",
            "31{}",
            "1{}",
            "05{}",
            "0[]",
            "0\"x\"",
            "0{",
            "2/nsp",
            "201[\"x\"]",
            "21234567890123456[\"x\"]",
            "é",
            "2é",
            "5-[\"x\"]",
            "5-1-[\"x\"]",
            "2[\"\\ud800\"]",
            "41{\"message\":\"x\"}",
        ];
        for text in cases {
            assert!(decode(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_event_has_a_name_and_no_more_than_fifteen_payloads() {
        let event = |payloads: usize| format!("2[\"x\"{}]", ",0".repeat(payloads));
        let most = event(MAX_ARGUMENTS - 1);
        let Ok(Packet::Event { arguments, .. }) = decode(&most) else { panic!() };
        assert_eq!(arguments.len(), MAX_ARGUMENTS - 1);
        for payloads in [MAX_ARGUMENTS, 1_000_000] {
            assert!(decode(&event(payloads)).is_err(), "{payloads}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        let deep = format!("2[\"x\",{}]", "[".repeat(1_000_000));
        assert!(decode(&deep).is_err());
        let closed = format!("2[\"x\",{}{}]", "[".repeat(200_000), "]".repeat(200_000));
        // Not parsed any deeper here: the event parser refuses it.
        let _ = decode(&closed);
    }
}
