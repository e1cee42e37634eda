//! Server processes and what they cost.
//!
//! In: a command. Out: a running process that is gone with its value, its CPU time and its memory as the kernel counts
//! them.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// What the kernel counts in (`getconf CLK_TCK`).
const TICKS_PER_SECOND: u64 = 100;

/// A child process; dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a server that writes its log to this file, and waits until it listens.
    ///
    /// # Errors
    /// When it ends or does not listen; with the end of its log.
    pub fn start(mut command: Command, log: &Path, address: SocketAddr) -> Result<Self> {
        let file = fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut process = Self { child };
        let start = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            let ended = process.child.try_wait()?;
            if ended.is_some() || start.elapsed() > START_TIMEOUT {
                bail!("{command:?} does not listen: {}", fs::read_to_string(log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(process)
    }

    /// CPU time so far, of user and kernel together.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(&self.child.id().to_string())
    }

    /// Memory that is in use now, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rss_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is gone already, or this ends it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same of any process: its id, or `self`. Threads that have ended count.
///
/// # Errors
/// When there is no such process.
pub fn cpu_of(process: &str) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name stands in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/<pid>/stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// A port of this machine that nobody has.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
