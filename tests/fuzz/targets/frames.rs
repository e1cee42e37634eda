//! WebSocket frames from strangers. In: bytes; the first says in what portions the rest arrives. However they are cut,
//! the messages are the same, and none is larger than the limit; with compression agreed on as without.
#![no_main]

use libfuzzer_sys::fuzz_target;
use websocket::{Decoder, Deflate, Message, Violation};

const MESSAGE_BYTES_MAX: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    for new in [Decoder::new, Decoder::inflating] {
        let (whole, end) = decode(new(MESSAGE_BYTES_MAX), rest, rest.len().max(1));
        let (parts, parts_end) = decode(new(MESSAGE_BYTES_MAX), rest, usize::from(*first).max(1));
        assert_eq!(format!("{whole:?} {end:?}"), format!("{parts:?} {parts_end:?}"));
        for message in whole {
            assert!(!matches!(message, Message::Text(text) if text.len() > MESSAGE_BYTES_MAX));
        }
    }
    let _ = std::str::from_utf8(rest).map(|offer| Deflate::negotiate([offer]));
    let _ = std::str::from_utf8(rest).map(websocket::accept_key);
});

fn decode(mut decoder: Decoder, bytes: &[u8], portion: usize) -> (Vec<Message>, Result<(), Violation>) {
    let mut messages = Vec::new();
    for part in bytes.chunks(portion) {
        let mut input = part;
        loop {
            if let Err(violation) = decoder.feed(input, &mut messages) {
                return (messages, Err(violation));
            }
            if !decoder.has_more() {
                break;
            }
            input = &[];
        }
    }
    (messages, Ok(()))
}
