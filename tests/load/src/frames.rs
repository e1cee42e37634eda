//! A client's side of RFC 6455, as lean as load needs it.
//!
//! In: texts to send, bytes that came. Out: masked frames, the payloads of a server's frames. The mask is the same for
//! all frames: the server's work is the same, and nobody is protected here.

use anyhow::{Result, bail};

const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x88];

/// Text frames.
pub const TEXT: u8 = 1;
/// The server is going.
pub const CLOSE: u8 = 8;
/// To be answered with a pong.
pub const PING: u8 = 9;
const PONG: u8 = 10;

/// A server's frame: its opcode, where its payload lies in the bytes, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Of RFC 6455.
    pub opcode: u8,
    /// Of the payload.
    pub payload: std::ops::Range<usize>,
}

/// Appends a text message.
pub fn text(out: &mut Vec<u8>, payload: &str) {
    masked(out, TEXT, payload.as_bytes());
}

/// Appends the answer to a ping.
pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    masked(out, PONG, payload);
}

/// The frame that begins at `from`, once it is whole.
///
/// # Errors
/// When a server sends what load does not read: fragments, masks, compression.
pub fn next(bytes: &[u8], from: usize) -> Result<Option<Frame>> {
    let Some([first, second, rest @ ..]) = bytes.get(from..) else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        bail!("a frame that begins with {first:#x} {second:#x}");
    }
    let (length, header) = match (second, rest) {
        (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            (usize::try_from(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))?, 10)
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (usize::from(*short), 2),
    };
    let start = from + header;
    let payload = start..start + length;
    Ok((payload.end <= bytes.len()).then_some(Frame { opcode: first & 0x0f, payload }))
}

/// The request of an upgrade.
pub fn request(target: &str, protocol: Option<&str>) -> String {
    let protocol = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
    )
}

fn masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
}

#[cfg(test)]
mod tests {
    use super::{Frame, next, text};

    #[test]
    fn frames_are_found_one_after_the_other_and_only_when_whole() {
        let mut bytes = vec![0x81, 2, b'h', b'i', 0x81, 126, 0, 200];
        assert_eq!(next(&bytes, 0).unwrap(), Some(Frame { opcode: 1, payload: 2..4 }));
        assert_eq!(next(&bytes, 4).unwrap(), None);
        bytes.extend([b'x'; 200]);
        assert_eq!(next(&bytes, 4).unwrap(), Some(Frame { opcode: 1, payload: 8..208 }));
        assert!(next(&[0xc1, 0], 0).is_err());
    }

    #[test]
    fn a_servers_decoder_reads_what_is_sent() {
        let mut bytes = Vec::new();
        let long = "é".repeat(40_000);
        text(&mut bytes, "one");
        text(&mut bytes, &long);
        let mut messages = Vec::new();
        websocket::Decoder::new(1 << 20).feed(&bytes, &mut messages).unwrap();
        assert_eq!(messages, ["one", &long].map(|text| websocket::Message::Text(text.to_owned())));
    }
}
