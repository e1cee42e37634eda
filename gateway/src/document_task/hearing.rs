//! The task's part in what comes over the document's channel.
//!
//! In: notices of other pods, and that some may be missing. Out: what the document learns of them; where they do not follow
//! from what it has, questions to the log, which is the truth.

use document::{Document, Input};

use super::{End, Flow, Task, now_ms};
use crate::{
    bus::Heard,
    document_io as io,
    store::{Notice, continues},
};

impl Task {
    pub(super) fn hear(&mut self, document: &mut Document, heard: Option<Heard>) -> Flow {
        let Some(heard) = heard else {
            return Err(End::Reopen);
        };
        let message = match heard {
            Heard::Message(message) => message,
            Heard::Missed => {
                self.ask_the_log(document);
                return self.feed(document, Input::Missed);
            }
        };
        let head = document.head().version;
        match Notice::decode(&message) {
            Some(Notice::Entries { mut entries, at_ms }) => {
                if let Some(last) = entries.last() {
                    self.deliveries.told(last.at.version, at_ms);
                }
                // Mostly this pod's own batch, whose answer was quicker: its edits were written about now.
                entries.retain(|entry| entry.at.version > head);
                if entries.is_empty() {
                    self.observe_deliveries(document);
                    return Ok(());
                }
                if !continues(document.head(), &entries) {
                    // This copy or the sender's is of a history that a failover ended.
                    self.ask_the_log(document);
                    return Ok(());
                }
                let entries = io::decode_entries(&entries).map_err(End::Broken)?;
                self.feed(document, Input::Learned(entries))
            }
            Some(Notice::Version { version, at_ms }) => {
                self.deliveries.told(version, at_ms.unwrap_or_else(now_ms));
                if version > head {
                    return self.feed(document, Input::Hint(version));
                }
                self.observe_deliveries(document);
                Ok(())
            }
            Some(Notice::Peer { pod, message }) if pod != *self.inner.parts.lease.pod() => {
                let Some(peer) = std::str::from_utf8(&message).ok().and_then(|text| protocol::decode_peer(text).ok())
                else {
                    return Ok(());
                };
                self.feed(document, Input::Peer { pod, peer })
            }
            Some(Notice::Peer { .. }) | None => Ok(()),
        }
    }
}
