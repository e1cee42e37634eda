//! What goes over a document's channel: new entries (or only their version), and words between pods.
//!
//! The format: a letter, then for `E` the first entry's version, a space, the server's Unix ms, a
//! line feed, and for each entry its length, a space,
//! its hash, a line feed and its bytes; for `T` a version, a space and the server's Unix ms; for
//! `V` a version alone, after `T`, for pods that were built before that; for `P` the sender's pod, a
//! line feed and a peer message of the `protocol` crate. The commit
//! script writes `E`, `T` and `V` itself. A notice is a hint: the log is the truth.

use std::sync::Arc;

use bytes::Bytes;
use document::{Point, Version};

use super::StoredEntry;

/// A message of a document's channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Entries that were just committed.
    Entries {
        /// In order.
        entries: Vec<StoredEntry>,
        /// When, in Unix milliseconds of the store.
        at_ms: u64,
    },
    /// This version was committed; the entries were too many to send.
    Version {
        /// The last one.
        version: Version,
        /// When, in Unix milliseconds of the store.
        at_ms: Option<u64>,
    },
    /// A pod's word, opaque here.
    Peer {
        /// Who says it: a pod hears itself too.
        pod: Arc<str>,
        /// A message of the `protocol` crate.
        message: Bytes,
    },
}

impl Notice {
    /// Reads a message; `None` if it is none of ours, which is no reason to trust less in the log.
    pub fn decode(message: &Bytes) -> Option<Self> {
        match message.first()? {
            b'E' => entries(&message.slice(1..)),
            b'T' => {
                let space = message.iter().position(|byte| *byte == b' ')?;
                let (version, at_ms) = (number(&message[1..space])?, number(&message[space + 1..])?);
                Some(Notice::Version { version, at_ms: Some(at_ms) })
            }
            b'V' => Some(Notice::Version { version: number(&message[1..])?, at_ms: None }),
            b'P' => {
                let (pod, start) = line(message, 1)?;
                let pod = std::str::from_utf8(pod).ok()?.into();
                Some(Notice::Peer { pod, message: message.slice(start..) })
            }
            _ => None,
        }
    }

    /// Writes a message.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Notice::Entries { entries, at_ms } => {
                let first = entries.first().map_or(0, |entry| entry.at.version);
                out.extend_from_slice(format!("E{first} {at_ms}\n").as_bytes());
                for entry in entries {
                    out.extend_from_slice(format!("{} {}\n", entry.bytes.len(), entry.at.hash).as_bytes());
                    out.extend_from_slice(&entry.bytes);
                }
            }
            Notice::Version { version, at_ms: Some(at_ms) } => {
                out.extend_from_slice(format!("T{version} {at_ms}").as_bytes());
            }
            Notice::Version { version, at_ms: None } => out.extend_from_slice(format!("V{version}").as_bytes()),
            Notice::Peer { pod, message } => {
                out.extend_from_slice(format!("P{pod}\n").as_bytes());
                out.extend_from_slice(message);
            }
        }
        out.into()
    }

    /// The last version it tells of, 0 for none: a reader that has it need not look further.
    pub fn last_version(&self) -> Version {
        match self {
            Notice::Entries { entries, .. } => entries.last().map_or(0, |entry| entry.at.version),
            Notice::Version { version, .. } => *version,
            Notice::Peer { .. } => 0,
        }
    }
}

fn entries(message: &Bytes) -> Option<Notice> {
    let (line, mut at) = line(message, 0)?;
    let space = line.iter().position(|byte| *byte == b' ')?;
    let mut version: Version = number(&line[..space])?;
    let at_ms = number(&line[space + 1..])?;
    let mut entries = Vec::new();
    while at < message.len() {
        let (head, start) = self::line(message, at)?;
        let space = head.iter().position(|byte| *byte == b' ')?;
        let length = usize::try_from(number(&head[..space])?).ok()?;
        let hash: Arc<str> = std::str::from_utf8(&head[space + 1..]).ok()?.into();
        let end = start.checked_add(length).filter(|end| *end <= message.len())?;
        entries.push(StoredEntry { at: Point { version, hash }, bytes: message.slice(start..end) });
        version = version.checked_add(1)?;
        at = end;
    }
    Some(Notice::Entries { entries, at_ms })
}

/// The bytes up to the next line feed, and where the next line starts.
fn line(message: &Bytes, at: usize) -> Option<(&[u8], usize)> {
    let rest = message.get(at..)?;
    let length = rest.iter().position(|byte| *byte == b'\n')?;
    Some((&rest[..length], at + length + 1))
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_reads_back_as_it_was_written() {
        let entry = |version, bytes: &'static [u8]| StoredEntry {
            at: Point { version, hash: "0123456789a".into() },
            bytes: Bytes::from_static(bytes),
        };
        let notices = [
            Notice::Entries { entries: vec![entry(7, b"one\n12 x"), entry(8, b""), entry(9, b"\xff\x00")], at_ms: 5 },
            Notice::Version { version: u64::MAX, at_ms: None },
            Notice::Version { version: 7, at_ms: Some(u64::MAX) },
            Notice::Peer { pod: "p1".into(), message: Bytes::from_static(b"peer\n") },
        ];
        for notice in notices {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
    }

    #[test]
    fn what_is_cut_short_is_no_notice() {
        let at = Point { version: 1, hash: "0123456789a".into() };
        let entries = vec![StoredEntry { at, bytes: Bytes::from_static(b"entry") }];
        let whole = Notice::Entries { entries, at_ms: 5 }.encode();
        // Without its only entry it is a notice of nothing.
        let empty = "E1 5\n".len();
        for cut in (0..whole.len()).filter(|cut| *cut != empty) {
            assert_eq!(Notice::decode(&whole.slice(..cut)), None, "cut at {cut}");
        }
        for wrong in ["E1 5\n99999999999999999999 x\n", "T7", "T7 ", "T 7", "T7 8 9", "V", "V7 8"] {
            assert_eq!(Notice::decode(&Bytes::from_static(wrong.as_bytes())), None, "{wrong}");
        }
    }
}
