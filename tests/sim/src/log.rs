//! Entries as the simulated store keeps them.
//!
//! In: entries of the product. Out: their sizes and hashes. The hash stands in for the SHA-1 of the real one: equal
//! chains give equal hashes, and others do not.

use std::sync::Arc;

use document::{Entry, Logged, Snapshot};
use ot::Op;

use crate::store::{Kept, New, Payload, Store};

/// The store of a simulated document.
pub(crate) type Log = Store<Entry, Snapshot>;

/// Names and numbers around the operations, as the pods count them.
const FRAME_BYTES: usize = 160;

impl Payload for Entry {
    fn bytes(&self) -> usize {
        self.ops.weight_bytes() + FRAME_BYTES
    }

    fn hash_after(&self, before: &str) -> Arc<str> {
        let mut hash = Fnv(0xCBF2_9CE4_8422_2325);
        hash.text(before);
        hash.text(&self.identity.id);
        hash.number(self.identity.seq);
        hash.text(&self.session);
        hash.number(self.base);
        for op in self.ops.ops() {
            match op {
                Op::Insert { text, attributes } => {
                    hash.text(text);
                    attributes.iter().for_each(|map| hash.text(&format!("{map:?}")));
                }
                Op::Embed { value, .. } => hash.text(&value.to_string()),
                Op::Retain { length, attributes } => {
                    hash.number(*length as u64);
                    attributes.iter().for_each(|map| hash.text(&format!("{map:?}")));
                }
                Op::Delete { length } => hash.number(*length as u64 | 1 << 40),
            }
        }
        format!("{:011x}", hash.0 >> 20).into()
    }
}

/// A batch of the product as the store takes it.
pub(crate) fn new_entries(entries: &[Entry]) -> Vec<New<Entry>> {
    let new = |entry: &Entry| New {
        identity: entry.identity.clone(),
        owner: entry.user_id.clone(),
        base: entry.base,
        payload: entry.clone(),
    };
    entries.iter().map(new).collect()
}

/// Entries as pods read them.
pub(crate) fn logged(entries: Vec<Kept<Entry>>) -> Vec<Logged> {
    entries.into_iter().map(|kept| Logged { at: kept.at, entry: kept.payload }).collect()
}

struct Fnv(u64);

impl Fnv {
    fn number(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(17);
    }

    fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        self.number(text.len() as u64);
    }
}
