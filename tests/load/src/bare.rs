//! The limit: a loop that does nothing but send the same number of frames of the same size to the same number of sockets.
//!
//! In: an address to listen at, how many connections to wait for, how many bursts a second, how many sockets each burst
//! goes to. Out: frames with a stamp, for ever. What this process spends on one `send()` is the least that a delivery
//! can cost here.

use std::{
    io::{ErrorKind, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::drivers::stamp;

/// What is sent, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Bare {
    /// Where clients connect.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Begins when this many are connected.
    #[arg(long)]
    pub connections: usize,
    /// Bursts a second: in a real server, edits.
    #[arg(long)]
    pub bursts: f64,
    /// Sockets that each burst goes to: in a real server, the receivers on this pod.
    #[arg(long)]
    pub receivers: usize,
    /// Bytes of each frame, at least 126 and at most 65,535.
    #[arg(long)]
    pub bytes: u16,
}

/// Sends until the process is ended.
///
/// # Errors
/// When a client is gone.
pub fn run(bare: &Bare) -> Result<()> {
    let listener = TcpListener::bind(bare.listen)?;
    let mut sockets: Vec<TcpStream> = Vec::new();
    while sockets.len() < bare.connections {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        // The waiting for the listener (`Process::start`) connects too, and is gone at once.
        if socket.write_all(&frame("hello")).is_ok() && socket.peek(&mut [0]).is_ok_and(|read| read > 0) {
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
    }
    let every = Duration::from_secs_f64(1.0 / bare.bursts);
    let padding = usize::from(bare.bytes).saturating_sub(4);
    let (mut next, mut first) = (Instant::now(), 0);
    loop {
        next += every;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let frame = frame(&format!("{:padding$}", stamp()));
        for n in first..first + bare.receivers {
            let index = n % sockets.len();
            match sockets[index].write(&frame) {
                Ok(_) => {}
                // A full buffer says that the receiver is the limit: the figure shows it.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("a client is gone"),
            }
        }
        first = (first + bare.receivers) % sockets.len();
    }
}

fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    let mut frame = vec![0x81];
    match u8::try_from(length).ok().filter(|short| *short < 126) {
        Some(short) => frame.push(short),
        None => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame
}
