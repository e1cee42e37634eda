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
    sync::mpsc,
    time::Instant,
};

pub struct Proxy {
    pub address: String,
    delay_ms: Arc<AtomicU64>,
    step_ms: Arc<AtomicU64>,
    holds_answers: Arc<AtomicBool>,
}

/// Ways of different length, in turn; see [`Proxy::delay_unevenly`].
const WAYS: u64 = 4;
/// Pieces on their way; whoever sends more waits.
const UNDERWAY_MAX: usize = 1024;

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
                let way =
                    if own > 0 { Way::Narrow(Duration::from_millis(own)) } else { Way::Long(Arc::clone(&common)) };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near_read, far_write, way.clone(), Arc::default()));
                tokio::spawn(carry(far_read, near_write, way, Arc::clone(&holds_answers)));
            }
        });
        proxy
    }

    /// How long everything is held up from now on.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// How long each piece on a connection made from now on takes, one after the other: no time, one step, two or three,
    /// in turn.
    pub fn delay_unevenly(&self, step: Duration) {
        self.step_ms.store(u64::try_from(step.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Whether what the server answers waits here.
    pub fn hold_answers(&self, holds: bool) {
        self.holds_answers.store(holds, Ordering::Relaxed);
    }
}

/// How pieces get through.
#[derive(Clone)]
enum Way {
    /// Each after so many milliseconds, however many are under way.
    Long(Arc<AtomicU64>),
    /// One after the other, each in this time.
    Narrow(Duration),
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, way: Way, is_held: Arc<AtomicBool>) {
    let (underway, mut arriving) = mpsc::channel(UNDERWAY_MAX);
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let due = match &way {
                Way::Long(delay_ms) => match delay_ms.load(Ordering::Relaxed) {
                    0 => None,
                    delay_ms => Some(Instant::now() + Duration::from_millis(delay_ms)),
                },
                Way::Narrow(delay) => {
                    tokio::time::sleep(*delay).await;
                    None
                }
            };
            if underway.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((due, piece)) = arriving.recv().await {
            if let Some(due) = due {
                tokio::time::sleep_until(due).await;
            }
            while is_held.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(writing);
    tokio::select! {
        () = reading => writing.await,
        () = &mut writing => {}
    }
}
