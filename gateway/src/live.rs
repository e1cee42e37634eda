//! The settings that change while the process runs: limits, rates, the log level.
//!
//! In: the YAML file of `--config`, looked at every few seconds (a mounted ConfigMap changes by itself). Out: a
//! [`tokio::sync::watch`] of [`Live`]. A file that became wrong is reported once and changes nothing.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::sync::watch;

use crate::config::LOOK_INTERVAL;

/// The file that changes them, and what counts where it says nothing: the flags, as for a process that starts now.
#[derive(Debug, Clone)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What the flags say.
    pub flags: Partial,
}

/// What the process follows now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Connections that this pod admits.
    pub max_connections: usize,
    /// New connections a second that this pod admits.
    pub accept_rate: u32,
    /// Connections a second that a drain closes.
    pub drain_rate: u32,
    /// Connections of one user on this pod; one more ends the oldest.
    pub max_connections_per_user: usize,
    /// Documents that one connection may have open; an editor has one, a dashboard a few.
    pub max_documents_per_connection: usize,
    /// Joins a second of one connection.
    pub join_rate: u32,
    /// Cursors a second of one connection, and as many typing signals.
    pub cursor_rate: u32,
    /// Messages a second that are read of one connection; beyond it its socket is read more slowly.
    pub message_rate: u32,
    /// The same in bytes a second.
    pub message_bytes_rate: u32,
    /// Bytes that all clients together may make the pod hold: unread frames, half messages, waiting edits.
    pub max_buffer_bytes: usize,
    /// Bytes that open documents may take.
    pub max_documents_bytes: usize,
    /// What is logged.
    pub log_level: LogLevel,
}

/// The levels of the resource's `logLevel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As `tracing_subscriber` filters write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// What a file or the command line says; the rest has defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the same as in Live")]
pub struct Partial {
    pub max_connections: Option<usize>,
    pub accept_rate: Option<u32>,
    pub drain_rate: Option<u32>,
    pub max_connections_per_user: Option<usize>,
    pub max_documents_per_connection: Option<usize>,
    pub join_rate: Option<u32>,
    pub cursor_rate: Option<u32>,
    pub message_rate: Option<u32>,
    pub message_bytes_rate: Option<u32>,
    pub max_buffer_bytes: Option<usize>,
    pub max_documents_bytes: Option<usize>,
    pub log_level: Option<LogLevel>,
}

impl Partial {
    /// What `self` does not say is taken from `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            max_connections: self.max_connections.or(other.max_connections),
            accept_rate: self.accept_rate.or(other.accept_rate),
            drain_rate: self.drain_rate.or(other.drain_rate),
            max_connections_per_user: self.max_connections_per_user.or(other.max_connections_per_user),
            max_documents_per_connection: self.max_documents_per_connection.or(other.max_documents_per_connection),
            join_rate: self.join_rate.or(other.join_rate),
            cursor_rate: self.cursor_rate.or(other.cursor_rate),
            message_rate: self.message_rate.or(other.message_rate),
            message_bytes_rate: self.message_bytes_rate.or(other.message_bytes_rate),
            max_buffer_bytes: self.max_buffer_bytes.or(other.max_buffer_bytes),
            max_documents_bytes: self.max_documents_bytes.or(other.max_documents_bytes),
            log_level: self.log_level.or(other.log_level),
        }
    }
}

impl From<Partial> for Live {
    fn from(partial: Partial) -> Self {
        Self {
            max_connections: partial.max_connections.unwrap_or(15_000),
            accept_rate: partial.accept_rate.unwrap_or(500),
            drain_rate: partial.drain_rate.unwrap_or(200).max(1),
            max_connections_per_user: partial.max_connections_per_user.unwrap_or(256),
            max_documents_per_connection: partial.max_documents_per_connection.unwrap_or(64),
            join_rate: partial.join_rate.unwrap_or(10),
            cursor_rate: partial.cursor_rate.unwrap_or(30),
            message_rate: partial.message_rate.unwrap_or(200),
            message_bytes_rate: partial.message_bytes_rate.unwrap_or(1 << 20),
            max_buffer_bytes: partial.max_buffer_bytes.unwrap_or(256 << 20),
            max_documents_bytes: partial.max_documents_bytes.unwrap_or(384 << 20),
            log_level: partial.log_level.unwrap_or(LogLevel::Info),
        }
    }
}

/// Reads a file of settings.
///
/// # Errors
/// With one line that says what is wrong with it.
pub fn read(path: &Path) -> Result<Partial, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if text.trim().is_empty() {
        return Ok(Partial::default());
    }
    serde_yaml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Follows the file until nobody watches any more. What it does not name, or not any more, is as the flags say.
pub async fn follow(file: File, settings: watch::Sender<Live>) {
    let mut complaint = String::new();
    while !settings.is_closed() {
        tokio::time::sleep(LOOK_INTERVAL).await;
        match read(&file.path) {
            Ok(partial) => {
                complaint.clear();
                let next = Live::from(partial.or(file.flags.clone()));
                settings.send_if_modified(|live| {
                    let is_changed = *live != next;
                    if is_changed {
                        tracing::info!(?next, "settings changed");
                        *live = next;
                    }
                    is_changed
                });
            }
            Err(error) if error != complaint => {
                tracing::warn!(%error, "the settings file is wrong: the last good settings stay");
                complaint = error;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::{File, LOOK_INTERVAL, Live, LogLevel, Partial, follow, read};

    #[test]
    fn an_unknown_key_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("gateway.yaml");
        std::fs::write(&path, "max-conections: 7\n").expect("written");
        assert!(read(&path).expect_err("refused").contains("max-conections"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_followed_while_the_process_runs_and_a_wrong_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("gateway.yaml");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write("max-connections: 1\n");
        let flags = Partial { accept_rate: Some(60), drain_rate: Some(3), ..Partial::default() };
        let (settings, mut live) = watch::channel(Live::from(flags.clone()));
        let following = tokio::spawn(follow(File { path: path.clone(), flags }, settings));
        let mut next = async || {
            live.changed().await.expect("it follows");
            let live = live.borrow_and_update().clone();
            (live.max_connections, live.accept_rate, live.drain_rate, live.log_level)
        };
        assert_eq!(next().await, (1, 60, 3, LogLevel::Info));
        write("max-connections: two\n");
        tokio::time::sleep(LOOK_INTERVAL * 3).await;
        write("max-connections: 1\naccept-rate: 7\nlog-level: trace\n");
        assert_eq!(next().await, (1, 7, 3, LogLevel::Trace), "a wrong file changed nothing");
        write("accept-rate: 7\ndrain-rate: 0\n");
        assert_eq!(next().await, (15_000, 7, 1, LogLevel::Info), "what is not named any more is as at a start");
        write("");
        assert_eq!(next().await, (15_000, 60, 3, LogLevel::Info));
        drop(live);
        following.await.expect("it ends with the last who watches");
    }
}
