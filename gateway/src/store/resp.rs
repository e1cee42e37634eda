//! The server's answers (RESP 2) for connections that are read without the library: subscriptions.
//!
//! In: bytes. Out: [`Reply`]s, or an error after which the connection is of no use. Lengths and depths from the other
//! side are bounded before anything is allocated for them.

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// A document's messages have at most 32 KiB of entries; words of pods are small.
const BULK_BYTES_MAX: usize = 8 << 20;
/// Answers to subscriptions have three parts.
const PARTS_MAX: usize = 1024;
/// A line is a number, a word or an error.
const LINE_BYTES_MAX: usize = 64 << 10;

/// One answer or message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A word such as `OK`.
    Word(Bytes),
    /// An error's text.
    Error(String),
    /// A number.
    Number(i64),
    /// Bytes; `None` where there is nothing.
    Bulk(Option<Bytes>),
    /// Parts, none of which has parts itself.
    Parts(Vec<Reply>),
}

/// Packed commands out, replies in.
#[derive(Debug, Default)]
pub(crate) struct Codec;

impl Encoder<Vec<u8>> for Codec {
    type Error = std::io::Error;

    fn encode(&mut self, packed: Vec<u8>, out: &mut BytesMut) -> Result<(), Self::Error> {
        out.extend_from_slice(&packed);
        Ok(())
    }
}

impl Decoder for Codec {
    type Item = Reply;
    type Error = std::io::Error;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Reply>, Self::Error> {
        // First the length of it all, then the bytes are taken without a copy.
        let Some(end) = end_of_reply(bytes)? else { return Ok(None) };
        let mut whole = bytes.split_to(end).freeze();
        take(&mut whole).map(Some)
    }
}

/// Where the reply at the beginning ends; `None` if it is not all there.
fn end_of_reply(bytes: &[u8]) -> std::io::Result<Option<usize>> {
    let (mut at, mut left) = (0, 1usize);
    let mut in_parts = false;
    while left > 0 {
        let Some((kind, line, next)) = line(bytes, at)? else { return Ok(None) };
        left -= 1;
        at = next;
        match kind {
            b'$' => {
                if let Some(length) = length(line, BULK_BYTES_MAX)? {
                    at += length + 2;
                }
            }
            b'*' if in_parts => return Err(wrong("parts within parts")),
            b'*' => {
                in_parts = true;
                left += length(line, PARTS_MAX)?.unwrap_or(0);
            }
            b'+' | b'-' | b':' => {}
            _ => return Err(wrong("an unknown kind of answer")),
        }
        if at > bytes.len() {
            return Ok(None);
        }
    }
    Ok(Some(at))
}

/// The reply at the beginning of bytes that hold it whole.
fn take(bytes: &mut Bytes) -> std::io::Result<Reply> {
    let (kind, text, next) = line(bytes, 0)?.ok_or_else(|| wrong("an answer that ends too soon"))?;
    let length_of_text = text.len();
    let text = bytes.slice(1..1 + length_of_text);
    bytes.advance(next);
    match kind {
        b'+' => Ok(Reply::Word(text)),
        b'-' => Ok(Reply::Error(String::from_utf8_lossy(&text).into_owned())),
        b':' => number(&text).map(Reply::Number),
        b'$' => match length(&text, BULK_BYTES_MAX)? {
            None => Ok(Reply::Bulk(None)),
            Some(length) if bytes.len() >= length + 2 => {
                let bulk = bytes.split_to(length);
                bytes.advance(2);
                Ok(Reply::Bulk(Some(bulk)))
            }
            Some(_) => Err(wrong("an answer that ends too soon")),
        },
        b'*' => {
            let count = length(&text, PARTS_MAX)?.unwrap_or(0);
            (0..count).map(|_| take(bytes)).collect::<Result<_, _>>().map(Reply::Parts)
        }
        _ => Err(wrong("an unknown kind of answer")),
    }
}

/// The kind and text of the line that starts here, and where the next one starts.
fn line(bytes: &[u8], at: usize) -> std::io::Result<Option<(u8, &[u8], usize)>> {
    let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
    let within = &rest[..rest.len().min(LINE_BYTES_MAX)];
    match within.iter().position(|byte| *byte == b'\n') {
        Some(end) if end >= 2 && rest[end - 1] == b'\r' => Ok(Some((rest[0], &rest[1..end - 1], at + end + 1))),
        Some(_) => Err(wrong("a line that ends without a carriage return")),
        None if rest.len() >= LINE_BYTES_MAX => Err(wrong("a line without an end")),
        None => Ok(None),
    }
}

/// A length; -1 is none.
fn length(digits: &[u8], max: usize) -> std::io::Result<Option<usize>> {
    let number = number(digits)?;
    if number == -1 {
        return Ok(None);
    }
    usize::try_from(number)
        .ok()
        .filter(|length| *length <= max)
        .map(Some)
        .ok_or_else(|| wrong("a length beyond bounds"))
}

fn number(digits: &[u8]) -> std::io::Result<i64> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or_else(|| wrong("a number that is none"))
}

fn wrong(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, format!("the server sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &'static str) -> Reply {
        Reply::Bulk(Some(Bytes::from_static(text.as_bytes())))
    }

    fn all(bytes: &[u8]) -> Vec<Reply> {
        let (mut buffer, mut replies) = (BytesMut::from(bytes), Vec::new());
        while let Some(reply) = Codec.decode(&mut buffer).expect("decodes") {
            replies.push(reply);
        }
        assert!(buffer.is_empty());
        replies
    }

    #[test]
    fn replies_are_read_whole_however_they_are_cut() {
        let bytes = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\na\r\nb\r\n+OK\r\n-ERR no\r\n:-7\r\n$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n";
        let expected = [
            Reply::Parts(vec![bulk("message"), bulk("c"), bulk("a\r\nb")]),
            Reply::Word(Bytes::from_static(b"OK")),
            Reply::Error("ERR no".to_owned()),
            Reply::Number(-7),
            Reply::Bulk(None),
            Reply::Parts(Vec::new()),
            Reply::Parts(Vec::new()),
            bulk(""),
        ];
        assert_eq!(all(bytes), expected);
        for cut in 0..bytes.len() {
            let (mut buffer, mut replies) = (BytesMut::new(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(reply) = Codec.decode(&mut buffer).expect("decodes") {
                    replies.push(reply);
                }
            }
            assert_eq!(replies, expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_beyond_bounds_ends_the_connection() {
        for bytes in ["$99999999999\r\n", "$-2\r\n", "*1000000\r\n", "*1\r\n*1\r\n:1\r\n", "?1\r\n", ":x\r\n", "+a\n"] {
            let mut buffer = BytesMut::from(bytes);
            let mut outcome = Codec.decode(&mut buffer);
            if matches!(outcome, Ok(None)) {
                buffer.extend_from_slice(b":1\r\n");
                outcome = Codec.decode(&mut buffer);
            }
            assert!(outcome.is_err(), "{bytes:?} gave {outcome:?}");
        }
        assert!(Codec.decode(&mut BytesMut::from(&vec![b'+'; LINE_BYTES_MAX][..])).is_err());
    }
}
