//! Real Redis and Valkey servers for tests, each on a free port and in a directory of its own.
//!
//! In: which engine. Out: a running server that can be killed and started again, and that is gone with its value.
#![allow(dead_code, unused_macros, clippy::unwrap_used)]

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use collab_gateway::store::RedisSettings;

/// Runs cases, functions of an [`Engine`], against both engines; `None` says that one is not installed.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod redis_server { $(#[tokio::test] async fn $name() { super::$name(super::Engine::Redis).await.unwrap(); })* }
        // Without a Valkey there is nothing to try.
        mod valkey_server { $(#[tokio::test] async fn $name() { super::$name(super::Engine::Valkey).await; })* }
    };
}

/// Longer than any wait that succeeds on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Redis,
    Valkey,
}

impl Engine {
    /// The server's binary; `None` means that the test cannot run here, which CI does not accept.
    fn binary(self) -> Option<PathBuf> {
        let binary = match self {
            Self::Redis => Some(PathBuf::from("redis-server")),
            Self::Valkey => std::env::var_os("COLLAB_TEST_VALKEY").map(PathBuf::from).filter(|path| path.exists()),
        };
        assert!(
            binary.is_some() || std::env::var("CI").as_deref() != Ok("true"),
            "COLLAB_TEST_VALKEY names no valkey-server; `make setup` fetches one"
        );
        binary
    }
}

pub struct Server {
    pub port: u16,
    directory: tempfile::TempDir,
    binary: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts a server that keeps every write, with these further arguments; `None` where the engine is not installed.
    pub async fn start(engine: Engine, arguments: &[&str]) -> Option<Self> {
        let Some(binary) = engine.binary() else {
            eprintln!("skipped: COLLAB_TEST_VALKEY names no valkey-server; `make setup` fetches one");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { port, directory: tempfile::tempdir().unwrap(), binary, arguments, child: None };
        server.start_again().await;
        Some(server)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it on the same port and directory, and waits until it takes connections.
    pub async fn start_again(&mut self) {
        self.kill();
        let child = Command::new(&self.binary)
            .arg("--port")
            .arg(self.port.to_string())
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (`make setup`)");
        self.child = Some(child);
        eventually("the server takes connections", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
        })
        .await;
    }

    pub fn settings(&self) -> Arc<RedisSettings> {
        Arc::new(RedisSettings::at(vec![self.address()]))
    }

    /// Where it keeps its files.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// From its next start on.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    }

    /// The id of its process.
    pub fn process(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends a signal, such as `-STOP`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process().to_string()]).status().unwrap();
        assert!(sent.success(), "{signal}");
    }

    /// Follows this primary, and has all of it on return.
    pub async fn follow(&self, primary: &Server) {
        self.follow_at(&primary.address()).await;
    }

    /// The same by another way to it.
    pub async fn follow_at(&self, address: &str) {
        let mut client = self.client().await;
        let (host, port) = address.split_once(':').unwrap();
        run(&mut client, &["REPLICAOF", host, port]).await;
        eventually("the follower follows", async || {
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut client).await.unwrap();
            info.contains("master_link_status:up")
        })
        .await;
    }

    /// Becomes the primary of this epoch.
    pub async fn promote(&self, epoch: u64) {
        let mut client = self.client().await;
        run(&mut client, &["REPLICAOF", "NO", "ONE"]).await;
        run(&mut client, &["HSET", "collab:fence", "epoch", &epoch.to_string()]).await;
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A plain client, for looking behind the store's back. It waits as long as the tests do: the library's half second
    /// is too little for a server on a busy machine.
    pub async fn client(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(format!("redis://{}", self.address())).unwrap();
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for a condition.
pub async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    within(PATIENCE, what, condition).await;
}

/// The same for one that takes its time.
pub async fn within(patience: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition().await {
        assert!(Instant::now() < deadline, "did not come true: {what}");
        // Polling interval, not a wait for something to happen.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Calls of scripts that the server has carried out.
pub async fn scripts(client: &mut redis::aio::MultiplexedConnection) -> usize {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(client).await.unwrap();
    let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Runs one command whose reply does not matter.
pub async fn run(client: &mut redis::aio::MultiplexedConnection, words: &[&str]) {
    redis::cmd(words[0]).arg(&words[1..]).exec_async(client).await.unwrap_or_else(|error| panic!("{words:?}: {error}"));
}
