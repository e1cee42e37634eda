//! The servers that are compared, each started fresh on free ports with what it needs.
//!
//! In: which one, how many pods of it, how many documents. Out: running processes with addresses, and clients that speak
//! its protocol.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    drivers::{Centrifugo, Driver, Identity, STAMP_CHARS, ShareDb, SocketIo},
    process::{Process, free_address},
    scenarios::PER_DOCUMENT,
};

const SECRET: &str = "a secret of the benchmarks, 32 bytes";
/// What every document begins with is this, so often that each editor has a place of its own.
const SENTENCE: &str = "The quick brown fox jumps over the lazy dog. ";
/// Keys that are set in one write.
const KEYS_AT_ONCE: usize = 1000;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// This project's gateway with Redis.
    Gateway,
    /// Socket.IO with the Redis adapter on Node.
    SocketIo,
    /// Centrifugo, or a server on its library, with Redis.
    Centrifugo,
    /// ShareDB on Node, one process in memory.
    ShareDb,
}

/// Where the programs are.
#[derive(Debug, Clone, clap::Args)]
pub struct Programs {
    /// The gateway as its image has it.
    #[arg(long)]
    pub gateway: PathBuf,
    /// The folder of the peers, its modules installed.
    #[arg(long)]
    pub peers: PathBuf,
    /// A server on Centrifugo's library; without it that peer is left out.
    #[arg(long)]
    pub centrifuge: Option<PathBuf>,
    /// The Redis or Valkey server.
    #[arg(long, default_value = "redis-server")]
    pub redis: PathBuf,
}

/// One kind of server, running.
pub struct Servers {
    kind: Kind,
    addresses: Vec<SocketAddr>,
    /// Of the servers themselves.
    pub pods: Vec<Process>,
    /// Of the store between them.
    pub redis: Option<Process>,
    _folder: tempfile::TempDir,
}

impl Kind {
    /// How tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gateway => "gateway",
            Kind::SocketIo => "Socket.IO + Redis adapter",
            Kind::Centrifugo => "centrifuge (Centrifugo's library)",
            Kind::ShareDb => "ShareDB (1 process, in memory)",
        }
    }
}

impl Servers {
    /// Starts `pods` servers of a kind (ShareDB: one) for this many users and documents.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start(kind: Kind, programs: &Programs, pods: usize, users: usize, documents: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let secret = folder.path().join("secret");
        fs::write(&secret, SECRET)?;
        let redis = if kind == Kind::ShareDb { None } else { Some(redis(programs, &folder)?) };
        let redis_port = redis.as_ref().map(|(_, address)| address.port().to_string()).unwrap_or_default();
        if let Some((_, address)) = &redis {
            fill(*address, users, documents).await.context("filling Redis")?;
        }
        let (mut running, mut addresses) = (Vec::new(), Vec::new());
        for n in 0..if kind == Kind::ShareDb { 1 } else { pods } {
            let address = free_address()?;
            let mut command = match kind {
                Kind::Gateway => {
                    let mut command = Command::new(&programs.gateway);
                    command.args(["--listen", &address.to_string(), "--admin-listen", &free_address()?.to_string()]);
                    command.args(["--redis-url", &format!("redis://127.0.0.1:{redis_port}")]).arg("--jwt-secret-file");
                    command.arg(&secret).args(["--max-connections", "1000000", "--accept-rate", "1000000"]);
                    command
                }
                Kind::SocketIo | Kind::ShareDb => {
                    let script = if kind == Kind::SocketIo { "socketio.js" } else { "sharedb.js" };
                    let mut command = Command::new("node");
                    command.args(["--expose-gc", "--max-old-space-size=4096"]).arg(programs.peers.join(script));
                    command
                }
                Kind::Centrifugo => {
                    Command::new(programs.centrifuge.as_ref().context("no program of Centrifugo's is here")?)
                }
            };
            command.env("PORT", address.port().to_string()).env("REDIS_PORT", &redis_port).env("SECRET", SECRET);
            command.env("DOCUMENTS", documents.to_string()).env("TEXT", text());
            // As the operator tells pods of one CPU; Node has no more than one thread anyway.
            command.env("TOKIO_WORKER_THREADS", "1").env("MALLOC_ARENA_MAX", "1").env("GOMAXPROCS", "1");
            running.push(Process::start(command, &folder.path().join(format!("{n}.log")), address)?);
            addresses.push(address);
        }
        Ok(Self { kind, addresses, pods: running, redis: redis.map(|(process, _)| process), _folder: folder })
    }

    /// Clients `from..to` of a run, one after the other on each pod, `per_document` in each document.
    ///
    /// # Errors
    /// When a token cannot be signed.
    pub fn clients(
        &self,
        range: std::ops::Range<usize>,
        per_document: usize,
    ) -> Result<Vec<(SocketAddr, Box<dyn Driver>)>> {
        range
            .map(|n| {
                let identity = Identity {
                    client_id: format!("client-{n}"),
                    token: token(n)?,
                    document_id: format!("d{}", n / per_document),
                    place: n % per_document,
                };
                let driver: Box<dyn Driver> = match self.kind {
                    Kind::Gateway | Kind::SocketIo => Box::new(SocketIo::new(identity)),
                    Kind::Centrifugo => Box::new(Centrifugo::new(identity)),
                    Kind::ShareDb => Box::new(ShareDb::new(identity)),
                };
                Ok((self.addresses[n % self.addresses.len()], driver))
            })
            .collect()
    }

    /// One visitor after the other, again and again: the users of `range`, each as a new editor that comes to its document
    /// and goes on to the one half of all documents away.
    pub fn visitors(
        &self,
        range: std::ops::Range<usize>,
        documents: usize,
        per_document: usize,
    ) -> impl FnMut() -> Result<(SocketAddr, Box<dyn Driver>)> + 'static {
        let addresses = self.addresses.clone();
        let mut visits = 0;
        move || {
            let n = range.start + visits % range.len();
            visits += 1;
            let identity = Identity {
                client_id: format!("visit-{visits}"),
                token: token(n)?,
                document_id: format!("d{}", n / per_document),
                place: n % per_document,
            };
            let driver = SocketIo::visiting(identity, format!("d{}", other(n / per_document, documents)));
            Ok((addresses[visits % addresses.len()], Box::new(driver) as Box<dyn Driver>))
        }
    }

    /// CPU time of the pods so far.
    ///
    /// # Errors
    /// When one is gone.
    pub fn cpu(&self) -> Result<Duration> {
        self.pods.iter().map(Process::cpu).sum()
    }

    /// CPU time of Redis so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn redis_cpu(&self) -> Result<Duration> {
        self.redis.as_ref().map_or(Ok(Duration::ZERO), Process::cpu)
    }

    /// Memory of the pods, after a collection where the language has one to ask for.
    ///
    /// # Errors
    /// When one is gone.
    pub fn rss_bytes(&self) -> Result<u64> {
        self.pods.iter().map(Process::rss_bytes).sum()
    }

    /// Asks Node to collect its garbage: then what stays is needed.
    ///
    /// # Errors
    /// When there is no `kill`.
    pub fn collect_garbage(&self) -> Result<()> {
        if matches!(self.kind, Kind::SocketIo | Kind::ShareDb) {
            for pod in &self.pods {
                let status = Command::new("kill").args(["-USR2", &pod.id().to_string()]).status()?;
                ensure!(status.success(), "kill -USR2");
            }
        }
        Ok(())
    }
}

fn redis(programs: &Programs, folder: &tempfile::TempDir) -> Result<(Process, SocketAddr)> {
    let address = free_address()?;
    let mut command = Command::new(&programs.redis);
    command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(folder.path());
    Ok((Process::start(command, &folder.path().join("redis.log"), address)?, address))
}

/// The keys that applications own (users, access, first text), and the text for the Socket.IO server.
async fn fill(address: SocketAddr, users: usize, documents: usize) -> Result<()> {
    let client = redis::Client::open(format!("redis://{address}"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let (per_document, text) = (users.div_ceil(documents), text());
    for start in (0..users.max(documents)).step_by(KEYS_AT_ONCE) {
        let mut pipeline = redis::Pipeline::new();
        for n in start..start + KEYS_AT_ONCE {
            if n < users {
                let user = format!(r#"{{"id":"u{n}","name":"User {n}","avatar":null}}"#);
                pipeline.cmd("SET").arg(format!("user:u{n}")).arg(user).ignore();
                for document in [n / per_document, other(n / per_document, documents)] {
                    pipeline.cmd("SET").arg(format!("doc:d{document}:access:u{n}")).arg("write").ignore();
                }
            }
            if n < documents {
                pipeline.cmd("SET").arg(format!("doc:d{n}:content")).arg(&text).ignore();
                pipeline.cmd("SET").arg(format!("content:d{n}")).arg(&text).ignore();
            }
        }
        pipeline.query_async::<()>(&mut connection).await?;
    }
    Ok(())
}

fn text() -> String {
    SENTENCE.repeat((1 + PER_DOCUMENT * STAMP_CHARS).div_ceil(SENTENCE.len()))
}

/// The other document that the users of one may write.
fn other(document: usize, documents: usize) -> usize {
    (document + documents / 2) % documents
}

fn token(n: usize) -> Result<String> {
    #[derive(Serialize)]
    struct Claims {
        sub: String,
        exp: u64,
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = Claims { sub: format!("u{n}"), exp: now + 24 * 3600 };
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    Ok(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)?)
}
