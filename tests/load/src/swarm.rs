//! Many clients on one thread.
//!
//! In: drivers, addresses, a pace. Out: counts and latencies. Everything runs in one `LocalSet`; edits are sent by the
//! clock and never wait for answers, so that a slow server cannot slow its own measurement down. Only loopback.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::{LocalSet, spawn_local},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    drivers::{Driver, Happening, now_us},
    frames::{self, CLOSE, PING, TEXT},
    histogram::Histogram,
};

/// Connections of one source address. The kernel tries one ephemeral port after the other, and with most of them taken it
/// spends milliseconds on each connection.
const PER_ADDRESS: usize = 2_000;
/// Connections that are on their way at a time.
const CONNECTING_MAX: usize = 64;
/// How long everybody together may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);
const READ_BYTES: usize = 64 * 1024;
/// How long a visitor stays in each of its two documents.
const VISIT: Duration = Duration::from_secs(2);

/// What all clients are to do.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pace {
    Rest,
    /// Each client edits once in this time, evenly spread over the clients.
    Edit {
        every: Duration,
        from: Instant,
    },
}

/// What was counted since the last [`Swarm::take`].
#[derive(Debug, Clone)]
pub struct Counts {
    /// Edits that were sent.
    pub sent: u64,
    /// Edits that came due while the client had to wait (ShareDB).
    pub held: u64,
    /// Edits of others that arrived.
    pub deliveries: u64,
    /// Own edits that the server confirmed.
    pub confirmed: u64,
    /// Bytes of all messages that arrived.
    pub bytes: u64,
    /// From sending an edit to each delivery, in microseconds.
    pub latency: Histogram,
}

#[derive(Default)]
struct Shared {
    joined: Cell<usize>,
    sent: Cell<u64>,
    held: Cell<u64>,
    deliveries: Cell<u64>,
    confirmed: Cell<u64>,
    bytes: Cell<u64>,
    latency: RefCell<Histogram>,
    joins: RefCell<Histogram>,
    /// The first thing that went wrong.
    failure: RefCell<Option<String>>,
}

/// Clients and what they counted.
pub struct Swarm {
    local: LocalSet,
    shared: Rc<Shared>,
    pace: watch::Sender<Pace>,
    connecting: Rc<Semaphore>,
    size: usize,
}

impl Default for Swarm {
    fn default() -> Self {
        Self {
            local: LocalSet::new(),
            shared: Rc::default(),
            pace: watch::Sender::new(Pace::Rest),
            connecting: Rc::new(Semaphore::new(CONNECTING_MAX)),
            size: 0,
        }
    }
}

impl Swarm {
    /// Clients beside another swarm of so many: they come from other source addresses or ports.
    pub fn numbered_from(size: usize) -> Self {
        let swarm = Self::default();
        swarm.shared.joined.set(size);
        Self { size, ..swarm }
    }

    /// Adds clients and waits until all have joined; answers how long that took.
    ///
    /// # Errors
    /// When one is refused, or not all are there in time.
    pub async fn join(&mut self, clients: Vec<(SocketAddr, Box<dyn Driver>)>) -> Result<Duration> {
        let start = Instant::now();
        let wanted = self.size + clients.len();
        for (address, driver) in clients {
            ensure!(address.ip().is_loopback(), "load goes to loopback only");
            let number = self.size;
            self.size += 1;
            let client = Client { driver, shared: self.shared.clone(), pace: self.pace.subscribe(), number };
            let (shared, connecting) = (self.shared.clone(), self.connecting.clone());
            self.local.spawn_local(async move {
                if let Err(error) = client.run(address, &connecting).await {
                    shared.failure.borrow_mut().get_or_insert(format!("client {number}: {error:#}"));
                }
            });
        }
        while self.shared.joined.get() < wanted {
            self.check()?;
            if start.elapsed() > JOIN_TIMEOUT {
                bail!("{} of {wanted} have joined after {JOIN_TIMEOUT:?}", self.shared.joined.get());
            }
            self.local.run_until(sleep(Duration::from_millis(2))).await;
        }
        Ok(start.elapsed())
    }

    /// Lets everybody edit so that together they send this many a second; 0 lets them rest.
    pub fn edits_per_second(&self, rate: f64) {
        let pace = if rate > 0.0 {
            Pace::Edit { every: Duration::from_secs_f64(self.size as f64 / rate), from: Instant::now() }
        } else {
            Pace::Rest
        };
        self.pace.send_replace(pace);
    }

    /// From now on a visitor comes each time that this has passed: it edits like the others, goes on to another document, and
    /// is gone without a word.
    pub fn visited(&self, every: Duration, mut next: impl FnMut() -> Result<(SocketAddr, Box<dyn Driver>)> + 'static) {
        let (shared, connecting, pace) = (self.shared.clone(), self.connecting.clone(), self.pace.subscribe());
        let first = self.size;
        self.local.spawn_local(async move {
            let mut coming = tokio::time::interval(every);
            for visit in 0.. {
                coming.tick().await;
                let (shared, connecting, pace) = (shared.clone(), connecting.clone(), pace.clone());
                let (came, number) = (next(), first + visit % PER_ADDRESS);
                spawn_local(async move {
                    let visiting = async {
                        let (address, driver) = came?;
                        ensure!(address.ip().is_loopback(), "load goes to loopback only");
                        Client { driver, shared: shared.clone(), pace, number }.visit(address, &connecting).await
                    };
                    if let Err(error) = visiting.await {
                        shared.failure.borrow_mut().get_or_insert(format!("visitor {visit}: {error:#}"));
                    }
                });
            }
        });
    }

    /// Runs for a while.
    ///
    /// # Errors
    /// When a client was refused or lost.
    pub async fn run(&self, time: Duration) -> Result<()> {
        self.local.run_until(sleep(time)).await;
        self.check()
    }

    /// What was counted since the last time.
    pub fn take(&self) -> Counts {
        let shared = &self.shared;
        Counts {
            sent: shared.sent.take(),
            held: shared.held.take(),
            deliveries: shared.deliveries.take(),
            confirmed: shared.confirmed.take(),
            bytes: shared.bytes.take(),
            latency: shared.latency.take(),
        }
    }

    /// From connecting to having joined, in microseconds, of those since the last time.
    pub fn take_joins(&self) -> Histogram {
        self.shared.joins.take()
    }

    fn check(&self) -> Result<()> {
        match &*self.shared.failure.borrow() {
            Some(failure) => bail!("{failure}"),
            None => Ok(()),
        }
    }
}

struct Client {
    driver: Box<dyn Driver>,
    shared: Rc<Shared>,
    pace: watch::Receiver<Pace>,
    number: usize,
}

impl Client {
    async fn run(mut self, address: SocketAddr, connecting: &Semaphore) -> Result<()> {
        let (stream, mut kept) = self.join(address, connecting).await?;
        self.shared.joined.set(self.shared.joined.get() + 1);
        self.live(&stream, &mut kept, None).await
    }

    async fn visit(mut self, address: SocketAddr, connecting: &Semaphore) -> Result<()> {
        let (stream, mut kept) = self.join(address, connecting).await?;
        self.live(&stream, &mut kept, Some(Instant::now() + VISIT)).await?;
        let mut out = Vec::new();
        if self.driver.moves(&mut out) {
            send(&stream, &out).await?;
            self.live(&stream, &mut kept, Some(Instant::now() + VISIT)).await?;
        }
        Ok(())
    }

    /// Connects and joins; gives what was read beyond that.
    async fn join(&mut self, address: SocketAddr, connecting: &Semaphore) -> Result<(TcpStream, Vec<u8>)> {
        let permit = connecting.acquire().await?;
        let start = Instant::now();
        let stream = connect(address, self.number).await?;
        let mut out = Vec::new();
        let mut kept = Vec::new();
        if let Some(request) = self.driver.request() {
            send(&stream, request.as_bytes()).await?;
            kept = timeout(JOIN_TIMEOUT, upgraded(&stream)).await??;
        }
        self.driver.opened(&mut out);
        let mut joined = self.take(&mut kept, &mut out)?;
        loop {
            send(&stream, &out).await?;
            out.clear();
            if joined {
                break;
            }
            stream.readable().await?;
            joined = self.read(&stream, &mut kept, &mut out)?;
        }
        drop((out, permit));
        let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.joins.borrow_mut().record(took_us);
        Ok((stream, kept))
    }

    async fn live(&mut self, stream: &TcpStream, kept: &mut Vec<u8>, until: Option<Instant>) -> Result<()> {
        let mut next_edit: Option<Instant> = self.first_edit();
        let mut out = Vec::new();
        loop {
            let (due, over) = (at(next_edit), at(until));
            tokio::select! {
                biased;
                readable = stream.readable() => {
                    readable?;
                    self.read(stream, kept, &mut out)?;
                }
                () = over => return Ok(()),
                () = due => {
                    let sent = self.driver.edit(&mut out);
                    let counter = if sent { &self.shared.sent } else { &self.shared.held };
                    counter.set(counter.get() + 1);
                    if let (Some(at), Pace::Edit { every, .. }) = (next_edit, *self.pace.borrow()) {
                        next_edit = Some(at + every);
                    }
                }
                changed = self.pace.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    next_edit = self.first_edit();
                }
            }
            if !out.is_empty() {
                send(stream, &out).await?;
                out = Vec::new();
            }
        }
    }

    /// The golden ratio spreads any number of clients evenly over the time. Whoever comes later begins with its next turn.
    fn first_edit(&mut self) -> Option<Instant> {
        match *self.pace.borrow_and_update() {
            Pace::Rest => None,
            Pace::Edit { every, from } => {
                let turns = (from.elapsed().as_secs_f64() / every.as_secs_f64()).floor();
                Some(from + every.mul_f64(turns + (self.number as f64 * 0.618_033_988_75).fract()))
            }
        }
    }

    /// Reads what is there; true when the document was joined by it.
    fn read(&mut self, stream: &TcpStream, kept: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool> {
        BUFFER.with_borrow_mut(|buffer| {
            let length = match stream.try_read(buffer) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            if kept.is_empty() {
                let (used, joined) = self.messages(&buffer[..length], out)?;
                kept.extend_from_slice(&buffer[used..length]);
                return Ok(joined);
            }
            kept.extend_from_slice(&buffer[..length]);
            self.take(kept, out)
        })
    }

    fn take(&mut self, kept: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool> {
        let bytes = std::mem::take(kept);
        let (used, joined) = self.messages(&bytes, out)?;
        if used < bytes.len() {
            *kept = bytes[used..].to_vec();
        }
        Ok(joined)
    }

    fn messages(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool)> {
        let (mut used, mut joined) = (0, false);
        let shared = &self.shared;
        while let Some(frame) = frames::next(bytes, used)? {
            let payload = &bytes[frame.payload.clone()];
            used = frame.payload.end;
            match frame.opcode {
                TEXT => match self.driver.received(std::str::from_utf8(payload)?, out)? {
                    Happening::Other => {}
                    Happening::Joined => joined = true,
                    Happening::Confirmed => shared.confirmed.set(shared.confirmed.get() + 1),
                    Happening::Delivered(sent_us) => {
                        shared.deliveries.set(shared.deliveries.get() + 1);
                        shared.latency.borrow_mut().record(now_us().saturating_sub(sent_us));
                    }
                },
                PING => frames::pong(out, payload),
                CLOSE => bail!("the server said goodbye: {}", String::from_utf8_lossy(payload.get(2..).unwrap_or(b""))),
                _ => {}
            }
        }
        shared.bytes.set(shared.bytes.get() + bytes.len() as u64);
        Ok((used, joined))
    }
}

/// Waits for a moment, for ever where there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

async fn connect(address: SocketAddr, number: usize) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source(std::process::id(), number)?, 0).into())?;
    let stream = socket.connect(address).await.with_context(|| format!("no connection to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// All of 127/8 is this machine. Other addresses for each process: ports that an earlier run has left are not free for a minute.
fn source(process: u32, number: usize) -> Result<Ipv4Addr> {
    let [.., second, third] = process.to_be_bytes();
    // 127.0.0.1 is the servers'.
    let last = u8::try_from(2 + number / PER_ADDRESS).context("too many clients")?;
    Ok(Ipv4Addr::new(127, second, third, last))
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads the answer to the upgrade request; what came after it is answered.
async fn upgraded(stream: &TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        stream.readable().await?;
        let mut part = [0; 2048];
        match stream.try_read(&mut part) {
            Ok(0) => bail!("closed during the upgrade"),
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            ensure!(bytes.starts_with(b"HTTP/1.1 101"), "refused: {}", String::from_utf8_lossy(&bytes));
            return Ok(bytes[end + 4..].to_vec());
        }
    }
}
