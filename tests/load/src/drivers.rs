//! What a client says to each kind of server.
//!
//! In: a server's texts, the wish to edit. Out: frames to send, and what happened. An edit puts a stamp in the place of as
//! many characters, each editor where no other does: what two delete at once would be missing once and inserted twice. So
//! documents keep their size; whoever receives an edit reads the stamp.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::frames;

/// What stands before the microseconds in a stamp.
const STAMP_MARK: &str = "@us:";
/// Digits of Unix time in microseconds, padded.
const STAMP_DIGITS: usize = 16;
/// Characters of a whole stamp.
pub const STAMP_CHARS: usize = STAMP_MARK.len() + STAMP_DIGITS;

/// What a server's message meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// Nothing that is counted.
    Other,
    /// The document is here.
    Joined,
    /// Somebody else's edit, sent at this Unix time in microseconds.
    Delivered(u64),
    /// The server took an own edit.
    Confirmed,
}

/// One client of one kind of server.
pub trait Driver {
    /// The upgrade request; none where the server speaks frames at once.
    fn request(&self) -> Option<String>;
    /// After the upgrade.
    fn opened(&mut self, out: &mut Vec<u8>);
    /// Reads one text message.
    ///
    /// # Errors
    /// When the server refused something: then the figures would mean nothing.
    fn received(&mut self, text: &str, out: &mut Vec<u8>) -> Result<Happening>;
    /// Sends an edit; false if this kind of client must wait for the answer to its last one, or has not joined.
    fn edit(&mut self, out: &mut Vec<u8>) -> bool;
    /// Leaves its document for another; false if it has only one.
    fn moves(&mut self, out: &mut Vec<u8>) -> bool {
        let _ = out;
        false
    }
}

/// Who a client is and what it joins.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Unique in a run.
    pub client_id: String,
    /// Signed.
    pub token: String,
    /// Which document.
    pub document_id: String,
    /// Which of the places in it is this editor's.
    pub place: usize,
}

impl Identity {
    /// The edit that is due now, as JSON.
    fn ops(&self) -> String {
        // Never 0, which no `retain` may be.
        let at = 1 + self.place * STAMP_CHARS;
        format!(r#"[{{"retain":{at}}},{{"insert":"{}"}},{{"delete":{STAMP_CHARS}}}]"#, stamp())
    }
}

/// Now, as edits carry it.
pub fn stamp() -> String {
    format!("{STAMP_MARK}{:016}", now_us())
}

/// Unix time in microseconds.
pub fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// When the edit in this text was sent.
pub fn stamp_in(text: &str) -> Option<u64> {
    let at = text.find(STAMP_MARK)? + STAMP_MARK.len();
    text.get(at..at + STAMP_DIGITS)?.parse().ok()
}

/// The number after `"name":`; the messages that are read here hold each name once.
fn number(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(name)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The gateway, and the Socket.IO server of the usual design, which speaks the same events.
#[derive(Debug)]
pub struct SocketIo {
    identity: Identity,
    version: u64,
    seq: u64,
    /// Where it will go.
    next: Option<String>,
    /// What its document's events hold, after a move: those of the former may be under way.
    only: Option<String>,
    is_joining: bool,
}

impl SocketIo {
    /// A client that has not connected yet.
    pub fn new(identity: Identity) -> Self {
        Self { identity, version: 0, seq: 0, next: None, only: None, is_joining: false }
    }

    /// One that goes to another document when it is told to.
    pub fn visiting(identity: Identity, next: String) -> Self {
        Self { next: Some(next), ..Self::new(identity) }
    }

    fn join(&self, out: &mut Vec<u8>) {
        let document_id = &self.identity.document_id;
        frames::text(out, &format!(r#"42["join-document",{{"documentId":"{document_id}"}}]"#));
    }
}

impl Driver for SocketIo {
    fn request(&self) -> Option<String> {
        Some(frames::request("/socket.io/?EIO=4&transport=websocket", None))
    }

    fn opened(&mut self, out: &mut Vec<u8>) {
        let Identity { token, client_id, .. } = &self.identity;
        frames::text(out, &format!(r#"40{{"token":"{token}","clientId":"{client_id}"}}"#));
    }

    fn received(&mut self, text: &str, out: &mut Vec<u8>) -> Result<Happening> {
        let is_elsewhere = self.only.as_ref().is_some_and(|only| text.starts_with("42") && !text.contains(only));
        if is_elsewhere && !text.starts_with(r#"42["error","#) {
            return Ok(Happening::Other);
        }
        if text.starts_with(r#"42["edit","#) {
            self.version = number(text, r#""version":"#).unwrap_or(self.version);
            return Ok(stamp_in(text).map_or(Happening::Other, Happening::Delivered));
        }
        if text.starts_with(r#"42["edit-committed","#) {
            self.version = number(text, r#""version":"#).unwrap_or(self.version);
            return Ok(Happening::Confirmed);
        }
        if text.starts_with(r#"42["document-joined","#) {
            self.is_joining = false;
            self.version = number(text, r#""version":"#).unwrap_or(self.version);
            return Ok(Happening::Joined);
        }
        match text.as_bytes() {
            b"2" => frames::text(out, "3"),
            [b'4', b'0', ..] => self.join(out),
            [b'4', b'4', ..] => bail!("refused: {text}"),
            _ if text.starts_with(r#"42["error","#) || text.starts_with(r#"42["rejoin","#) => bail!("refused: {text}"),
            _ => {}
        }
        Ok(Happening::Other)
    }

    fn edit(&mut self, out: &mut Vec<u8>) -> bool {
        if self.is_joining {
            return false;
        }
        self.seq += 1;
        let (document_id, ops, Self { version, seq, .. }) = (&self.identity.document_id, self.identity.ops(), &*self);
        frames::text(
            out,
            &format!(r#"42["edit",{{"documentId":"{document_id}","version":{version},"ops":{ops},"seq":{seq}}}]"#),
        );
        true
    }

    fn moves(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(next) = self.next.take() else { return false };
        let former = std::mem::replace(&mut self.identity.document_id, next);
        frames::text(out, &format!(r#"42["leave-document","{former}"]"#));
        self.only = Some(format!(r#""documentId":"{}""#, self.identity.document_id));
        (self.seq, self.is_joining) = (0, true);
        self.join(out);
        true
    }
}

/// ShareDB's JSON over WebSocket.
#[derive(Debug)]
pub struct ShareDb {
    identity: Identity,
    version: u64,
    seq: u64,
    in_flight: bool,
}

impl ShareDb {
    /// A client that has not connected yet.
    pub fn new(identity: Identity) -> Self {
        Self { identity, version: 0, seq: 0, in_flight: false }
    }
}

impl Driver for ShareDb {
    fn request(&self) -> Option<String> {
        Some(frames::request(&format!("/?token={}", self.identity.token), None))
    }

    fn opened(&mut self, out: &mut Vec<u8>) {
        frames::text(out, r#"{"a":"hs","id":null,"protocol":1,"protocolMinor":2}"#);
    }

    fn received(&mut self, text: &str, out: &mut Vec<u8>) -> Result<Happening> {
        if text.contains(r#""error":"#) {
            bail!("refused: {text}");
        }
        if text.contains(r#""a":"op""#) {
            self.version = number(text, r#""v":"#).map_or(self.version, |version| version + 1);
            if text.contains(r#""op":"#) {
                return Ok(stamp_in(text).map_or(Happening::Other, Happening::Delivered));
            }
            self.in_flight = false;
            return Ok(Happening::Confirmed);
        }
        if text.contains(r#""a":"hs""#) {
            let document_id = &self.identity.document_id;
            frames::text(out, &format!(r#"{{"a":"s","c":"documents","d":"{document_id}"}}"#));
        } else if text.contains(r#""a":"s""#) {
            self.version = number(text, r#""v":"#).unwrap_or(0);
            return Ok(Happening::Joined);
        }
        Ok(Happening::Other)
    }

    fn edit(&mut self, out: &mut Vec<u8>) -> bool {
        // ShareDB's client keeps what is typed meanwhile and sends it composed.
        if std::mem::replace(&mut self.in_flight, true) {
            return false;
        }
        self.seq += 1;
        let (document_id, ops, Self { version, seq, .. }) = (&self.identity.document_id, self.identity.ops(), &*self);
        frames::text(
            out,
            &format!(
                r#"{{"a":"op","c":"documents","d":"{document_id}","v":{version},"seq":{seq},"x":{{}},"op":{ops}}}"#
            ),
        );
        true
    }
}

/// Centrifugo's JSON protocol: a channel for each document.
#[derive(Debug)]
pub struct Centrifugo {
    identity: Identity,
    id: u64,
}

impl Centrifugo {
    /// A client that has not connected yet.
    pub fn new(identity: Identity) -> Self {
        Self { identity, id: 2 }
    }
}

impl Driver for Centrifugo {
    fn request(&self) -> Option<String> {
        Some(frames::request("/connection/websocket", None))
    }

    fn opened(&mut self, out: &mut Vec<u8>) {
        frames::text(out, &format!(r#"{{"id":1,"connect":{{"token":"{}"}}}}"#, self.identity.token));
    }

    fn received(&mut self, text: &str, out: &mut Vec<u8>) -> Result<Happening> {
        let mut happened = Happening::Other;
        // One frame may hold several messages; among pushed ones only the last is counted, and they come alone.
        for message in text.lines() {
            if message.contains(r#""error":"#) {
                bail!("refused: {message}");
            }
            if message == "{}" {
                frames::text(out, "{}");
            } else if message.contains(r#""pub":"#) {
                // A publisher hears itself, too.
                let own = message.contains(&format!(r#""clientId":"{}""#, self.identity.client_id));
                if !own {
                    happened = stamp_in(message).map_or(Happening::Other, Happening::Delivered);
                }
            } else if message.contains(r#""connect":"#) {
                frames::text(out, &format!(r#"{{"id":2,"subscribe":{{"channel":"{}"}}}}"#, self.identity.document_id));
            } else if message.contains(r#""subscribe":"#) {
                happened = Happening::Joined;
            } else if message.contains(r#""publish":"#) {
                happened = Happening::Confirmed;
            }
        }
        Ok(happened)
    }

    fn edit(&mut self, out: &mut Vec<u8>) -> bool {
        self.id += 1;
        let (Identity { document_id, client_id, .. }, ops, id) = (&self.identity, self.identity.ops(), self.id);
        frames::text(
            out,
            &format!(
                r#"{{"id":{id},"publish":{{"channel":"{document_id}","data":{{"documentId":"{document_id}","clientId":"{client_id}","ops":{ops}}}}}}}"#
            ),
        );
        true
    }
}

/// The loop that only sends (`bare.rs`): there is nothing to ask for.
#[derive(Debug, Default)]
pub struct Listener;

impl Driver for Listener {
    fn request(&self) -> Option<String> {
        None
    }

    fn opened(&mut self, out: &mut Vec<u8>) {
        // A byte that shows that somebody is there; nobody reads more of it.
        out.push(0);
    }

    fn received(&mut self, text: &str, _: &mut Vec<u8>) -> Result<Happening> {
        Ok(stamp_in(text).map_or(Happening::Joined, Happening::Delivered))
    }

    fn edit(&mut self, _: &mut Vec<u8>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{Driver, Happening, Identity, SocketIo, stamp, stamp_in};

    #[test]
    fn an_edit_is_read_with_its_version_and_its_time() {
        let identity = Identity { client_id: "c".into(), token: "t".into(), document_id: "d".into(), place: 0 };
        let mut client = SocketIo::new(identity);
        let stamp = stamp();
        let us = stamp_in(&stamp).unwrap();
        let text = format!(r#"42["edit",{{"documentId":"d","version":17,"ops":[{{"insert":"{stamp}"}}],"seq":4}}]"#);
        assert_eq!(client.received(&text, &mut Vec::new()).unwrap(), Happening::Delivered(us));
        assert_eq!(client.version, 17);
        assert!(client.received(r#"42["error",{"code":"X"}]"#, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_visitor_that_moved_hears_of_its_new_document_only() {
        let identity = Identity { client_id: "c".into(), token: "t".into(), document_id: "d1".into(), place: 1 };
        let (mut client, out) = (SocketIo::visiting(identity, "d2".into()), &mut Vec::new());
        let joined =
            |id: &str, version: u64| format!(r#"42["document-joined",{{"documentId":"{id}","version":{version}}}]"#);
        assert_eq!(client.received(&joined("d1", 5), out).unwrap(), Happening::Joined);
        assert!(client.moves(out) && !client.edit(out), "it has not joined yet");
        let late = r#"42["edit-committed",{"documentId":"d1","version":6,"seq":1}]"#;
        assert_eq!(client.received(late, out).unwrap(), Happening::Other);
        assert_eq!(client.received(&joined("d2", 2), out).unwrap(), Happening::Joined);
        assert!(client.edit(out) && !client.moves(out));
        assert_eq!((client.version, client.seq), (2, 1));
    }
}
