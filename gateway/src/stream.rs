//! The socket of one connection, encrypted or not.
//!
//! In: an accepted TCP connection, or one that has shaken hands. Out: reads and writes that never wait, from any task, and
//! two futures that wait for the socket. What TLS has encrypted and the socket does not take stays here, bounded by the
//! library's buffer; whoever writes is told that it is not out yet.

use std::{
    io::{self, IoSlice, Read, Write},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncWriteExt, Interest},
    net::TcpStream,
};
use tokio_rustls::{rustls::ServerConnection, server::TlsStream};

/// A socket that several tasks may write to; one reads it.
#[derive(Debug)]
pub struct Stream {
    tcp: TcpStream,
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
struct Tls {
    session: Mutex<ServerConnection>,
    /// There may be more to read than what comes in: the library read ahead.
    has_more: AtomicBool,
    /// Encrypted bytes wait for the socket.
    has_unsent: AtomicBool,
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Stream {
        Stream { tcp, tls: None }
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Stream {
        let (tcp, session) = stream.into_inner();
        // What was read with the handshake, or is left to say of it, is found by the first tries.
        let (has_more, has_unsent) = (AtomicBool::new(true), AtomicBool::new(session.wants_write()));
        let session = Mutex::new(session);
        Stream { tcp, tls: Some(Box::new(Tls { session, has_more, has_unsent })) }
    }
}

impl Stream {
    /// Waits until a read is worth trying.
    ///
    /// # Errors
    /// When the socket failed.
    pub async fn readable(&self) -> io::Result<()> {
        if self.has_more() { Ok(()) } else { self.tcp.readable().await }
    }

    /// The same for one task that is polled by hand.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_more() { Poll::Ready(Ok(())) } else { self.tcp.poll_read_ready(context) }
    }

    /// Waits until a write, or a flush, is worth trying.
    ///
    /// # Errors
    /// When the socket failed.
    pub async fn writable(&self) -> io::Result<()> {
        self.tcp.writable().await
    }

    /// The same for one task that is polled by hand.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(context)
    }

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; else the peer broke the encryption or the socket failed.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => read(&self.tcp, buffer),
            Some(tls) => tls.read(&self.tcp, buffer),
        }
    }

    /// Takes as much of these as it can.
    ///
    /// # Errors
    /// `WouldBlock` when that is nothing; else the socket failed.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (&self.tls, slices) {
            // Nearly always: without a list the kernel has less to check.
            (None, [slice]) => self.tcp.try_write(slice),
            (None, _) => self.tcp.try_write_vectored(slices),
            (Some(tls), _) => tls.write(&self.tcp, slices),
        }
    }

    /// Writes what was taken before and is not out yet; false if something is left.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn try_flush(&self) -> io::Result<bool> {
        match &self.tls {
            Some(tls) if tls.has_unsent.load(Ordering::Acquire) => tls.flush(&mut tls.session(), &self.tcp),
            _ => Ok(true),
        }
    }

    /// Whether something that was taken is not out yet.
    pub fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_unsent.load(Ordering::Acquire))
    }

    fn has_more(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_more.load(Ordering::Acquire))
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// When the socket failed.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            let mut session = tls.session();
            session.send_close_notify();
            tls.flush(&mut session, &self.tcp)?;
        }
        self.tcp.shutdown().await
    }
}

impl Tls {
    fn session(&self) -> MutexGuard<'_, ServerConnection> {
        // A panic inside the library would have ended the task that owns this connection.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session();
        loop {
            match session.reader().read(buffer) {
                Ok(length) => {
                    self.has_more.store(length == buffer.len(), Ordering::Release);
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.has_more.store(false, Ordering::Release);
            if session.read_tls(&mut Raw(tcp))? == 0 {
                return Ok(0);
            }
            let processed = session.process_new_packets();
            // Answers of the protocol itself, the reason of a failure among them.
            self.flush(&mut session, tcp)?;
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    fn write(&self, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.session();
        if !self.flush(&mut session, tcp)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = session.writer().write_vectored(slices)?;
        self.flush(&mut session, tcp)?;
        Ok(taken)
    }

    fn flush(&self, session: &mut ServerConnection, tcp: &TcpStream) -> io::Result<bool> {
        while session.wants_write() {
            match session.write_tls(&mut Raw(tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.has_unsent.store(true, Ordering::Release);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.has_unsent.store(false, Ordering::Release);
        Ok(true)
    }
}

/// The socket as the library wants it.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read(self.0, buffer)
    }
}

/// What is there. A read that leaves room has emptied the socket, which counts as not readable from then on: nearly every
/// message is one such read, and it needs no second one that only finds nothing.
fn read(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut emptied = None;
    let outcome = tcp.try_io(Interest::READABLE, || {
        let length = tcp.try_read(buffer)?;
        if length == 0 || length == buffer.len() {
            return Ok(length);
        }
        emptied = Some(length);
        // Only this forgets that it was readable, unless more has come since it was looked at.
        Err(io::ErrorKind::WouldBlock.into())
    });
    emptied.map_or(outcome, Ok)
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
