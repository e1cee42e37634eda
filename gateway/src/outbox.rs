//! What waits to be written to one connection.
//!
//! In: encoded frames from any task. Out: frames on the socket at once where it takes them, which spares the owner's task
//! a wake-up for nearly every message; the rest when the owner finds that it takes more. Pushing never waits, so that
//! nobody else ever waits for a connection that cannot keep up: of its edits some wait, and the document is told to hold
//! the later ones back until these are out; of a cursor only the latest waits; what remains closes it. Whatever the socket
//! has not taken is counted here: of each class no more than its bound, or one frame that is larger.

mod hint;

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Poll, Waker},
};

use bytes::{Buf, Bytes};
use document::ConnectionId;
use futures_util::task::AtomicWaker;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use websocket::Deflate;

use crate::{
    budget::{Budget, OUTBOX_FAIR_BYTES},
    encoded::Encoded,
    metrics::Metrics,
    stream::Stream,
};

/// Bytes of answers, of people who come and go, and of edits in the answer to a join that may wait; beyond that the
/// connection is closed. One frame is always taken, whatever its size.
pub const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of edits that may wait: a slow phone's minute of editing by others. One edit is always taken.
pub const EDIT_BYTES_MAX: usize = 256 * 1024;

/// When so few are left the document sends on.
const EDIT_BYTES_LOW: usize = EDIT_BYTES_MAX / 2;

/// Bytes of cursors and typing that may wait, the latest of each; a cursor beyond that is not shown until it moves again.
pub const LATEST_BYTES_MAX: usize = 128 * 1024;

/// Bytes of snapshots that may wait: a join waits until the snapshot before it is out, but joins that were under way
/// already overlap.
pub const SNAPSHOT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Frames that may wait, however small: each is some hundred bytes in memory.
pub const FRAMES_WAITING_MAX: usize = 8192;

/// Frames that one write takes: enough to fill a segment with small ones, few enough for the stack.
const FRAMES_PER_WRITE: usize = 64;

/// How a connection ends. The first reason stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A WebSocket close frame with this code, after what waits. Stock clients reconnect by themselves.
    Transport {
        /// Of RFC 6455 section 7.4 or its registry.
        code: u16,
        /// For people; may be empty.
        reason: &'static str,
    },
    /// Socket.IO's DISCONNECT, after what waits. Stock clients do not come back by themselves.
    Disconnect,
    /// At once: the peer does not read or is gone.
    Drop,
}

/// How far a write of the owner came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing waits.
    Done,
    /// The socket takes no more now.
    Full {
        /// Whether it took anything since the owner's write before, whoever wrote it.
        took: bool,
    },
    /// The socket failed.
    Failed,
    /// Nothing waits any more, and the connection is to end.
    Over(Ending),
}

/// A handle to one connection; clones mean the same connection.
#[derive(Debug, Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: ConnectionId,
    queue: Mutex<Queue>,
    /// Wakes the owner to write, to read again, to go on with joins, or to end.
    owner: AtomicWaker,
    paused: AtomicBool,
    settling: AtomicBool,
    /// Terms of compression as a byte, 0 without.
    deflate: AtomicU8,
    /// What all connections of the pod share: their counters, and their memory.
    common: Common,
}

/// What all outboxes of a pod share; clones are the same.
#[derive(Debug, Clone)]
pub struct Common {
    inner: Arc<(Budget, Metrics)>,
}

impl Common {
    /// The pod's memory and counters.
    pub fn new(budget: Budget, metrics: Metrics) -> Common {
        Common { inner: Arc::new((budget, metrics)) }
    }

    /// The pod's memory.
    pub fn budget(&self) -> &Budget {
        &self.inner.0
    }

    /// The pod's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.1
    }
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    waiting: Waiting,
    /// Documents that hold edits back; the connection's number of documents bounds it.
    held_back: Vec<Arc<Notify>>,
    ending: Option<Ending>,
    /// Who is told when everything that was read is answered.
    settled: Option<mpsc::UnboundedSender<ConnectionId>>,
    /// Documents that stop the reading; the connection's number of documents bounds it.
    paused_by: Vec<Arc<str>>,
    /// Where anybody may write at once.
    socket: Option<Arc<Stream>>,
    /// The socket took no more: the owner waits until it does, and nobody else need try.
    is_full: bool,
    /// It took something since the owner's last write.
    took: bool,
    /// CONNECT was answered: before that no event may be said.
    is_connected: bool,
    /// A hint that waits for that: when the connection will be closed.
    hint: Option<Instant>,
}

#[derive(Debug)]
struct Frame {
    bytes: Bytes,
    class: Class,
    /// A part of it is written: it must stay what it is.
    is_begun: bool,
}

/// What is done with a frame that a slow connection does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It waits, and too much of it closes the connection.
    Must,
    /// The same, with a limit of its own: the content of a join.
    Snapshot,
    /// The document sends it again later; see [`Outbox::push_edit_later`].
    Edit,
    /// It replaces the one of the same key that waits; where too many wait it is dropped.
    Latest(u64),
    /// It replaces the one of the same key, but must arrive.
    LatestMust(u64),
}

/// Bytes that wait, by class: what the socket has not taken yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Of [`Class::Must`] and [`Class::LatestMust`].
    pub must: usize,
    /// Of [`Class::Snapshot`].
    pub snapshot: usize,
    /// Of [`Class::Edit`].
    pub edit: usize,
    /// Of [`Class::Latest`].
    pub latest: usize,
}

impl Waiting {
    /// All of them.
    pub fn bytes(&self) -> usize {
        self.must + self.snapshot + self.edit + self.latest
    }

    fn of(&mut self, class: Class) -> (&mut usize, usize) {
        match class {
            Class::Must | Class::LatestMust(_) => (&mut self.must, WAITING_BYTES_MAX),
            Class::Snapshot => (&mut self.snapshot, SNAPSHOT_BYTES_MAX),
            Class::Edit => (&mut self.edit, EDIT_BYTES_MAX),
            Class::Latest(_) => (&mut self.latest, LATEST_BYTES_MAX),
        }
    }

    fn less(&mut self, class: Class, bytes: usize) {
        let (waiting, _) = self.of(class);
        *waiting = waiting.saturating_sub(bytes);
    }
}

impl Outbox {
    /// The outbox of a new connection.
    pub fn new(id: ConnectionId, common: Common) -> Outbox {
        let shared = Shared {
            id,
            queue: Mutex::default(),
            owner: AtomicWaker::new(),
            paused: AtomicBool::new(false),
            settling: AtomicBool::new(false),
            deflate: AtomicU8::new(0),
            common,
        };
        Outbox { shared: Arc::new(shared) }
    }

    /// The memory of its pod.
    pub fn budget(&self) -> &Budget {
        self.shared.common.budget()
    }

    /// The counters of its pod.
    pub fn metrics(&self) -> &Metrics {
        self.shared.common.metrics()
    }

    /// Which connection this is.
    pub fn id(&self) -> ConnectionId {
        self.shared.id
    }

    /// The peer agreed to compression on these terms, before anything was said.
    pub fn set_deflate(&self, terms: Deflate) {
        self.shared.deflate.store(terms.to_byte(), Ordering::Release);
    }

    /// The terms of compression, if the peer agreed to it.
    pub fn deflate(&self) -> Option<Deflate> {
        Deflate::from_byte(self.shared.deflate.load(Ordering::Acquire))
    }

    /// From now on frames are written to this socket by whoever pushes them, as long as it takes them and none wait.
    pub fn attach(&self, socket: Arc<Stream>) {
        self.queue().socket = Some(socket);
    }

    /// Sends one encoded WebSocket frame, or puts it in line; frames of an ended connection are dropped.
    pub fn push(&self, frame: Bytes) {
        self.push_later(frame, Class::Must);
        self.flush();
    }

    /// Only puts a frame in line: [`Outbox::flush`] or [`Outbox::wake`] must follow. For those who have several frames
    /// for the same connection, or too many connections to write to them all.
    pub fn push_later(&self, frame: Bytes, class: Class) {
        let mut queue = self.queue();
        if queue.is_unfair(self.budget()) {
            self.drop_unfair(queue);
        } else if !queue.put(frame, class) && !matches!(class, Class::Latest(_)) {
            self.drop_slow(queue);
        }
    }

    /// The same for an edit; false if too many wait. Then the document keeps this one and all later ones back until
    /// `drained` is notified.
    #[must_use]
    pub fn push_edit_later(&self, frame: Bytes, drained: &Arc<Notify>) -> bool {
        let mut queue = self.queue();
        if queue.is_unfair(self.budget()) {
            self.drop_unfair(queue);
            return true;
        }
        let is_taken = queue.put(frame, Class::Edit);
        if !is_taken {
            queue.hold_back(drained);
        }
        is_taken
    }

    /// For a document that holds edits back: whether they may be pushed again; if not, `drained` is notified when they
    /// may.
    pub fn has_room_for_edits(&self, drained: &Arc<Notify>) -> bool {
        let mut queue = self.queue();
        let has_room = queue.has_room_for_edits();
        if !has_room {
            queue.hold_back(drained);
        }
        has_room
    }

    /// Where an edit is held back it is not pushed, but what waits already counts when memory is short.
    pub fn hold_fair(&self) {
        let queue = self.queue();
        if queue.is_unfair(self.budget()) {
            self.drop_unfair(queue);
        }
    }

    /// Counts that it does not read as fast as others write.
    pub fn count_slow(&self) {
        self.metrics().slow_consumers.inc();
    }

    /// Writes what waits, as much as the socket takes; the owner writes the rest.
    pub fn flush(&self) {
        let mut queue = self.queue();
        // When its end was asked for the owner was told, who writes the last of it.
        if queue.is_full || queue.frames.is_empty() || queue.ending.is_some() {
            return;
        }
        let progress = self.write_from(&mut queue);
        // What TLS holds back is the owner's too.
        let has_unsent = queue.socket.as_ref().is_some_and(|socket| socket.has_unsent());
        drop(queue);
        if progress != Progress::Done || has_unsent {
            self.wake();
        }
    }

    /// For the owner of the socket: the same, and what is to come next.
    pub fn write(&self) -> Progress {
        let mut queue = self.queue();
        if queue.ending == Some(Ending::Drop) {
            return Progress::Over(Ending::Drop);
        }
        match self.write_from(&mut queue) {
            Progress::Full { took } => {
                queue.took = false;
                Progress::Full { took }
            }
            Progress::Failed => Progress::Failed,
            Progress::Done | Progress::Over(_) => queue.ending.map_or(Progress::Done, Progress::Over),
        }
    }

    fn write_from(&self, queue: &mut Queue) -> Progress {
        let had_snapshot = queue.waiting.snapshot > 0;
        let progress = queue.write();
        if had_snapshot && queue.waiting.snapshot == 0 {
            self.wake();
        }
        queue.tell_drained();
        progress
    }

    /// Lets the owner write what waits.
    pub fn wake(&self) {
        self.shared.owner.wake();
    }

    /// For the owner of the socket: whatever changes from now on wakes it, once. To be called before looking.
    pub fn register(&self, owner: &Waker) {
        self.shared.owner.register(owner);
    }

    /// Sends a text message, or puts it in line. To send one text to many, encode it once and use [`Outbox::push`].
    pub fn push_text(&self, text: &str) {
        let frame = Encoded::new(text, self.budget(), self.metrics()).frame(self.deflate());
        self.push(frame);
    }

    /// Stops reading the connection's socket, or goes on when nobody else stops it. `who` is a document's id;
    /// to stop it twice is the same as once. What was read already is still handled.
    pub fn pause_reading(&self, who: &Arc<str>, pause: bool) {
        let mut queue = self.queue();
        queue.paused_by.retain(|other| other != who);
        if pause {
            queue.paused_by.push(who.clone());
        }
        let is_paused = !queue.paused_by.is_empty();
        self.shared.paused.store(is_paused, Ordering::Release);
        drop(queue);
        if !is_paused {
            self.wake();
        }
    }

    /// Reads nothing more, and says so on `settled` by this connection's id once everything that was read before is
    /// answered, or the connection is over. It has no way back: [`Outbox::close`] must follow.
    pub fn settle(&self, settled: mpsc::UnboundedSender<ConnectionId>) {
        let mut queue = self.queue();
        if queue.ending == Some(Ending::Drop) {
            drop(queue);
            let _ = settled.send(self.id());
            return;
        }
        queue.settled = Some(settled);
        drop(queue);
        self.shared.settling.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether nothing more is to be read.
    pub fn is_settling(&self) -> bool {
        self.shared.settling.load(Ordering::Acquire)
    }

    /// For the owner of the socket: everything that was read is answered.
    pub fn settled(&self) {
        if let Some(settled) = self.queue().settled.take() {
            // Whoever asked may be gone.
            let _ = settled.send(self.id());
        }
    }

    /// Whether reading is stopped.
    pub fn is_paused(&self) -> bool {
        self.shared.paused.load(Ordering::Acquire)
    }

    /// Ends the connection. The first ending stays, but nothing outlives [`Ending::Drop`].
    pub fn close(&self, ending: Ending) {
        let mut queue = self.queue();
        if queue.ending.is_none() || ending == Ending::Drop {
            queue.ending = Some(ending);
        }
        let mut settled = None;
        if ending == Ending::Drop {
            // Whoever still has this handle must not keep the socket open.
            queue.socket = None;
            queue.forget();
            settled = queue.settled.take();
        }
        drop(queue);
        if let Some(settled) = settled {
            let _ = settled.send(self.id());
        }
        self.wake();
    }

    /// Whether its end was asked for.
    pub fn is_closing(&self) -> bool {
        self.queue().ending.is_some()
    }

    /// Whether it is to end at once.
    pub fn is_dropped(&self) -> bool {
        self.queue().ending == Some(Ending::Drop)
    }

    /// Whether a snapshot still waits.
    pub fn has_snapshot(&self) -> bool {
        self.queue().waiting.snapshot > 0
    }

    /// For the owner of the socket: waits until no snapshot waits. The next join is handled only then.
    pub async fn snapshots_written(&self) {
        poll_fn(|context| {
            self.register(context.waker());
            if self.has_snapshot() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// What waits.
    pub fn waiting(&self) -> Waiting {
        self.queue().waiting
    }

    fn drop_unfair(&self, queue: MutexGuard<'_, Queue>) {
        if queue.ending != Some(Ending::Drop) {
            self.metrics().overload("outbox");
            self.drop_slow(queue);
        }
    }

    fn drop_slow(&self, mut queue: MutexGuard<'_, Queue>) {
        queue.ending = Some(Ending::Drop);
        queue.forget();
        drop(queue);
        self.count_slow();
        self.wake();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing can panic while the lock is held, so a poisoned queue is as good as any.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Puts a frame in line; false if there is no room for it.
    fn put(&mut self, bytes: Bytes, class: Class) -> bool {
        if self.ending.is_some() {
            // Nobody will miss it.
            return true;
        }
        if matches!(class, Class::Latest(_) | Class::LatestMust(_))
            && let Some(place) = self.frames.iter().rposition(|frame| frame.class == class && !frame.is_begun)
            && let Some(older) = self.frames.remove(place)
        {
            // It takes the last place: what came in between, a join perhaps, must not undo it.
            self.waiting.less(class, older.bytes.len());
        }
        let is_long = self.frames.len() >= FRAMES_WAITING_MAX;
        let (waiting, most) = self.waiting.of(class);
        if is_long || *waiting > 0 && *waiting + bytes.len() > most {
            return false;
        }
        *waiting += bytes.len();
        self.frames.push_back(Frame { bytes, class, is_begun: false });
        true
    }

    /// Whether more waits here than may while the pod's memory is short.
    fn is_unfair(&self, budget: &Budget) -> bool {
        self.waiting.bytes() > OUTBOX_FAIR_BYTES && budget.is_over()
    }

    fn has_room_for_edits(&self) -> bool {
        self.waiting.edit <= EDIT_BYTES_LOW && self.frames.len() <= FRAMES_WAITING_MAX / 2
    }

    fn hold_back(&mut self, drained: &Arc<Notify>) {
        if !self.held_back.iter().any(|other| Arc::ptr_eq(other, drained)) {
            self.held_back.push(drained.clone());
        }
    }

    /// Lets the documents go on that hold edits back, once there is room for some.
    fn tell_drained(&mut self) {
        if self.has_room_for_edits() {
            for drained in std::mem::take(&mut self.held_back) {
                drained.notify_one();
            }
        }
    }

    /// Whoever else holds this outbox must not hold its frames.
    fn forget(&mut self) {
        self.frames = VecDeque::new();
        self.waiting = Waiting::default();
    }

    fn write(&mut self) -> Progress {
        self.is_full = false;
        while !self.frames.is_empty() {
            let Some(socket) = &self.socket else { return Progress::Failed };
            let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                *slice = IoSlice::new(&frame.bytes);
                count += 1;
            }
            match socket.try_write_vectored(&slices[..count]) {
                Ok(written @ 1..) => self.written(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_full = true;
                    return Progress::Full { took: self.took };
                }
                Ok(0) | Err(_) => return Progress::Failed,
            }
        }
        Progress::Done
    }

    fn written(&mut self, mut written: usize) {
        self.took = true;
        while let Some(frame) = self.frames.front_mut() {
            let length = frame.bytes.len().min(written);
            written -= length;
            self.waiting.less(frame.class, length);
            if length < frame.bytes.len() {
                frame.is_begun |= length > 0;
                frame.bytes.advance(length);
                return;
            }
            self.frames.pop_front();
        }
        // An idle connection keeps no queue.
        self.frames = VecDeque::new();
    }
}

#[cfg(test)]
mod tests;
