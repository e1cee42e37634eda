//! Two writers who replay a trace through gateways, as processes of stock socket.io clients.
//!
//! In: addresses of gateways and a document; the writers are `tests/js/replay.mjs`. Out: their progress, so that a test can break things
//! at a chosen moment, and their verdict on what everybody ended with.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{Forward, Tenant, stack::root};

/// Writers that say nothing for this long are stuck: the test fails with what they said last.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// A running replay; dropped, its processes end.
pub struct Replay {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    done: [u64; 2],
    last_line: String,
}

/// What the writers found at the end; a bad one is an error of [`Replay::verdict`].
#[derive(Debug, Deserialize)]
pub struct Verdict {
    ok: bool,
    #[serde(default)]
    problems: Vec<String>,
    /// Entries of the log.
    #[serde(default)]
    pub edits: u64,
    /// How often each writer came back.
    #[serde(default)]
    pub reconnects: Vec<u64>,
    /// From the first edit to the last comparison.
    #[serde(default)]
    pub seconds: f64,
}

#[derive(Deserialize)]
struct Progress {
    event: String,
    #[serde(default)]
    writer: usize,
    #[serde(default)]
    done: u64,
}

impl Replay {
    /// Starts writers on `document`, the first through the first of `fronts` and so on.
    ///
    /// # Errors
    /// When node cannot be started.
    pub fn start(tenant: &Tenant<'_>, fronts: &[Forward], document: &str, arguments: &[&str]) -> Result<Self> {
        let urls: Vec<_> = fronts.iter().map(|front| front.url()).collect();
        let mut process = Command::new("node")
            .current_dir(root().join("tests/js"))
            .args(["replay.mjs", "--urls", &urls.join(","), "--document", document])
            .args(arguments)
            .env("GATEWAY_JWT_SECRET", tenant.jwt_secret())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting node (`make setup` installs what it needs)")?;
        let stdout = process.stdout.take().context("node has no output")?;
        Ok(Self { process, lines: BufReader::new(stdout).lines(), done: [0; 2], last_line: String::new() })
    }

    /// Waits until the writers have made `edits` edits together.
    ///
    /// # Errors
    /// When they end or fall silent before.
    pub async fn reach(&mut self, edits: u64) -> Result<()> {
        while self.done.iter().sum::<u64>() < edits {
            let line = self.line().await?.with_context(|| format!("the writers ended: {}", self.last_line))?;
            let progress: Progress = serde_json::from_str(&line).with_context(|| line.clone())?;
            match progress.event.as_str() {
                "progress" | "typed" => {
                    let done = self.done.get_mut(progress.writer).context("a third writer")?;
                    *done = progress.done.max(*done);
                }
                "verdict" => bail!("the writers ended before {edits} edits: {line}"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When the verdict is bad or does not come.
    pub async fn verdict(mut self) -> Result<Verdict> {
        while let Some(line) = self.line().await? {
            if line.contains("\"event\":\"verdict\"") {
                let verdict: Verdict = serde_json::from_str(&line)?;
                ensure!(verdict.ok, "{}", verdict.problems.join("\n"));
                self.process.wait().await?;
                return Ok(verdict);
            }
        }
        bail!("the writers ended without a verdict: {}", self.last_line)
    }

    async fn line(&mut self) -> Result<Option<String>> {
        let Ok(line) = timeout(SILENCE_MAX, self.lines.next_line()).await else {
            bail!("no sign of the writers for {SILENCE_MAX:?}; the last was {}", self.last_line);
        };
        let line = line?;
        self.last_line = line.clone().unwrap_or_else(|| std::mem::take(&mut self.last_line));
        Ok(line)
    }
}

/// The trace with two writers; `None` where the data is absent, which `CI=true` does not accept.
///
/// # Panics
/// When `CI=true` and the data is absent.
pub fn friendsforever() -> Option<PathBuf> {
    let path = root().join("../shared/data/editing-traces/friendsforever.json.gz");
    if Path::new(&path).exists() {
        return Some(path);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "the editing traces are absent: {}", path.display());
    eprintln!("SKIPPED: the editing traces are absent: {}", path.display());
    None
}
