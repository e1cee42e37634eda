//! A network that takes its time: what goes through is held up, both ways, or the answers alone are held back.
//!
//! In: the address behind it, and how long. Out: an address to connect to.
#![allow(dead_code)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub struct Proxy {
    pub address: String,
    delay_ms: Arc<AtomicU64>,
    step_ms: Arc<AtomicU64>,
    holds_answers: Arc<AtomicBool>,
}

/// Ways of different length, in turn; see [`Proxy::delay_unevenly`].
const WAYS: u64 = 4;

impl Proxy {
    pub async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap().to_string(),
            delay_ms: Arc::default(),
            step_ms: Arc::default(),
            holds_answers: Arc::default(),
        };
        let (common, holds_answers) = (Arc::clone(&proxy.delay_ms), Arc::clone(&proxy.holds_answers));
        let step_ms = Arc::clone(&proxy.step_ms);
        tokio::spawn(async move {
            let mut ways = (0..WAYS).cycle();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&server).await else { continue };
                let own = step_ms.load(Ordering::Relaxed) * ways.next().unwrap_or(0);
                let delay_ms = if own > 0 { Arc::new(AtomicU64::new(own)) } else { Arc::clone(&common) };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near_read, far_write, Arc::clone(&delay_ms), Arc::default()));
                tokio::spawn(carry(far_read, near_write, Arc::clone(&delay_ms), Arc::clone(&holds_answers)));
            }
        });
        proxy
    }

    /// How long everything is held up from now on.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// How long each connection made from now on is held up: not at all, by one step, two or three, in turn.
    pub fn delay_unevenly(&self, step: Duration) {
        self.step_ms.store(u64::try_from(step.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Whether what the server answers waits here.
    pub fn hold_answers(&self, holds: bool) {
        self.holds_answers.store(holds, Ordering::Relaxed);
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay_ms: Arc<AtomicU64>,
    is_held: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let delay_ms = delay_ms.load(Ordering::Relaxed);
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        while is_held.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
