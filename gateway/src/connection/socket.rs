//! Bytes of one connection: read into a buffer that all connections of a thread share, written from the outbox.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Buf;
use tokio::time::{Instant, sleep_until};
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

/// Reads what is there, once: how many bytes, what they were inflated to added, and whether they were in order. `None` if
/// there was nothing after all. Nothing is read while the decoder has messages that it keeps back.
///
/// # Errors
/// When the peer has closed or the socket failed.
pub(super) fn read_once(
    stream: &Stream,
    decoder: &mut Decoder,
    messages: &mut Vec<Message>,
) -> io::Result<Option<(usize, Result<(), Violation>)>> {
    if decoder.has_more() {
        let fed = decoder.feed(&[], messages);
        return Ok(Some((decoder.inflated_bytes(), fed)));
    }
    BUFFER.with_borrow_mut(|buffer| match stream.try_read(buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => {
            let fed = decoder.feed(&buffer[..length], messages);
            Ok(Some((length + decoder.inflated_bytes(), fed)))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    })
}

/// Writes what the outbox collects, and heartbeats, until the connection is to end. `heard` is set by the reader
/// whenever the peer said anything: proof of life, a pong among it.
pub(super) async fn write(
    stream: &Stream,
    outbox: &Outbox,
    heard: &AtomicBool,
    ping_interval: Duration,
    ping_timeout: Duration,
) -> Written {
    let mut next_ping = Instant::now() + ping_interval;
    let mut dead_at: Option<Instant> = None;
    let mut has_last_chance = true;
    // Since when the socket takes nothing of what waits.
    let mut stuck_since: Option<Instant> = None;
    loop {
        let is_full = match outbox.write() {
            Progress::Done => {
                stuck_since = None;
                false
            }
            Progress::Full { took } => {
                stuck_since = stuck_since.filter(|_| !took).or_else(|| Some(Instant::now()));
                true
            }
            Progress::Failed => return Written::Lost,
            Progress::Over(ending) => return Box::pin(end(stream, ending)).await,
        };
        // Whoever answers heartbeats and reads nothing is no better than the dead; without this only TCP would find out.
        let stuck_at = stuck_since.map(|since| since + ping_interval + ping_timeout);
        let deadline = [Some(next_ping), dead_at, stuck_at].into_iter().flatten().min().unwrap_or(next_ping);
        tokio::select! {
            ready = stream.writable(), if is_full || stream.has_unsent() => {
                if ready.and_then(|()| stream.try_flush()).is_err() {
                    return Written::Lost;
                }
            }
            () = outbox.changed() => {}
            () = sleep_until(deadline) => {
                let now = Instant::now();
                if stuck_at.is_some_and(|stuck_at| stuck_at <= now) {
                    tracing::debug!("a client does not read");
                    outbox.metrics().slow_consumers.inc();
                    return Written::Lost;
                }
                // While nothing is read, nothing can be heard, and behind a snapshot nobody finds a heartbeat.
                let is_deaf = outbox.is_paused() || outbox.is_settling() || outbox.has_snapshot();
                if heard.swap(false, Ordering::Relaxed) || is_deaf {
                    dead_at = None;
                    has_last_chance = true;
                } else if dead_at.is_some_and(|dead_at| dead_at <= now) && has_last_chance {
                    has_last_chance = false;
                    dead_at = Some(now + LAST_CHANCE);
                } else if dead_at.is_some_and(|dead_at| dead_at <= now) {
                    tracing::debug!("a client did not answer the heartbeat");
                    return Written::Lost;
                }
                if next_ping <= now {
                    outbox.push_text(protocol::PING);
                    next_ping = now + ping_interval;
                    dead_at = dead_at.or(Some(now + ping_timeout));
                }
            }
        }
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

async fn end(stream: &Stream, ending: Ending) -> Written {
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
