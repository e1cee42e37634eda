//! Bytes from the socket to messages: unmasking, fragments, limits.

use crate::{
    Violation,
    deflate::{deflated_bytes_max, inflate},
};

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;

/// RSV1: the message that begins here is compressed.
pub(crate) const DEFLATED: u8 = 0x40;

/// RFC 6455 section 5.5.
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

/// What a peer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A whole text message.
    Text(String),
    /// A whole binary message.
    Binary(Vec<u8>),
    /// To be answered with a pong of the same payload.
    Ping(Vec<u8>),
    /// An answer, or a heartbeat by itself.
    Pong,
    /// The peer is going; its code where it gave one.
    Close(Option<u16>),
}

/// Turns a stream of bytes into messages. At rest it holds no memory.
#[derive(Debug)]
pub struct Decoder {
    message_bytes_max: usize,
    /// Messages may be compressed.
    inflates: bool,
    /// Whole frames may wait in `partial`.
    has_more: bool,
    /// What the messages of the last [`Decoder::feed`] grew to while they were inflated.
    inflated_bytes: usize,
    /// The beginning of a frame whose end has not come yet.
    partial: Vec<u8>,
    /// The fragments of a message so far.
    fragments: Option<Fragments>,
}

#[derive(Debug)]
struct Fragments {
    /// The one it began with.
    opcode: u8,
    is_deflated: bool,
    bytes: Vec<u8>,
}

impl Decoder {
    /// A decoder that refuses messages above `message_bytes_max`.
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            inflates: false,
            has_more: false,
            inflated_bytes: 0,
            partial: Vec::new(),
            fragments: None,
        }
    }

    /// The same for a peer that may compress its messages; the limit is that of the message as it was.
    pub fn inflating(message_bytes_max: usize) -> Self {
        Self { inflates: true, ..Self::new(message_bytes_max) }
    }

    /// Changes the limit for what comes from now on.
    pub fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
    }

    /// Takes what was read and appends the messages that are whole now. A little input may be inflated to a lot: beyond
    /// one message's limit the rest is kept for a call without input, see [`Decoder::has_more`].
    ///
    /// # Errors
    /// When the peer breaks the protocol: the connection is to be closed with [`Violation::close_code`], and nothing
    /// after the violation is read. Messages before it are in `messages`.
    pub fn feed(&mut self, input: &[u8], messages: &mut Vec<Message>) -> Result<(), Violation> {
        self.inflated_bytes = 0;
        self.has_more = false;
        if self.partial.is_empty() {
            let used = self.take_frames(input, messages)?;
            self.partial.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(input);
        let used = self.take_frames(&bytes, messages)?;
        if used == 0 {
            self.partial = bytes; // keeps its capacity while a large frame arrives
        } else {
            self.partial = bytes[used..].to_vec();
        }
        Ok(())
    }

    /// Whether whole messages may be here already, so that [`Decoder::feed`] is to be called before anything is read.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Bytes of the messages that the last call inflated.
    pub fn inflated_bytes(&self) -> usize {
        self.inflated_bytes
    }

    /// Whether a message is half here.
    pub fn is_mid_message(&self) -> bool {
        !self.partial.is_empty() || self.fragments.is_some()
    }

    /// What it holds of messages that are half here, in bytes of memory.
    pub fn buffered_bytes(&self) -> usize {
        self.partial.capacity() + self.fragments.as_ref().map_or(0, |fragments| fragments.bytes.capacity())
    }

    /// The number of bytes that made whole frames.
    fn take_frames(&mut self, bytes: &[u8], messages: &mut Vec<Message>) -> Result<usize, Violation> {
        let mut used = 0;
        while let Some(header) = Header::parse(&bytes[used..])? {
            if self.inflated_bytes > self.message_bytes_max {
                self.has_more = true;
                break;
            }
            self.check(&header)?;
            let start = used + header.bytes;
            let Some(masked) = bytes.get(start..).and_then(|rest| rest.get(..header.payload_bytes)) else { break };
            let mut payload = masked.to_vec();
            unmask(&mut payload, header.mask);
            used = start + header.payload_bytes;
            if let Some(message) = self.accept(&header, payload)? {
                messages.push(message);
            }
        }
        Ok(used)
    }

    /// What can be refused before the payload is here, so that nobody makes us wait or grow for it.
    fn check(&self, header: &Header) -> Result<(), Violation> {
        let so_far = self.fragments.as_ref().map_or(0, |fragments| fragments.bytes.len());
        let is_deflated = self.fragments.as_ref().map_or(header.is_deflated, |fragments| fragments.is_deflated);
        let most = if is_deflated { deflated_bytes_max(self.message_bytes_max) } else { self.message_bytes_max };
        if header.is_deflated && !(self.inflates && matches!(header.opcode, TEXT | BINARY)) {
            return Err(Violation::Protocol("a reserved bit"));
        }
        match header.opcode {
            CONTINUATION if self.fragments.is_none() => Err(Violation::Protocol("a continuation of nothing")),
            TEXT | BINARY if self.fragments.is_some() => Err(Violation::Protocol("a new message inside another")),
            CONTINUATION | TEXT | BINARY if header.payload_bytes > most.saturating_sub(so_far) => {
                Err(Violation::TooBig)
            }
            CONTINUATION | TEXT | BINARY => Ok(()),
            CLOSE | PING | PONG if header.payload_bytes > CONTROL_BYTES_MAX => {
                Err(Violation::Protocol("a control frame above 125 bytes"))
            }
            CLOSE | PING | PONG if !header.is_final => Err(Violation::Protocol("a control frame in fragments")),
            CLOSE | PING | PONG => Ok(()),
            _ => Err(Violation::Protocol("an unknown opcode")),
        }
    }

    fn accept(&mut self, header: &Header, payload: Vec<u8>) -> Result<Option<Message>, Violation> {
        match header.opcode {
            PING => Ok(Some(Message::Ping(payload))),
            PONG => Ok(Some(Message::Pong)),
            CLOSE => close(&payload).map(Some),
            opcode => {
                let message = match self.fragments.take() {
                    None => Fragments { opcode, is_deflated: header.is_deflated, bytes: payload },
                    Some(mut fragments) => {
                        fragments.bytes.extend_from_slice(&payload);
                        fragments
                    }
                };
                if !header.is_final {
                    self.fragments = Some(message);
                    return Ok(None);
                }
                let Fragments { opcode, is_deflated, mut bytes } = message;
                if is_deflated {
                    bytes = inflate(&bytes, self.message_bytes_max)?;
                    self.inflated_bytes += bytes.len();
                }
                whole(opcode, bytes).map(Some)
            }
        }
    }
}

fn whole(opcode: u8, bytes: Vec<u8>) -> Result<Message, Violation> {
    if opcode == BINARY {
        return Ok(Message::Binary(bytes));
    }
    String::from_utf8(bytes).map(Message::Text).map_err(|_| Violation::NotUtf8)
}

fn close(payload: &[u8]) -> Result<Message, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(Message::Close(None))
        } else {
            Err(Violation::Protocol("half a close code"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation::NotUtf8);
    }
    // Section 7.4: 1004 to 1006 and 1015 may not be sent; below 1000 and from 1016 to 2999 nothing is defined.
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(Message::Close(Some(code))),
        _ => Err(Violation::Protocol("a close code that may not be sent")),
    }
}

struct Header {
    is_final: bool,
    is_deflated: bool,
    opcode: u8,
    mask: [u8; 4],
    payload_bytes: usize,
    /// Of the header itself.
    bytes: usize,
}

impl Header {
    /// `None` while the header is not whole.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
        if first & 0x30 != 0 {
            return Err(Violation::Protocol("a reserved bit"));
        }
        if second & 0x80 == 0 {
            return Err(Violation::Protocol("a client's frame without a mask"));
        }
        let (length, length_bytes, rest) = match second & 0x7f {
            126 => {
                let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*length)), 2, rest)
            }
            127 => {
                let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
                (u64::from_be_bytes(*length), 8, rest)
            }
            short => (u64::from(short), 0, rest),
        };
        let Some((mask, _)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let payload_bytes = usize::try_from(length).map_err(|_| Violation::TooBig)?;
        let bytes = 2 + length_bytes + 4;
        if payload_bytes > usize::MAX - bytes {
            return Err(Violation::TooBig);
        }
        let (is_final, is_deflated) = (first & 0x80 != 0, first & DEFLATED != 0);
        Ok(Some(Self { is_final, is_deflated, opcode: first & 0x0f, mask: *mask, payload_bytes, bytes }))
    }
}

/// Eight bytes at a time: the compiler turns this into vector instructions.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        if let Ok(eight) = <[u8; 8]>::try_from(&*chunk) {
            chunk.copy_from_slice(&(u64::from_ne_bytes(eight) ^ wide).to_ne_bytes());
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Message};
    use crate::{Violation, deflate::deflate};

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..=125 => frame.push(0x80 | short as u8),
            medium @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend((medium as u16).to_be_bytes());
            }
            long => {
                frame.push(0x80 | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
        frame
    }

    fn decode(limit: usize, pieces: &[&[u8]]) -> Result<Vec<Message>, Violation> {
        decode_by(Decoder::new(limit), pieces)
    }

    fn decode_by(mut decoder: Decoder, pieces: &[&[u8]]) -> Result<Vec<Message>, Violation> {
        let mut messages = Vec::new();
        for piece in pieces {
            decoder.feed(piece, &mut messages)?;
            while decoder.has_more() {
                decoder.feed(&[], &mut messages)?;
            }
        }
        Ok(messages)
    }

    fn deflated(payload: &[u8]) -> Vec<u8> {
        deflate(payload, <[u8]>::to_vec).expect("compressible")
    }

    #[test]
    fn the_masked_hello_of_the_rfc_is_read() {
        let bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(decode(100, &[&bytes]), Ok(vec![Message::Text("Hello".into())]));
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_messages() {
        let long = "é".repeat(40_000);
        let mut stream = masked(0x81, "one".as_bytes());
        stream.extend(masked(0x89, b"beat"));
        stream.extend(masked(0x01, "tw".as_bytes()));
        stream.extend(masked(0x8a, b""));
        stream.extend(masked(0x80, "o".as_bytes()));
        stream.extend(masked(0x81, long.as_bytes()));
        stream.extend(masked(0x82, &[0; 200]));
        let want = vec![
            Message::Text("one".into()),
            Message::Ping(b"beat".to_vec()),
            Message::Pong,
            Message::Text("two".into()),
            Message::Text(long),
            Message::Binary(vec![0; 200]),
        ];
        for size in [1, 2, 3, 7, 64, 4096, stream.len()] {
            let pieces: Vec<_> = stream.chunks(size).collect();
            assert_eq!(decode(1 << 20, &pieces).as_ref(), Ok(&want), "pieces of {size}");
        }
    }

    #[test]
    fn a_decoder_at_rest_holds_no_memory() {
        let mut decoder = Decoder::new(1 << 20);
        let frame = masked(0x81, &[b'x'; 5000]);
        let mut messages = Vec::new();
        decoder.feed(&frame[..100], &mut messages).unwrap();
        assert!(decoder.is_mid_message());
        decoder.feed(&frame[100..], &mut messages).unwrap();
        assert!(!decoder.is_mid_message());
        assert_eq!(decoder.partial.capacity(), 0);
    }

    #[test]
    fn what_breaks_the_protocol_is_named_by_its_code() {
        let mut unmasked = masked(0x81, b"x");
        unmasked[1] &= 0x7f;
        let cases: Vec<(Vec<u8>, u16)> = vec![
            (unmasked, 1002),
            (masked(0xc1, b"reserved bit"), 1002),
            (masked(0x83, b"unknown opcode"), 1002),
            (masked(0x80, b"continues nothing"), 1002),
            (masked(0x09, b"fragmented ping"), 1002),
            (masked(0x89, &[0; 126]), 1002),
            (masked(0x88, &[3]), 1002),
            (masked(0x88, &1005_u16.to_be_bytes()), 1002),
            ([masked(0x01, b"a"), masked(0x81, b"b")].concat(), 1002),
            (masked(0x81, &[0xc3, 0x28]), 1007),
            (masked(0x88, &[0x03, 0xe8, 0xff]), 1007),
            (masked(0x81, &[b'x'; 1001]), 1009),
            ([masked(0x01, &[b'x'; 600]), masked(0x80, &[b'x'; 401])].concat(), 1009),
            // 2^63 bytes are refused by their header alone.
            (vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], 1009),
        ];
        for (bytes, code) in cases {
            let violation = decode(1000, &[&bytes]).expect_err("must be refused");
            assert_eq!(violation.close_code(), code, "{violation} for {:?}", &bytes[..bytes.len().min(16)]);
        }
    }

    #[test]
    fn compressed_messages_come_whole_in_fragments_and_among_others_however_the_stream_is_cut() {
        let long = "é and ".repeat(10_000);
        let small = deflated(long.as_bytes());
        let (head, tail) = small.split_at(small.len() / 3);
        let stream = [
            masked(0xc1, &small),
            masked(0x81, b"plain"),
            masked(0x41, head),
            masked(0x89, b"beat"),
            masked(0x00, b""),
            masked(0x80, tail),
            masked(0xc1, &[0]),
            masked(0x01, b"pl"),
            masked(0x80, b"ain"),
            masked(0xc2, &deflated(&[7; 100])),
        ]
        .concat();
        let want = vec![
            Message::Text(long.clone()),
            Message::Text("plain".into()),
            Message::Ping(b"beat".to_vec()),
            Message::Text(long.clone()),
            Message::Text(String::new()),
            Message::Text("plain".into()),
            Message::Binary(vec![7; 100]),
        ];
        for size in [1, 2, 7, 64, stream.len()] {
            let pieces: Vec<_> = stream.chunks(size).collect();
            assert_eq!(decode_by(Decoder::inflating(long.len()), &pieces).as_ref(), Ok(&want), "pieces of {size}");
        }
    }

    #[test]
    fn what_breaks_the_rules_of_compression_is_named_by_its_code() {
        let hello = deflated(&[b'x'; 100]);
        let cases: Vec<(Vec<u8>, u16)> = vec![
            (masked(0xc9, b"compressed ping"), 1002),
            (masked(0xc8, b""), 1002),
            (masked(0xa1, b"second bit"), 1002),
            (masked(0xd1, b"third bit"), 1002),
            ([masked(0x41, &hello[..2]), masked(0xc0, &hello[2..])].concat(), 1002),
            ([masked(0x01, b"a"), masked(0xc0, &hello)].concat(), 1002),
            (masked(0xc1, b"not deflate"), 1007),
            (masked(0xc1, &deflated(&[0xff; 100])), 1007),
            (masked(0xc1, &deflated(&[b'x'; 1001])), 1009),
            // By their headers alone.
            (vec![0xc1, 0xfe, 0x7f, 0xff, 1, 2, 3, 4], 1009),
            ([masked(0x41, &[0; 600]), vec![0x80, 0xfe, 0x03, 0xe9, 1, 2, 3, 4]].concat(), 1009),
        ];
        for (bytes, code) in cases {
            let violation = decode_by(Decoder::inflating(1000), &[&bytes]).expect_err("must be refused");
            assert_eq!(violation.close_code(), code, "{violation} for {:?}", &bytes[..bytes.len().min(16)]);
        }
        assert_eq!(decode(1000, &[&masked(0xc1, &hello)]), Err(Violation::Protocol("a reserved bit")));
    }

    #[test]
    fn many_bombs_in_one_read_are_inflated_a_few_at_a_time() {
        let stream = masked(0xc1, &deflated(&[b'x'; 1000])).repeat(50);
        let mut decoder = Decoder::inflating(1000);
        let mut messages = Vec::new();
        decoder.feed(&stream, &mut messages).unwrap();
        let mut calls = 1;
        while decoder.has_more() {
            assert!(decoder.inflated_bytes() <= 2000 && decoder.buffered_bytes() > 0);
            decoder.feed(&[], &mut messages).unwrap();
            calls += 1;
        }
        assert_eq!((messages.len(), calls), (50, 25));
        assert_eq!((decoder.buffered_bytes(), decoder.is_mid_message()), (0, false));
    }

    #[test]
    fn a_character_may_be_cut_between_fragments() {
        let frames = [masked(0x01, &[0xc3]), masked(0x80, &[0xa9])].concat();
        assert_eq!(decode(10, &[&frames]), Ok(vec![Message::Text("é".into())]));
    }

    #[test]
    fn a_close_is_read_with_and_without_a_code() {
        assert_eq!(decode(10, &[&masked(0x88, b"")]), Ok(vec![Message::Close(None)]));
        assert_eq!(decode(10, &[&masked(0x88, &[0x03, 0xe9])]), Ok(vec![Message::Close(Some(1001))]));
    }
}
