//! The forwarder as a process of its own, which the demo leaves running and `down` ends.
//!
//! In: where to listen and which pods. Out: a process that carries a mark, and is found again by it.

use std::{
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cluster::foreign_kubeconfig,
    local, paths,
    process::{Mark, kill_marked, marked, spawn_marked, tail},
};

const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// Starts a forwarder in the background, by running this command again, and waits until it listens. One that listened
/// at the same address before is ended first. Its process id is in the cache, in `forward-<address>.pid`.
///
/// # Errors
/// When it does not listen after 10 s; the message holds the end of its log.
pub fn start(listen: SocketAddr, namespace: &str, selector: &str, port: u16) -> Result<()> {
    let folder = paths::cache()?;
    std::fs::create_dir_all(&folder)?;
    let mark = mark(listen);
    kill_marked(&mark)?;
    let this = program()?.display().to_string();
    let (port, listens) = (port.to_string(), listen.to_string());
    let arguments = ["forward", "--namespace", namespace, "--selector", selector];
    let addresses = ["--port", &port, "--listen", &listens];
    let kubeconfig = foreign_kubeconfig().unwrap_or_else(local::kubeconfig);
    let mut daemon = vec!["env".to_owned(), format!("KUBECONFIG={}", kubeconfig.display()), this];
    daemon.extend(arguments.iter().chain(&addresses).map(|word| (*word).to_owned()));
    let log = folder.join(format!("forward-{listen}.log"));
    spawn_marked(&[mark.clone(), all()], &folder, &log, &daemon)?;
    let deadline = Instant::now() + LISTENS_WITHIN;
    while TcpStream::connect(listen).is_err() {
        if Instant::now() > deadline {
            bail!("the forwarder does not listen on {listen}: {}", tail(&log, 5));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let process = marked(&mark).first().copied().context("the forwarder has ended")?;
    std::fs::write(pid_file(listen)?, format!("{process}\n"))?;
    Ok(())
}

/// Ends all forwarders of this machine's user; returns whether there were any.
///
/// # Errors
/// When one does not end.
pub fn stop_all() -> Result<bool> {
    let killed = kill_marked(&all())?;
    if let Ok(entries) = std::fs::read_dir(paths::cache()?) {
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("forward-") {
                let _ = std::fs::remove_file(path);
            }
        }
    }
    Ok(killed > 0)
}

/// The `cluster` command: this program, or the one beside it when a test or the demo calls.
fn program() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    if this.file_name().is_some_and(|name| name == "cluster") {
        return Ok(this);
    }
    let folders = this.ancestors().skip(1).take(2).map(|folder| folder.join("cluster"));
    folders.into_iter().find(|path| path.is_file()).context("build the command first: cargo build -p cluster")
}

fn mark(listen: SocketAddr) -> Mark {
    Mark::forwarder(&listen.to_string())
}

fn all() -> Mark {
    Mark::any_forwarder()
}

fn pid_file(listen: SocketAddr) -> Result<PathBuf> {
    Ok(paths::cache()?.join(format!("forward-{listen}.pid")))
}
