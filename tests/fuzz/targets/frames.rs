//! WebSocket frames from strangers. In: bytes; the first says in what portions the rest arrives. However they are cut,
//! the messages are the same, and none is larger than the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use websocket::{Decoder, Message, Violation};

const MESSAGE_BYTES_MAX: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let (whole, end) = decode(rest, rest.len().max(1));
    let (parts, parts_end) = decode(rest, usize::from(*first).max(1));
    assert_eq!(format!("{whole:?} {end:?}"), format!("{parts:?} {parts_end:?}"));
    let _ = std::str::from_utf8(rest).map(websocket::accept_key);
});

fn decode(bytes: &[u8], portion: usize) -> (Vec<Message>, Result<(), Violation>) {
    let mut decoder = Decoder::new(MESSAGE_BYTES_MAX);
    let mut messages = Vec::new();
    for part in bytes.chunks(portion) {
        if let Err(violation) = decoder.feed(part, &mut messages) {
            return (messages, Err(violation));
        }
    }
    (messages, Ok(()))
}
