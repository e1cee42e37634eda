//! What clients may make this pod remember, all of them together.
//!
//! In: bytes that somebody begins or ceases to hold: frames until the last receiver has them, messages that are half here,
//! edits that wait for the store. Out: whether there is room. Beyond the budget nothing that was acknowledged is lost and
//! no edit is refused: edits are read later, joins are `OVERLOADED`, and connections that hold more than a fair share end
//! with a transport that closes, after which they come back. Open documents have a budget of their own, so that many of
//! them never keep edits waiting; what happens beyond it is told in `documents.rs`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

use crate::metrics::{Held, Metrics};

/// Of a half message: beyond the budget whoever has more is closed when more comes. Few honest messages are larger.
pub const INBOX_FAIR_BYTES: usize = 4 * 1024;
/// Of frames in line: beyond the budget whoever has more is closed when another frame comes. A socket's own buffers hold
/// far more, so that only those who do not read have that much.
pub const OUTBOX_FAIR_BYTES: usize = 16 * 1024;
/// What a frame costs besides its bytes: its owner, its count, its place in a queue, and what the allocator adds.
const FRAME_OVERHEAD_BYTES: usize = 160;

/// What bytes are held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Encoded frames, counted once however many receivers share them.
    Frames,
    /// Messages whose end has not come yet.
    Inbox,
    /// Edits that wait: before their join, for the store, or for room in a document's mailbox.
    Edits,
    /// Open documents: content, history, and what a document needs besides.
    Documents,
}

/// The account of one pod; clones are the same.
#[derive(Debug, Clone)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    most: AtomicUsize,
    held: AtomicUsize,
    /// By use, for people.
    gauges: [Gauge; 4],
    /// Wakes those who wait for room.
    room: Notify,
}

/// Bytes that somebody holds; dropping it gives them back.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    what: Use,
    bytes: usize,
}

/// A frame with its charge.
struct Charged {
    frame: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Budget {
    /// Room for so many bytes.
    pub fn new(most: usize, metrics: &Metrics) -> Budget {
        let gauge = |what| metrics.held_bytes.get_or_create(&Held { what }).clone();
        let gauges = ["frames", "inbox", "edits", "documents"].map(gauge);
        let inner = Inner { most: AtomicUsize::new(most), held: AtomicUsize::new(0), gauges, room: Notify::new() };
        Budget { inner: Arc::new(inner) }
    }

    /// From now on there is room for so many.
    pub fn set_most(&self, most: usize) {
        self.inner.most.store(most, Ordering::Relaxed);
        self.inner.room.notify_waiters();
    }

    /// Nothing yet, of this use.
    pub fn charge(&self, what: Use) -> Charge {
        Charge { budget: self.clone(), what, bytes: 0 }
    }

    /// The same frame, charged until the last clone of it is gone.
    pub fn frame(&self, frame: Bytes) -> Bytes {
        let mut charge = self.charge(Use::Frames);
        charge.set(frame.len() + FRAME_OVERHEAD_BYTES);
        Bytes::from_owner(Charged { frame, _charge: charge })
    }

    /// Bytes that are held now.
    pub fn held(&self) -> usize {
        self.inner.held.load(Ordering::Relaxed)
    }

    /// Whether all of it is used.
    pub fn is_over(&self) -> bool {
        self.excess() > 0
    }

    /// How many bytes are held beyond it.
    pub fn excess(&self) -> usize {
        self.held().saturating_sub(self.most())
    }

    /// What there is room for.
    pub fn most(&self) -> usize {
        self.inner.most.load(Ordering::Relaxed)
    }

    /// Whether more than half of it is used.
    pub fn is_tight(&self) -> bool {
        self.held() > self.most() / 2
    }

    /// Waits until there is room.
    pub async fn room(&self) {
        loop {
            let room = self.inner.room.notified();
            tokio::pin!(room);
            // Before looking, so that nothing is missed in between.
            room.as_mut().enable();
            if !self.is_over() {
                return;
            }
            room.await;
        }
    }
}

impl Charge {
    /// How many are held now.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many are held now.
    pub fn set(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        let inner = &self.budget.inner;
        let gauge = &inner.gauges[self.what as usize];
        // Sizes of what is in memory fit into i64.
        let signed = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            inner.held.fetch_add(more, Ordering::Relaxed);
            gauge.inc_by(signed(more));
        } else {
            let less = self.bytes - bytes;
            let before = inner.held.fetch_sub(less, Ordering::Relaxed);
            gauge.dec_by(signed(less));
            let most = inner.most.load(Ordering::Relaxed);
            if before > most && before - less <= most {
                inner.room.notify_waiters();
            }
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_counted_and_given_back() {
        let metrics = Metrics::default();
        let budget = Budget::new(1000, &metrics);
        let mut inbox = budget.charge(Use::Inbox);
        inbox.set(300);
        inbox.set(200);
        let mut edits = budget.charge(Use::Edits);
        edits.set(900);
        assert_eq!((budget.held(), budget.is_over()), (1100, true));
        assert!(metrics.text().contains("collab_gateway_held_bytes{what=\"edits\"} 900"), "{}", metrics.text());
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(edits);
        waiting.await.expect("woken");
        assert_eq!((budget.held(), budget.is_tight()), (200, false));
        budget.set_most(100);
        assert!(budget.is_over());
    }

    #[test]
    fn a_frame_is_counted_once_until_its_last_receiver_has_it() {
        let budget = Budget::new(1000, &Metrics::default());
        let frame = budget.frame(Bytes::from_static(b"hello"));
        let mut others = vec![frame.clone(); 100];
        assert_eq!((&frame[..], budget.held()), (&b"hello"[..], 5 + FRAME_OVERHEAD_BYTES));
        drop(frame);
        let part = others[0].slice(2..);
        others.clear();
        assert_eq!((&part[..], budget.held()), (&b"llo"[..], 5 + FRAME_OVERHEAD_BYTES), "a part holds the whole");
        drop(part);
        assert_eq!(budget.held(), 0);
    }
}
