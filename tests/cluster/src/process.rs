//! Processes of the cluster: commands that end at once, and daemons that outlive whoever started them.
//!
//! In: programs, arguments, and a mark. Out: their output, or running daemons. A daemon carries its mark in its
//! environment and is found again by it, so that it can be ended even when whoever started it crashed before it could
//! write anything down.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long killed processes may take to vanish: the kernel frees a node's memory and mounts meanwhile.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// How often, and how far apart, to look again at a process without an environment: some have none for good.
const EXEC_LOOKS: u32 = 50;
const EXEC_LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Of a process's environment; more than any that a shell or a CI machine gives.
const ENVIRONMENT_BYTES_MAX: usize = 256 << 10;

/// What a daemon is known by: an environment variable and its value.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    variable: &'static str,
    value: String,
}

impl Mark {
    /// A mark of every process of the cluster whose state is in this folder.
    pub(crate) fn cluster(state: &Path) -> Self {
        Self { variable: "COLLAB_CLUSTER_STATE", value: state.display().to_string() }
    }

    /// A mark of the processes of one part of a cluster, such as `n1`.
    pub(crate) fn part(state: &Path, part: &str) -> Self {
        Self { variable: "COLLAB_CLUSTER_PART", value: format!("{}:{part}", state.display()) }
    }

    /// A mark of the forwarder that listens on an address.
    pub(crate) fn forwarder(listen: &str) -> Self {
        Self { variable: "COLLAB_FORWARDER_LISTENS", value: listen.to_owned() }
    }

    /// A mark of every forwarder.
    pub(crate) fn any_forwarder() -> Self {
        Self { variable: "COLLAB_FORWARDER", value: "yes".to_owned() }
    }
}

/// Runs a command to its end and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started, or ends with another code than 0; the message holds what it wrote to standard error.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(program: impl AsRef<std::ffi::OsStr>, arguments: &[S]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    run_command(command)
}

/// Like [`run`], for a command that needs more than arguments.
pub(crate) fn run_command(mut command: Command) -> Result<String> {
    let said = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {said}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let also = String::from_utf8_lossy(&output.stdout);
        bail!("{said} failed ({}): {}{}", output.status, text.trim(), also.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a daemon in a session of its own, its output going to a file.
pub(crate) fn spawn_daemon(state: &Path, part: &str, log: &Path, daemon: Vec<String>) -> Result<()> {
    spawn_marked(&[Mark::cluster(state), Mark::part(state, part)], state, log, &daemon)
}

/// Starts a daemon with any marks, in a working folder.
pub(crate) fn spawn_marked(marks: &[Mark], folder: &Path, log: &Path, daemon: &[String]) -> Result<()> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new("setsid");
    command.arg("--fork").args(daemon.iter()).current_dir(folder).stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output);
    remove_proxies(&mut command);
    command.envs(marks.iter().map(|mark| (mark.variable, &mark.value)));
    let status = command.status().context("cannot start setsid (package util-linux)")?;
    if !status.success() {
        bail!("{} did not start: {status}", daemon.join(" "));
    }
    Ok(())
}

/// The cluster is on this machine: a proxy of the company's cannot reach it.
pub(crate) fn remove_proxies(command: &mut Command) {
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
}

/// The ids of living processes that carry a mark.
pub(crate) fn marked(mark: &Mark) -> Vec<u32> {
    let wanted = format!("{}={}", mark.variable, mark.value);
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|process| *process != own)
        .filter(|process| {
            // A zombie's environment reads as empty, so what is found here is alive.
            environment(*process).split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        })
        .collect()
}

/// A process's environment. It reads as empty for a moment while the process becomes another program, as a daemon does
/// right after its start; whoever looked just then would take it for gone.
fn environment(process: u32) -> Vec<u8> {
    for _ in 0..EXEC_LOOKS {
        let environment = environment_now(process).unwrap_or_default();
        // Zombies and threads of the kernel run no program.
        if !environment.is_empty() || fs::read_link(format!("/proc/{process}/exe")).is_err() {
            return environment;
        }
        std::thread::sleep(EXEC_LOOK_INTERVAL);
    }
    Vec::new()
}

/// In one read: a second one would find the end when the process has become another program in between.
fn environment_now(process: u32) -> std::io::Result<Vec<u8>> {
    let mut environment = vec![0; ENVIRONMENT_BYTES_MAX];
    let read = File::open(format!("/proc/{process}/environ"))?.read(&mut environment)?;
    environment.truncate(read);
    Ok(environment)
}

/// Kills (SIGKILL) every process with a mark and waits until none is left. Returns how many there were.
///
/// # Errors
/// When some are still there after 20 s.
pub(crate) fn kill_marked(mark: &Mark) -> Result<usize> {
    let deadline = Instant::now() + GONE_WITHIN;
    let mut killed = 0;
    loop {
        let alive = marked(mark);
        if alive.is_empty() {
            return Ok(killed);
        }
        if Instant::now() > deadline {
            bail!("processes {alive:?} do not end");
        }
        killed = killed.max(alive.len());
        let ids: Vec<String> = alive.iter().map(u32::to_string).collect();
        // One that ended meanwhile makes this fail; the next round looks again.
        let _ = Command::new("kill").arg("-9").args(ids).stderr(Stdio::null()).status();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_found_from_its_start_though_it_becomes_another_program() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        // Each of these becomes the next one.
        let becoming = ["/bin/sh", "-c", "exec env sh -c 'exec env sleep 5'"].map(str::to_owned);
        for round in 0..20 {
            let mark = Mark::part(folder.path(), &format!("round {round}"));
            spawn_marked(std::slice::from_ref(&mark), folder.path(), &log, &becoming).expect("it starts");
            for look in 0..20 {
                assert_eq!(marked(&mark).len(), 1, "round {round}, look {look}");
            }
            kill_marked(&mark).expect("it ends");
        }
    }
}
