//! Bytes of one connection: read into a buffer that all connections of a thread share, written from the outbox.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use tokio::time::{Instant, Sleep, sleep_until};
use websocket::{Decoder, Message, Violation};

use crate::{
    outbox::{Ending, Outbox, Progress},
    stream::Stream,
};

/// One read's worth; shared, so its size costs nothing per connection.
pub(super) const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// After its time a silent peer gets so long: a process that was starved reads what has come meanwhile before it judges.
const LAST_CHANCE: Duration = Duration::from_millis(100);

/// How writing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Everything was written, the close frame last.
    Closed,
    /// The peer does not read, does not answer, or is gone.
    Lost,
}

/// What one read brought.
pub(super) struct Read {
    pub(super) messages: Vec<Message>,
    /// How many, and what they were inflated to: what was small on the wire counts as what it became.
    pub(super) bytes: usize,
    /// Whether they were in order.
    pub(super) fed: Result<(), Violation>,
}

impl Read {
    pub(super) fn new(bytes: &[u8], decoder: &mut Decoder) -> Read {
        let mut messages = Vec::new();
        let fed = decoder.feed(bytes, &mut messages);
        Read { messages, bytes: bytes.len() + decoder.inflated_bytes(), fed }
    }
}

/// Reads what is there, once. `None` if there was nothing after all. Nothing is read while the decoder has messages that it
/// keeps back.
///
/// # Errors
/// When the peer has closed or the socket failed.
pub(super) fn read_once(stream: &Stream, decoder: &mut Decoder) -> io::Result<Option<Read>> {
    if decoder.has_more() {
        return Ok(Some(Read::new(&[], decoder)));
    }
    BUFFER.with_borrow_mut(|buffer| match stream.try_read(buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => Ok(Some(Read::new(&buffer[..length], decoder))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    })
}

/// Writes what the outbox collects, and heartbeats. Polled by hand beside whatever else its connection does: as a future it
/// would hold its waiters and a second timer, which is more than all the rest of a connection that rests.
pub(super) struct Writer {
    stream: Arc<Stream>,
    outbox: Outbox,
    /// The peer said something since a deadline passed last: proof of life, a pong among it.
    heard: bool,
    ping_interval: Duration,
    ping_timeout: Duration,
    next_ping: Instant,
    dead_at: Option<Instant>,
    has_last_chance: bool,
    /// Since when the socket takes nothing of what waits.
    stuck_since: Option<Instant>,
    /// The last words.
    end: Option<Pin<Box<dyn Future<Output = Written> + Send>>>,
    timer: Pin<Box<Sleep>>,
}

impl Writer {
    pub(super) fn new(stream: Arc<Stream>, outbox: Outbox, ping_interval: Duration, ping_timeout: Duration) -> Writer {
        let next_ping = Instant::now() + ping_interval;
        Writer {
            stream,
            outbox,
            heard: false,
            ping_interval,
            ping_timeout,
            next_ping,
            dead_at: None,
            has_last_chance: true,
            stuck_since: None,
            end: None,
            timer: Box::pin(sleep_until(next_ping)),
        }
    }

    /// The peer lives.
    pub(super) fn heard(&mut self) {
        self.heard = true;
    }

    /// Goes on until the connection is to end. Wakes the task at `wake_at` too, at which the caller has something to do.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, wake_at: Option<Instant>) -> Poll<Written> {
        // Before looking at the outbox, so that nothing is missed in between.
        self.outbox.register(context.waker());
        loop {
            if let Poll::Ready(written) = self.poll_write(context) {
                return Poll::Ready(written);
            }
            let deadline = self.deadline();
            let at = wake_at.map_or(deadline, |wake_at| wake_at.min(deadline));
            if self.timer.deadline() != at {
                self.timer.as_mut().reset(at);
            }
            if self.timer.as_mut().poll(context).is_pending() || Instant::now() < deadline {
                return Poll::Pending;
            }
            if let Some(written) = self.deadline_passed() {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Written> {
        loop {
            if let Some(end) = &mut self.end {
                return end.as_mut().poll(context);
            }
            match self.outbox.write() {
                Progress::Done => {
                    self.stuck_since = None;
                    if !self.stream.has_unsent() {
                        return Poll::Pending;
                    }
                }
                Progress::Full { took } => {
                    self.stuck_since = self.stuck_since.filter(|_| !took).or_else(|| Some(Instant::now()));
                }
                Progress::Failed => return Poll::Ready(Written::Lost),
                Progress::Over(ending) => {
                    self.end = Some(Box::pin(end(self.stream.clone(), ending)));
                    continue;
                }
            }
            let ready = ready!(self.stream.poll_writable(context));
            if ready.and_then(|()| self.stream.try_flush()).is_err() {
                return Poll::Ready(Written::Lost);
            }
        }
    }

    /// Whoever answers heartbeats and reads nothing is no better than the dead; without this only TCP would find out.
    fn stuck_at(&self) -> Option<Instant> {
        self.stuck_since.map(|since| since + self.ping_interval + self.ping_timeout)
    }

    fn deadline(&self) -> Instant {
        [self.dead_at, self.stuck_at()].into_iter().flatten().fold(self.next_ping, Instant::min)
    }

    fn deadline_passed(&mut self) -> Option<Written> {
        let now = Instant::now();
        if self.stuck_at().is_some_and(|stuck_at| stuck_at <= now) {
            tracing::debug!("a client does not read");
            self.outbox.metrics().slow_consumers.inc();
            return Some(Written::Lost);
        }
        let is_dead = self.dead_at.is_some_and(|dead_at| dead_at <= now);
        // While nothing is read, nothing can be heard, and behind a snapshot nobody finds a heartbeat.
        let is_deaf = self.outbox.is_paused() || self.outbox.is_settling() || self.outbox.has_snapshot();
        if std::mem::take(&mut self.heard) || is_deaf {
            self.dead_at = None;
            self.has_last_chance = true;
        } else if is_dead && self.has_last_chance {
            self.has_last_chance = false;
            self.dead_at = Some(now + LAST_CHANCE);
        } else if is_dead {
            tracing::debug!("a client did not answer the heartbeat");
            return Some(Written::Lost);
        }
        if self.next_ping <= now {
            self.outbox.push_text(protocol::PING);
            self.next_ping = now + self.ping_interval;
            self.dead_at = self.dead_at.or(Some(now + self.ping_timeout));
        }
        None
    }
}

/// Waits until the peer has closed its side, so that what was written last reaches it.
pub(super) async fn linger(stream: &mut Stream, most: Duration) {
    let closed = async {
        stream.shutdown().await?;
        loop {
            stream.readable().await?;
            let read = BUFFER.with_borrow_mut(|buffer| stream.try_read(buffer));
            match read {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    // Whatever happens here, the connection is over.
    let _: Result<io::Result<()>, _> = tokio::time::timeout(most, closed).await;
}

async fn end(stream: Arc<Stream>, ending: Ending) -> Written {
    let mut rest = match ending {
        Ending::Drop => return Written::Lost,
        Ending::Transport { code, reason } => websocket::close_frame(code, reason),
        Ending::Disconnect => {
            [websocket::text_frame(protocol::DISCONNECT), websocket::close_frame(1000, "")].concat().into()
        }
    };
    let all = async {
        while !rest.is_empty() {
            match stream.try_write_vectored(&[IoSlice::new(&rest)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        while !stream.try_flush()? {
            stream.writable().await?;
        }
        io::Result::Ok(())
    };
    match tokio::time::timeout(super::GOODBYE_TIMEOUT, all).await {
        Ok(Ok(())) => Written::Closed,
        Ok(Err(_)) | Err(_) => Written::Lost,
    }
}
