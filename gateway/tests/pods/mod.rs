//! Gateways as processes of their own, for tests of signals, exit codes and what is scraped.
//!
//! In: where Redis is, further flags. Out: a process that serves, its ports, what it logs, how it ended.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(clippy::zombie_processes, reason = "dropping a pod waits; where it is never made, the test's process ends")]

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    editor::SECRET,
    servers::{PATIENCE, eventually},
};

pub struct Pod {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    logging: JoinHandle<()>,
    _secret: tempfile::NamedTempFile,
}

impl Pod {
    /// A gateway that takes connections.
    pub fn start(redis: &str, flags: &[&str]) -> Pod {
        Pod::start_in(redis, flags, &[])
    }

    /// The same with variables in its environment.
    pub fn start_in(redis: &str, flags: &[&str], variables: &[(&str, &str)]) -> Pod {
        let (mut command, secret) = command(redis, flags);
        let mut child = command.envs(variables.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (say, said) = mpsc::channel();
        let logging = std::thread::spawn({
            let log = log.clone();
            move || {
                for line in lines.map_while(Result::ok) {
                    let line: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                    log.lock().unwrap().push(line.clone());
                    let _ = say.send(line);
                }
            }
        });
        loop {
            let line = said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only this was said: {log:?}"));
            if line["message"] == "ready for connections" {
                let port = |name: &str| line[name].as_str().unwrap().parse().unwrap();
                return Pod { address: port("listen"), admin: port("admin"), child, log, logging, _secret: secret };
            }
        }
    }

    /// Sends a signal by its name without SIG.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "SIG{name}");
    }

    /// Waits for the end, and for the last line of the log; what it exited with.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the process ends", async || {
            code = self.child.try_wait().unwrap();
            code.is_some() && self.logging.is_finished()
        })
        .await;
        code.unwrap().code()
    }

    /// The id of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// All lines that it logged so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// The status and body of an admin path.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let stream = TcpStream::connect(self.admin).await.unwrap();
        http(stream, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    /// The value of a metric, labels included in its name.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a gateway that does not serve exits with, and what it says.
pub fn refusal(redis: &str, flags: &[&str]) -> (Option<i32>, String) {
    let output = command(redis, flags).0.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn command(redis: &str, flags: &[&str]) -> (Command, tempfile::NamedTempFile) {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(SECRET.as_bytes()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_collab-gateway"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("COLLAB_") || name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command.arg("--redis-url").arg(format!("redis://{redis}")).arg("--jwt-secret-file").arg(secret.path());
    // Flags may name other ports.
    command.env("COLLAB_LISTEN", "127.0.0.1:0").env("COLLAB_ADMIN_LISTEN", "127.0.0.1:0");
    command.arg("--users-from-claims").args(flags).stdin(Stdio::null());
    (command, secret)
}

/// Sends a request whose answer ends with the connection; the status and the body.
pub async fn http(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
