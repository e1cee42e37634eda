//! A primary is killed while its follower lags behind and the editors go on typing; the follower is promoted.
//!
//! In: real servers, pods as processes, a replication link that is slow, or a follower that is stopped. Out: whatever the
//! pods still know is put back, and where they die too nothing that a follower had to have is lost; everybody ends with
//! what the log has and no word is there twice; the admin ports tell what goes on.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod pods;
#[path = "pressure/proxy.rs"]
mod proxy;
#[macro_use]
mod servers;

use std::time::Duration;

use editor::Editor;
use futures_util::future::join_all;
use pods::Pod;
use proxy::Proxy;
use redis::AsyncCommands;
use servers::{Engine, Server, eventually};
use tokio_util::sync::CancellationToken;

/// Entries of the document that the follower lacks when the primary dies; far fewer than a pod's window has.
const LAG: u64 = 60;
/// One way, on the slow link.
const DELAY: Duration = Duration::from_millis(100);
const USERS: [&str; 4] = ["ann", "bob", "cat", "dan"];

/// What keeps the follower behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lag {
    /// Everything on the link is late, and the last of it never arrives.
    SlowLink,
    /// Its process is stopped; what is in its socket it may still read.
    Stopped,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Primary,
    /// And every pod that knew what was lost: others take their clients.
    PrimaryAndPods,
}

on_both! {
    a_slow_link_and_acknowledgements_at_once
    a_slow_link_and_acknowledgements_by_the_follower
    a_slow_link_and_the_death_of_the_pods
    a_stopped_follower_and_acknowledgements_at_once
    a_stopped_follower_and_acknowledgements_by_it
}

async fn a_slow_link_and_acknowledgements_at_once(engine: Engine) -> Option<()> {
    promoted(engine, Lag::SlowLink, Loss::Primary, "async").await
}

async fn a_slow_link_and_acknowledgements_by_the_follower(engine: Engine) -> Option<()> {
    promoted(engine, Lag::SlowLink, Loss::Primary, "replicated").await
}

async fn a_slow_link_and_the_death_of_the_pods(engine: Engine) -> Option<()> {
    promoted(engine, Lag::SlowLink, Loss::PrimaryAndPods, "replicated").await
}

async fn a_stopped_follower_and_acknowledgements_at_once(engine: Engine) -> Option<()> {
    promoted(engine, Lag::Stopped, Loss::Primary, "async").await
}

async fn a_stopped_follower_and_acknowledgements_by_it(engine: Engine) -> Option<()> {
    promoted(engine, Lag::Stopped, Loss::Primary, "replicated").await
}

async fn promoted(engine: Engine, lag: Lag, loss: Loss, level: &str) -> Option<()> {
    let mut stage = Stage::new(engine, lag, level).await?;
    let mut editors = stage.editors();
    let done = CancellationToken::new();
    let weather = async {
        let lost = stage.fail_over(loss).await;
        done.cancel();
        lost
    };
    let (lost, typed) = tokio::join!(weather, join_all(editors.iter_mut().map(|editor| editor.type_until(&done))));
    // A pod that was not there has nothing but what the log has.
    let fresh = Pod::start(&stage.follower.address(), &["--durability", level]);
    let mut eve = Editor::new("eve", "d", &[fresh.address], 9);
    eve.until("the newcomer is in", Editor::is_joined).await;
    let newest = editors.iter().map(|editor| editor.version).max().unwrap();
    eve.until("the newcomer has it all", |eve| eve.is_joined() && eve.version >= newest).await;
    let mut found: Vec<_> = eve.text().split_whitespace().map(str::to_owned).collect();
    for editor in &mut editors {
        editor.until("the editor has it all", |editor| editor.is_joined() && editor.version >= eve.version).await;
        assert_eq!(editor.text(), eve.text(), "{} and the log", editor.user);
        let acknowledged = editor.acknowledged_tokens();
        assert!(!acknowledged.is_empty(), "nothing was acknowledged to {}", editor.user);
        let missing: Vec<_> = acknowledged.iter().filter(|token| !found.contains(*token)).collect();
        assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    }
    let mut expected = typed.concat();
    expected.sort();
    found.sort();
    let put_back: f64 = join_all(stage.pods.iter().map(|pod| metric(pod, "edits_put_back_total"))).await.iter().sum();
    eprintln!("{} words, {lost} entries were the lost primary's alone, {put_back} were put back", found.len());
    match loss {
        Loss::Primary => assert_eq!(found, expected, "every word once"),
        Loss::PrimaryAndPods => assert!(found.windows(2).all(|pair| pair[0] != pair[1]), "no word twice: {found:?}"),
    }
    if lag == Lag::SlowLink {
        assert!(lost >= LAG, "the follower lacked {lost} only");
        assert_eq!(put_back > 0.0, loss == Loss::Primary);
    }
    for pod in &stage.pods {
        assert_eq!(metric(pod, "divergence_total").await, 0.0);
    }
    Some(())
}

/// A primary, its follower at the end of a link, a server that will follow that one, and two pods.
struct Stage {
    primary: Server,
    follower: Server,
    third: Server,
    link: Proxy,
    lag: Lag,
    /// Two that the editors use, and two where they go then.
    pods: Vec<Pod>,
}

impl Stage {
    /// None where the engine is not installed.
    async fn new(engine: Engine, lag: Lag, level: &str) -> Option<Self> {
        let start = async || Server::start(engine, &["--repl-diskless-sync-delay", "0"]).await;
        let (primary, follower, third) = (start().await?, start().await?, start().await?);
        let mut client = primary.client().await;
        for user in USERS.into_iter().chain(["eve"]) {
            client.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
        }
        let link = Proxy::to(primary.address()).await;
        follower.follow_at(&link.address).await;
        if lag == Lag::SlowLink {
            link.delay(DELAY);
        }
        let addresses = format!("{},{}", primary.address(), follower.address());
        let pods: Vec<_> = (0..4).map(|_| Pod::start(&addresses, &["--durability", level])).collect();
        for pod in &pods {
            eventually("the pod is ready", async || pod.get("/readyz").await == (200, "ok\n".to_owned())).await;
        }
        Some(Self { primary, follower, third, link, lag, pods })
    }

    fn editors(&self) -> Vec<Editor> {
        let at = |n: usize| [self.pods[n % 2].address, self.pods[2 + n % 2].address];
        let editor = |(n, user): (usize, &&str)| {
            let mut editor = Editor::new(user, "d", &at(n), n as u64);
            editor.asks = true;
            editor
        };
        USERS.iter().enumerate().map(editor).collect()
    }

    /// `kill -9` of the primary while the follower lags behind, and its promotion; how many entries that one lacked when
    /// it took over.
    async fn fail_over(&mut self, loss: Loss) -> u64 {
        let mut primary = self.primary.client().await;
        // The lag is no reason to lose the first acknowledgements.
        eventually("it is edited", async || version(&mut primary).await > 4 * LAG).await;
        let mut follower = self.follower.client().await;
        eventually("the follower follows", async || version(&mut follower).await > 2 * LAG).await;
        match self.lag {
            Lag::SlowLink => self.link.hold_answers(true),
            Lag::Stopped => self.follower.signal("-STOP"),
        }
        let behind = version(&mut primary).await;
        eventually("it lags behind", async || version(&mut primary).await > behind + LAG).await;
        let head = version(&mut primary).await;
        self.primary.kill();
        let dead = if loss == Loss::PrimaryAndPods { 2 } else { 0 };
        // Dropped is killed.
        drop(self.pods.drain(..dead));
        for pod in &self.pods {
            eventually("the metrics tell it", async || metric(pod, "store_up").await == 0.0).await;
            let (code, text) = pod.get("/readyz").await;
            assert!(code == 200 && text.starts_with("ok, but the store"), "{code} {text}");
        }
        if self.lag == Lag::Stopped {
            self.follower.signal("-CONT");
        }
        let has = version(&mut follower).await;
        self.follower.promote(1).await;
        self.third.follow(&self.follower).await;
        for pod in &self.pods[..2] {
            let before = metric(pod, "edits_committed_total").await;
            eventually("it goes on", async || metric(pod, "edits_committed_total").await > before + 20.0).await;
            eventually("the pod says that all is well", async || {
                metric(pod, "store_up").await == 1.0 && pod.get("/readyz").await == (200, "ok\n".to_owned())
            })
            .await;
        }
        head.saturating_sub(has)
    }
}

async fn metric(pod: &Pod, name: &str) -> f64 {
    pod.metric(&format!("collab_gateway_{name}")).await.unwrap()
}

async fn version(client: &mut redis::aio::MultiplexedConnection) -> u64 {
    client.hget("{doc:d}:meta", "v").await.unwrap_or(0)
}
