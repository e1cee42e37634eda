//! What waits to be written to one connection.
//!
//! In: encoded frames from any task. Out: frames on the socket at once where it takes them, which spares the owner's task
//! a wake-up for nearly every message; else batches of frames for the task that owns the socket. Pushing never waits: a
//! connection that cannot keep up is closed instead, so that nobody else ever waits for it.

use std::{
    collections::VecDeque,
    io::IoSlice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Buf, Bytes};
use document::ConnectionId;
use tokio::sync::{Notify, mpsc};

use crate::{
    budget::{Budget, OUTBOX_FAIR_BYTES},
    metrics::Metrics,
    stream::Stream,
};

/// Bytes that may wait besides snapshots. What a slow phone needs for minutes of editing by others; one frame is always
/// taken, whatever its size.
pub const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of snapshots that may wait: the connection asks for one at a time, but joins of several documents overlap.
pub const SNAPSHOT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Frames that may wait, however small: each is some hundred bytes in memory.
pub const FRAMES_WAITING_MAX: usize = 8192;

/// Frames that one write takes: enough to fill a segment with small ones, few enough for the stack.
pub const FRAMES_PER_WRITE: usize = 64;

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

/// A handle to one connection; clones mean the same connection.
#[derive(Debug, Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: ConnectionId,
    queue: Mutex<Queue>,
    /// Wakes the owner to write or to end.
    changed: Notify,
    /// Wakes the owner to read again, or to go on with joins.
    resumed: Notify,
    paused: AtomicBool,
    settling: AtomicBool,
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
    bytes: usize,
    snapshot_bytes: usize,
    ending: Option<Ending>,
    /// Who is told when everything that was read is answered.
    settled: Option<mpsc::UnboundedSender<ConnectionId>>,
    /// Documents that stop the reading; the connection's number of documents bounds it.
    paused_by: Vec<Arc<str>>,
    /// Where anybody may write at once.
    socket: Option<Arc<Stream>>,
    /// The owner has frames in its hands, so that nothing may overtake it; it takes more before it rests.
    owner_writes: bool,
}

#[derive(Debug)]
struct Frame {
    bytes: Bytes,
    is_snapshot: bool,
}

impl Outbox {
    /// The outbox of a new connection.
    pub fn new(id: ConnectionId, common: Common) -> Outbox {
        let shared = Shared {
            id,
            queue: Mutex::default(),
            changed: Notify::new(),
            resumed: Notify::new(),
            paused: AtomicBool::new(false),
            settling: AtomicBool::new(false),
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

    /// From now on frames are written to this socket by whoever pushes them, as long as it takes them and none wait.
    pub fn attach(&self, socket: Arc<Stream>) {
        self.queue().socket = Some(socket);
    }

    /// Sends one encoded WebSocket frame, or puts it in line; frames of an ended connection are dropped.
    pub fn push(&self, frame: Bytes) {
        self.put(frame, false);
        self.flush();
    }

    /// Only puts a frame in line: [`Outbox::flush`] or [`Outbox::wake`] must follow. For those who have several frames
    /// for the same connection, or too many connections to write to them all.
    pub fn push_later(&self, frame: Bytes) {
        self.put(frame, false);
    }

    /// The same for the frame of a join with content, which counts against a limit of its own.
    pub fn push_snapshot_later(&self, frame: Bytes) {
        self.put(frame, true);
    }

    /// Writes what waits, as much as the socket takes; the owner writes the rest.
    pub fn flush(&self) {
        let mut queue = self.queue();
        if queue.owner_writes || queue.frames.is_empty() {
            return;
        }
        let (had_snapshot, is_written) = (queue.snapshot_bytes > 0, queue.write());
        let is_resumed = had_snapshot && queue.snapshot_bytes == 0;
        drop(queue);
        if is_resumed {
            self.shared.resumed.notify_one();
        }
        if !is_written {
            self.shared.changed.notify_one();
        }
    }

    /// Lets the owner write what waits.
    pub fn wake(&self) {
        self.shared.changed.notify_one();
    }

    /// Puts a text message in line. To send one text to many, encode it once and use [`Outbox::push`].
    pub fn push_text(&self, text: &str) {
        self.push(self.budget().frame(websocket::text_frame(text)));
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
            self.shared.resumed.notify_one();
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
        // The task that reads is the one that writes.
        self.shared.changed.notify_one();
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
            settled = queue.settled.take();
        }
        drop(queue);
        if let Some(settled) = settled {
            let _ = settled.send(self.id());
        }
        self.shared.changed.notify_one();
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
        self.queue().snapshot_bytes > 0
    }

    /// For the owner of the socket: waits until no snapshot waits. The next join is handled only then.
    pub async fn snapshots_written(&self) {
        while self.has_snapshot() {
            self.shared.resumed.notified().await;
        }
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        let queue = self.queue();
        queue.bytes + queue.snapshot_bytes
    }

    /// For the owner of the socket: waits until there may be something to write or an end.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// For the owner of the socket: waits until reading may go on.
    pub async fn resumed(&self) {
        while self.is_paused() {
            self.shared.resumed.notified().await;
        }
    }

    /// For the owner of the socket: moves the next frames to `batch`; answers the ending once nothing waits.
    pub fn take(&self, batch: &mut Vec<Bytes>) -> Option<Ending> {
        let mut queue = self.queue();
        if queue.ending == Some(Ending::Drop) {
            queue.frames.clear();
            return queue.ending;
        }
        let had_snapshot = queue.snapshot_bytes > 0;
        while batch.len() < FRAMES_PER_WRITE {
            let Some(Frame { bytes, is_snapshot }) = queue.frames.pop_front() else { break };
            let counter = if is_snapshot { &mut queue.snapshot_bytes } else { &mut queue.bytes };
            *counter = counter.saturating_sub(bytes.len());
            batch.push(bytes);
        }
        if had_snapshot && queue.snapshot_bytes == 0 {
            self.shared.resumed.notify_one();
        }
        if queue.frames.is_empty() {
            // An idle connection keeps no queue.
            queue.frames = VecDeque::new();
        }
        queue.owner_writes = !batch.is_empty();
        if batch.is_empty() { queue.ending } else { None }
    }

    fn put(&self, bytes: Bytes, is_snapshot: bool) {
        let mut queue = self.queue();
        if queue.ending.is_some() {
            return;
        }
        let in_line = queue.bytes + queue.snapshot_bytes;
        let is_unfair = in_line > OUTBOX_FAIR_BYTES && self.budget().is_over();
        let is_long = queue.frames.len() >= FRAMES_WAITING_MAX;
        let (waiting, most) = if is_snapshot {
            (&mut queue.snapshot_bytes, SNAPSHOT_BYTES_MAX)
        } else {
            (&mut queue.bytes, WAITING_BYTES_MAX)
        };
        if is_unfair || is_long || *waiting > 0 && *waiting + bytes.len() > most {
            queue.ending = Some(Ending::Drop);
            // Whoever else holds this outbox must not hold its frames.
            queue.frames = VecDeque::new();
            drop(queue);
            self.metrics().slow_consumers.inc();
            if is_unfair {
                self.metrics().overload("outbox");
            }
            self.shared.changed.notify_one();
        } else {
            *waiting += bytes.len();
            queue.frames.push_back(Frame { bytes, is_snapshot });
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing can panic while the lock is held, so a poisoned queue is as good as any.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Writes what waits if that is anybody's to do; true when nothing is left for the owner.
    fn write(&mut self) -> bool {
        while !self.frames.is_empty() && self.ending.is_none() {
            let Some(socket) = &self.socket else { return false };
            let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                *slice = IoSlice::new(&frame.bytes);
                count += 1;
            }
            match socket.try_write_vectored(&slices[..count]) {
                // A failed socket too is the owner's: it meets the same trouble and ends.
                Ok(0) | Err(_) => return false,
                Ok(written) => self.written(written),
            }
        }
        // What TLS holds back is the owner's too.
        self.frames.is_empty() && !self.socket.as_ref().is_some_and(|socket| socket.has_unsent())
    }

    fn written(&mut self, mut written: usize) {
        while let Some(frame) = self.frames.front_mut() {
            let length = frame.bytes.len().min(written);
            written -= length;
            let counter = if frame.is_snapshot { &mut self.snapshot_bytes } else { &mut self.bytes };
            *counter = counter.saturating_sub(length);
            if length < frame.bytes.len() {
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
mod tests {
    use super::*;

    fn outbox() -> (Outbox, prometheus_client::metrics::counter::Counter) {
        let metrics = Metrics::default();
        let common = Common::new(Budget::new(1 << 30, &metrics), metrics.clone());
        (Outbox::new(ConnectionId(7), common), metrics.slow_consumers)
    }

    fn frame(length: usize) -> Bytes {
        Bytes::from(vec![b'x'; length])
    }

    #[test]
    fn frames_come_out_in_order_and_the_end_after_them() {
        let (outbox, _) = outbox();
        for n in 0..FRAMES_PER_WRITE + 1 {
            outbox.push(Bytes::from(n.to_string()));
        }
        outbox.close(Ending::Disconnect);
        outbox.close(Ending::Transport { code: 1001, reason: "late" });
        outbox.push(frame(1));
        let mut batch = Vec::new();
        assert_eq!(outbox.take(&mut batch), None);
        assert_eq!((batch.len(), &batch[3][..]), (FRAMES_PER_WRITE, &b"3"[..]));
        batch.clear();
        assert_eq!(outbox.take(&mut batch), None);
        assert_eq!(batch.len(), 1);
        batch.clear();
        assert_eq!(outbox.take(&mut batch), Some(Ending::Disconnect));
        assert_eq!(outbox.waiting_bytes(), 0);
    }

    #[test]
    fn one_frame_is_always_taken_and_a_reader_that_stops_is_dropped_and_counted() {
        let (outbox, slow) = outbox();
        outbox.push(frame(WAITING_BYTES_MAX + 1));
        assert!(!outbox.is_closing());
        outbox.push(frame(1));
        outbox.push(frame(1));
        assert_eq!(outbox.take(&mut Vec::new()), Some(Ending::Drop));
        assert_eq!(slow.get(), 1);
    }

    #[test]
    fn snapshots_have_a_limit_of_their_own() {
        let (outbox, _) = outbox();
        outbox.push_snapshot_later(frame(WAITING_BYTES_MAX * 4));
        outbox.push(frame(WAITING_BYTES_MAX));
        assert!(!outbox.is_closing() && outbox.has_snapshot());
        outbox.take(&mut Vec::new());
        assert!(!outbox.has_snapshot());
        outbox.push_snapshot_later(frame(SNAPSHOT_BYTES_MAX));
        outbox.push_snapshot_later(frame(1));
        assert!(outbox.is_closing());
    }

    #[tokio::test]
    async fn what_a_full_socket_does_not_take_is_left_to_the_owner_in_order() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Arc::new(Stream::from(tcp));
        let (mut peer, _) = listener.accept().await.unwrap();
        let (outbox, _) = outbox();
        outbox.attach(socket.clone());
        let mut expected = Vec::new();
        let mut sent = 0;
        // Until the socket is full; the last frames wait, one of them perhaps written in part.
        while outbox.waiting_bytes() == 0 {
            let frame = vec![u8::try_from(sent % 251).unwrap(); 65_536 + sent];
            expected.extend_from_slice(&frame);
            outbox.push(Bytes::from(frame));
            sent += 1;
        }
        outbox.push(Bytes::from_static(b"after"));
        expected.extend_from_slice(b"after");
        let reader = tokio::spawn(async move {
            let mut read = vec![0; expected.len()];
            tokio::io::AsyncReadExt::read_exact(&mut peer, &mut read).await.unwrap();
            read == expected
        });
        let mut batch = Vec::new();
        while outbox.waiting_bytes() > 0 {
            outbox.changed().await;
            outbox.take(&mut batch);
            // What is pushed while the owner writes must not overtake it.
            for frame in batch.drain(..) {
                let mut rest = &frame[..];
                while !rest.is_empty() {
                    socket.writable().await.unwrap();
                    rest = &rest[socket.try_write_vectored(&[IoSlice::new(rest)]).unwrap_or(0)..];
                }
            }
            outbox.wake();
        }
        assert!(reader.await.unwrap());
    }

    #[tokio::test]
    async fn reading_waits_while_it_is_paused() {
        let (outbox, _) = outbox();
        let [one, two] = ["one", "two"].map(Arc::from);
        outbox.resumed().await;
        outbox.pause_reading(&one, true);
        outbox.pause_reading(&one, true);
        outbox.pause_reading(&two, true);
        outbox.pause_reading(&one, false);
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.resumed().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        outbox.pause_reading(&two, false);
        waiting.await.unwrap();
    }
}
