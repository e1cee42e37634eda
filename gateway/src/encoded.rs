//! One text for any number of connections, each frame of it made at most once.
//!
//! In: the text of a message. Out: the plain frame, or the compressed one for connections that agreed to it, both made
//! when somebody first needs them and charged to the pod's budget until the last receiver has them.

use std::{
    borrow::Cow,
    cell::{Cell, OnceCell},
};

use bytes::Bytes;
use websocket::Deflate;

use crate::{budget::Budget, metrics::Metrics};

/// Smaller texts are sent as they are: compressed they would be some ten bytes shorter and fill a packet no better, and
/// each costs some ten microseconds here and in every client.
pub const DEFLATE_BYTES_MIN: usize = 256;

/// A text message on its way to many.
#[derive(Debug)]
pub struct Encoded<'a> {
    text: Cow<'a, str>,
    budget: &'a Budget,
    metrics: &'a Metrics,
    plain: OnceCell<Bytes>,
    /// None inside: it would not be smaller.
    deflated: OnceCell<Option<Bytes>>,
    /// Bytes that receivers were spared.
    saved: Cell<u64>,
}

impl<'a> Encoded<'a> {
    /// Nothing is encoded yet.
    pub fn new(text: impl Into<Cow<'a, str>>, budget: &'a Budget, metrics: &'a Metrics) -> Encoded<'a> {
        let (plain, deflated) = (OnceCell::new(), OnceCell::new());
        Encoded { text: text.into(), budget, metrics, plain, deflated, saved: Cell::new(0) }
    }

    /// The frame for a connection with these terms.
    pub fn frame(&self, terms: Option<Deflate>) -> Bytes {
        self.small_frame(terms)
            .unwrap_or_else(|| self.plain.get_or_init(|| self.budget.frame(websocket::text_frame(&self.text))).clone())
    }

    fn small_frame(&self, terms: Option<Deflate>) -> Option<Bytes> {
        if self.text.len() < DEFLATE_BYTES_MIN || !terms?.fits(self.text.len()) {
            return None;
        }
        let deflate = || websocket::deflated_text_frame(&self.text).map(|frame| self.budget.frame(frame));
        let frame = self.deflated.get_or_init(deflate).clone()?;
        let saved = self.text.len().saturating_sub(frame.len());
        self.saved.set(self.saved.get() + u64::try_from(saved).unwrap_or(0));
        Some(frame)
    }
}

impl Drop for Encoded<'_> {
    fn drop(&mut self) {
        // Once for all receivers: they share the counter with every other thread.
        if self.saved.get() > 0 {
            self.metrics.compression_saved_bytes.inc_by(self.saved.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(offer: &str) -> Option<Deflate> {
        Some(Deflate::negotiate([offer]).expect("accepted"))
    }

    #[test]
    fn each_frame_is_made_once_and_only_if_somebody_wants_it() {
        let metrics = Metrics::default();
        let budget = Budget::new(1 << 20, &metrics);
        let text = "everybody gets the same edit; ".repeat(100);
        let deflate = terms("permessage-deflate");
        let encoded = Encoded::new(&*text, &budget, &metrics);
        assert_eq!(budget.held(), 0);
        let small = encoded.frame(deflate);
        let held_small = budget.held();
        assert!(small[0] == 0xc1 && held_small < text.len(), "{held_small}");
        let again = encoded.frame(deflate);
        assert_eq!((again.as_ptr(), budget.held()), (small.as_ptr(), held_small), "shared");
        let plain = encoded.frame(None);
        assert!(plain[0] == 0x81 && plain.len() > text.len() && budget.held() > held_small + text.len());
        assert_eq!(encoded.frame(None).as_ptr(), plain.as_ptr());
        assert_eq!(metrics.compression_saved_bytes.get(), 0);
        drop(encoded);
        assert_eq!(metrics.compression_saved_bytes.get(), 2 * (text.len() - small.len()) as u64);
        drop(plain);
        assert_eq!(budget.held(), held_small);
        drop((small, again));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn what_is_short_or_beyond_a_small_window_or_not_smaller_is_sent_as_it_is() {
        let metrics = Metrics::default();
        let budget = Budget::new(1 << 20, &metrics);
        let first = |text: &str, offer: &str| Encoded::new(text, &budget, &metrics).frame(terms(offer))[0];
        let narrow = "permessage-deflate; server_max_window_bits=9";
        assert_eq!(first(&"x".repeat(DEFLATE_BYTES_MIN - 1), "permessage-deflate"), 0x81);
        assert_eq!(first(&"x".repeat(DEFLATE_BYTES_MIN), "permessage-deflate"), 0xc1);
        assert_eq!(first(&"x".repeat(512), narrow), 0xc1);
        assert_eq!(first(&"x".repeat(513), narrow), 0x81);
        // Of 128 characters in no order, for which a table costs more than it saves.
        let mut state = 0x9e37_79b9_u32;
        let next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            char::from((state % 128) as u8)
        };
        let noise: String = std::iter::repeat_with(next).take(DEFLATE_BYTES_MIN).collect();
        assert_eq!(first(&noise, "permessage-deflate"), 0x81);
    }
}
