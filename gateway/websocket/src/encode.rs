//! Frames to write. A server's frames are not masked, so one encoded frame serves every receiver.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    decode::{BINARY, CLOSE, CONTROL_BYTES_MAX, DEFLATED, PING, PONG, TEXT},
    deflate::deflate,
};

const FIN: u8 = 0x80;

/// One text message.
pub fn text_frame(text: &str) -> Bytes {
    frame(TEXT, text.as_bytes())
}

/// One binary message.
pub fn binary_frame(payload: &[u8]) -> Bytes {
    frame(BINARY, payload)
}

/// One text message, compressed, for peers that agreed to it; `None` if it would not be smaller.
pub fn deflated_text_frame(text: &str) -> Option<Bytes> {
    deflate(text.as_bytes(), |deflated| frame(DEFLATED | TEXT, deflated))
}

/// The same for a binary message.
pub fn deflated_binary_frame(payload: &[u8]) -> Option<Bytes> {
    deflate(payload, |deflated| frame(DEFLATED | BINARY, deflated))
}

/// A heartbeat; `payload` is cut at 125 bytes.
pub fn ping_frame(payload: &[u8]) -> Bytes {
    frame(PING, cut(payload))
}

/// The answer to a ping, with its payload.
pub fn pong_frame(payload: &[u8]) -> Bytes {
    frame(PONG, cut(payload))
}

/// The end, with a code of RFC 6455 section 7.4 and a reason for people, cut at 123 bytes.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Vec::with_capacity(2 + end);
    payload.put_u16(code);
    payload.put_slice(&reason.as_bytes()[..end]);
    frame(CLOSE, &payload)
}

fn cut(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(CONTROL_BYTES_MAX)]
}

fn frame(first: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(10 + payload.len());
    out.put_u8(FIN | first);
    match payload.len() {
        short @ 0..=125 => out.put_u8(short as u8),
        medium @ 126..=0xffff => {
            out.put_u8(126);
            out.put_u16(medium as u16);
        }
        long => {
            out.put_u8(127);
            out.put_u64(long as u64);
        }
    }
    out.put_slice(payload);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::{close_frame, deflated_text_frame, ping_frame, text_frame};

    #[test]
    fn lengths_take_the_shortest_of_three_forms() {
        for (length, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (0xffff, vec![0x81, 126, 0xff, 0xff]),
            (0x1_0000, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = text_frame(&"x".repeat(length));
            assert_eq!(frame.len(), header.len() + length);
            assert_eq!(&frame[..header.len()], &header[..], "{length} bytes");
        }
    }

    #[test]
    fn a_compressed_frame_has_the_first_reserved_bit_and_is_smaller() {
        let text = "compressed once, sent to everybody; ".repeat(10);
        let (plain, deflated) = (text_frame(&text), deflated_text_frame(&text).expect("compressible"));
        assert_eq!((plain[0], deflated[0]), (0x81, 0xc1));
        assert_eq!(usize::from(deflated[1]), deflated.len() - 2);
        assert!(deflated.len() < plain.len() / 2);
        assert_eq!(deflated_text_frame("x"), None);
    }

    #[test]
    fn control_frames_stay_within_125_bytes_and_cut_no_character() {
        assert_eq!(ping_frame(&[7; 200]).len(), 2 + 125);
        let close = close_frame(1013, &"é".repeat(100));
        assert!(close.len() <= 2 + 125);
        assert!(std::str::from_utf8(&close[4..]).is_ok());
    }
}
