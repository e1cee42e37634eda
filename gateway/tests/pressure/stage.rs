//! One stage for every kind of trouble: a server, two gateways, an editor at each who never stops typing.
//!
//! In: how the server is hurt and how it heals. Out: nothing, or a panic that says what did not hold: while the trouble
//! lasts the admin ports tell it and the gateways stay ready; afterwards everything goes on by itself within seconds, and
//! whatever was typed is in the document once.

use std::{
    future::pending,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use collab_gateway::admin;
use redis::aio::MultiplexedConnection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::{
    editor::{Editor, Gateway},
    servers::{Engine, Server, eventually, run},
};

/// From the end of the trouble to the first commit: the connection's own timeouts and the longest backoff, and room for
/// a busy machine.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Versions that are committed before the trouble, and after it.
const VERSIONS: u64 = 30;
/// People who edit.
const USERS: [&str; 3] = ["ann", "bob", "eve"];

/// What happens to the gateways' edits while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing can be committed.
    Held,
    /// Everything takes longer: commits this long in the mean, at least.
    Slow(Duration),
}

/// The servers as they are hurt.
pub struct Trouble {
    pub server: Server,
    pub follower: Option<Server>,
    /// Known to be the primary when the trouble began.
    pub client: MultiplexedConnection,
}

impl Trouble {
    /// One server with these further arguments.
    pub async fn with(engine: Engine, arguments: &[&str]) -> Option<Self> {
        let server = Server::start(engine, arguments).await?;
        let mut client = server.client().await;
        for user in USERS {
            run(&mut client, &["SET", &format!("doc:d:access:{user}"), "write"]).await;
        }
        Some(Self { server, follower: None, client })
    }

    pub async fn run(&mut self, words: &[&str]) {
        run(&mut self.client, words).await;
    }

    pub fn signal(&self, signal: &str) {
        let process = self.server.process().to_string();
        assert!(std::process::Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    /// Where the server keeps its files.
    pub fn directory(&self) -> PathBuf {
        self.server.directory().to_owned()
    }

    fn addresses(&self) -> Vec<String> {
        [Some(&self.server), self.follower.as_ref()].into_iter().flatten().map(Server::address).collect()
    }
}

/// Plays it: see the head of this file. `way` leads the gateways to the servers by other addresses.
pub async fn withstand(
    mut trouble: Trouble,
    way: Option<String>,
    effect: Effect,
    hurt: impl AsyncFnOnce(&mut Trouble),
    heal: impl AsyncFnOnce(&mut Trouble),
) {
    let addresses = way.unwrap_or_else(|| trouble.addresses().join(","));
    let (one, two) = (Gateway::start(&addresses).await, Gateway::start(&addresses).await);
    let admins = [serve_admin(&one).await, serve_admin(&two).await];
    let (mut ann, mut bob) = (Editor::new("ann", "d", &[one.address], 1), Editor::new("bob", "d", &[two.address], 2));
    let mut eve = Editor::new("eve", "d", &[one.address, two.address], 3);
    let (done, hurting) = (CancellationToken::new(), CancellationToken::new());
    let weather = async {
        for admin in admins {
            eventually("the gateway is ready", async || get(admin, "/readyz").await == "200 ok\n").await;
        }
        progress(admins, VERSIONS).await;
        hurt(&mut trouble).await;
        hurting.cancel();
        if effect == Effect::Held {
            for admin in admins {
                eventually("the metrics tell it", async || store_up(admin).await == 0).await;
                let ready = get(admin, "/readyz").await;
                assert!(ready.starts_with("200 ok, but the store"), "{ready}");
                assert_eq!(get(admin, "/livez").await, "200 ok\n");
            }
        }
        if let Effect::Slow(least) = effect {
            let before = [commits(admins[0]).await, commits(admins[1]).await];
            progress(admins, VERSIONS).await;
            for (admin, before) in admins.into_iter().zip(before) {
                // A switch is told of, too, and is soon over.
                eventually("the gateway says that it works", async || {
                    store_up(admin).await == 1 && get(admin, "/readyz").await == "200 ok\n"
                })
                .await;
                assert_eq!(get(admin, "/livez").await, "200 ok\n");
                let (count, seconds) = commits(admin).await;
                let mean = (seconds - before.1) / (count - before.0);
                assert!(mean >= least.as_secs_f64(), "the metrics do not tell it: {mean} s a commit");
            }
        }
        heal(&mut trouble).await;
        let healed = Instant::now();
        progress(admins, 1).await;
        let after = healed.elapsed();
        eprintln!("the first commit came {after:?} after the end of the trouble");
        assert!(after < RECOVERY_MAX, "{after:?}");
        progress(admins, VERSIONS).await;
        for admin in admins {
            eventually("the gateway says that all is well", async || {
                store_up(admin).await == 1 && get(admin, "/readyz").await == "200 ok\n"
            })
            .await;
        }
        done.cancel();
    };
    // She comes while it lasts, and is held rather than refused.
    let newcomer = async {
        hurting.cancelled().await;
        eve.until("the newcomer is in", Editor::is_joined).await;
    };
    let (a, b, (), ()) = tokio::join!(ann.type_until(&done), bob.type_until(&done), weather, newcomer);
    assert!(!a.is_empty() && !b.is_empty());
    agree(&mut [&mut ann, &mut bob], &mut eve, [a, b].concat()).await;
    for editor in [&ann, &bob, &eve] {
        let errors: Vec<_> = editor.heard.iter().filter(|(name, _)| name == "error").collect();
        assert!(errors.is_empty(), "{}: {errors:?}", editor.user);
    }
}

/// How many edits were committed so far, and how long that took for each, together.
async fn commits(admin: SocketAddr) -> (f64, f64) {
    let value = async |name| value(admin, name).await.parse().unwrap();
    (value("collab_gateway_edit_commit_seconds_count").await, value("collab_gateway_edit_commit_seconds_sum").await)
}

/// Waits until edits of both gateways went through, this many each.
async fn progress(admins: [SocketAddr; 2], versions: u64) {
    for admin in admins {
        let before = metric(admin, "collab_gateway_edits_committed_total").await;
        eventually("edits go through", async || {
            metric(admin, "collab_gateway_edits_committed_total").await >= before + versions
        })
        .await;
    }
}

async fn agree(editors: &mut [&mut Editor], newcomer: &mut Editor, mut expected: Vec<String>) {
    let newest = editors.iter().map(|editor| editor.version).max().unwrap();
    newcomer.until("the newcomer has it all", |editor| editor.is_joined() && editor.version >= newest).await;
    for editor in editors.iter_mut() {
        editor.until("the editor has it all", |editor| editor.is_joined() && editor.version >= newest).await;
        assert_eq!(editor.text(), newcomer.text(), "{} and the newcomer", editor.user);
    }
    let mut found: Vec<_> = newcomer.text().split_whitespace().map(str::to_owned).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

pub async fn serve_admin(gateway: &Gateway) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin::serve(listener, gateway.running.as_ref().unwrap().admin.clone(), pending()));
    address
}

async fn store_up(admin: SocketAddr) -> u64 {
    metric(admin, "collab_gateway_store_up").await
}

pub async fn metric(admin: SocketAddr, name: &str) -> u64 {
    value(admin, name).await.parse().unwrap()
}

async fn value(admin: SocketAddr, name: &str) -> String {
    let text = get(admin, "/metrics").await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

/// Status and body.
async fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    format!("{} {body}", &head["HTTP/1.1 ".len()..][..3])
}
