//! A primary dies with entries that its follower never got: the gateways that have them put them back.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
#[path = "pressure/proxy.rs"]
mod proxy;
mod servers;

use std::time::Duration;

use editor::{Editor, Gateway};
use proxy::Proxy;
use redis::{AsyncCommands, aio::MultiplexedConnection};
use servers::{Engine, PATIENCE, Server, eventually, run, scripts, within};
use tokio_util::sync::CancellationToken;

/// One way to a server that answers slowly: connecting to it takes several of these.
const SLOW: Duration = Duration::from_millis(50);

/// A primary with a follower, and gateways that know both.
struct Stage {
    primary: Server,
    follower: Server,
    /// How the gateways reach the follower.
    way: Proxy,
    gateways: Vec<Gateway>,
}

impl Stage {
    async fn new(users: &[&str], gateways: usize) -> Self {
        let primary = Server::start(Engine::Redis, &["--repl-diskless-sync-delay", "0"]).await.unwrap();
        let follower = Server::start(Engine::Redis, &["--repl-diskless-sync-delay", "0"]).await.unwrap();
        for user in users {
            primary.client().await.set::<_, _, ()>(format!("doc:d:access:{user}"), "write").await.unwrap();
        }
        follower.follow(&primary).await;
        let way = Proxy::to(follower.address()).await;
        let both = format!("{},{}", primary.address(), way.address);
        let mut started = Vec::new();
        for _ in 0..gateways {
            started.push(Gateway::start(&both).await);
        }
        Self { primary, follower, way, gateways: started }
    }

    fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.gateways.iter().map(|gateway| gateway.address).collect()
    }

    /// Waits until the follower has all of the document, then cuts it off: what comes now is the primary's alone.
    async fn cut_off_the_follower(&self) {
        let head = version(&mut self.primary.client().await).await;
        let mut client = self.follower.client().await;
        eventually("the follower has it all", async || version(&mut client).await == head).await;
        run(&mut client, &["REPLICAOF", "127.0.0.1", "1"]).await;
    }

    /// `kill -9` of the primary; says how many entries of the document are lost.
    async fn fail_over(&mut self) -> u64 {
        let mut client = self.follower.client().await;
        let lost = version(&mut self.primary.client().await).await - version(&mut client).await;
        self.primary.kill();
        self.follower.promote(1).await;
        lost
    }

    fn put_back(&self) -> u64 {
        let running = self.gateways.iter().filter_map(|gateway| gateway.running.as_ref());
        running.map(|running| running.server.pod().metrics.edits_put_back.get()).sum()
    }

    /// A newcomer has every token exactly once, and everybody has what it has.
    async fn agree(&self, editors: &mut [&mut Editor], expected: &[Vec<String>]) {
        let at = self.gateways.iter().rev().find(|gateway| gateway.running.is_some()).unwrap().address;
        let mut eve = Editor::new("eve", "d", &[at], 9);
        eve.until("the newcomer is in", Editor::is_joined).await;
        for editor in editors.iter_mut() {
            let version = eve.version;
            editor.until("the editor has it all", |editor| editor.is_joined() && editor.version >= version).await;
            assert_eq!(editor.text(), eve.text(), "{} and the newcomer", editor.user);
        }
        let mut found: Vec<_> = eve.text().split_whitespace().map(str::to_owned).collect();
        let mut expected: Vec<_> = expected.concat();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}

/// One editor whose gateway alone has its last `lost` edits when the primary dies; what it typed before those, and those.
async fn one_who_loses(lost: usize) -> (Stage, Editor, [Vec<String>; 2]) {
    let stage = Stage::new(&["ann", "eve"], 1).await;
    let mut ann = Editor::new("ann", "d", &stage.addresses(), 1);
    let typed = [tokens("annx", 20), tokens("anny", lost)];
    ann.type_all(typed[0].clone()).await;
    stage.cut_off_the_follower().await;
    ann.type_all(typed[1].clone()).await;
    (stage, ann, typed)
}

fn tokens(user: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{user}{n:04}")).collect()
}

#[tokio::test]
async fn acknowledged_edits_that_only_the_lost_primary_had_are_put_back() {
    let mut stage = Stage::new(&["ann", "bob", "eve"], 2).await;
    let at = stage.addresses();
    let (mut ann, mut bob) = (Editor::new("ann", "d", &at[..1], 1), Editor::new("bob", "d", &at[1..], 2));
    let before = [tokens("annx", 40), tokens("bobx", 40)];
    tokio::join!(ann.type_all(before[0].clone()), bob.type_all(before[1].clone()));
    stage.cut_off_the_follower().await;
    let lost = [tokens("anny", 60), tokens("boby", 60)];
    tokio::join!(ann.type_all(lost[0].clone()), bob.type_all(lost[1].clone()));
    assert_eq!(stage.fail_over().await, 120, "the new primary has none of them");
    // Both write on at once, while both gateways put back what they have.
    let after = [tokens("annz", 40), tokens("bobz", 40)];
    tokio::join!(ann.type_all(after[0].clone()), bob.type_all(after[1].clone()));
    stage.agree(&mut [&mut ann, &mut bob], &[before, lost, after].concat()).await;
    assert!(stage.put_back() >= 120, "{}", stage.put_back());
}

#[tokio::test]
async fn a_gateway_puts_back_what_it_heard_from_one_that_died() {
    let mut stage = Stage::new(&["ann", "bob", "eve"], 2).await;
    let at = stage.addresses();
    let (mut ann, mut bob) = (Editor::new("ann", "d", &at, 1), Editor::new("bob", "d", &at[1..], 2));
    let before = [tokens("annx", 20), tokens("bobx", 20)];
    tokio::join!(ann.type_all(before[0].clone()), bob.type_all(before[1].clone()));
    stage.cut_off_the_follower().await;
    let lost = [tokens("anny", 40), tokens("boby", 40)];
    tokio::join!(ann.type_all(lost[0].clone()), bob.type_all(lost[1].clone()));
    let version = ann.version.max(bob.version);
    bob.until("the other gateway has heard it all", |bob| bob.version >= version).await;
    stage.gateways[0].kill();
    assert_eq!(stage.fail_over().await, 80);
    let after = [tokens("annz", 20), tokens("bobz", 20)];
    tokio::join!(ann.type_all(after[0].clone()), bob.type_all(after[1].clone()));
    stage.agree(&mut [&mut ann, &mut bob], &[before, lost, after].concat()).await;
}

/// What a copy of a document asked for before it gave up may hold the way to the store: nothing waits behind it.
#[tokio::test]
async fn a_new_primary_that_answers_slowly_holds_up_nobody_for_ever() {
    let mut stage = Stage::new(&["ann", "bob", "eve"], 1).await;
    let at = stage.addresses();
    let (mut ann, mut bob) = (Editor::new("ann", "d", &at, 1), Editor::new("bob", "d", &at, 2));
    let before = [tokens("annx", 10), tokens("bobx", 10)];
    tokio::join!(ann.type_all(before[0].clone()), bob.type_all(before[1].clone()));
    stage.cut_off_the_follower().await;
    let lost = [tokens("anny", 10), tokens("boby", 10)];
    tokio::join!(ann.type_all(lost[0].clone()), bob.type_all(lost[1].clone()));
    stage.way.delay(SLOW);
    stage.way.delay_unevenly(SLOW);
    assert_eq!(stage.fail_over().await, 20);
    let after = [tokens("annz", 10), tokens("bobz", 10)];
    tokio::join!(ann.type_all(after[0].clone()), bob.type_all(after[1].clone()));
    stage.agree(&mut [&mut ann, &mut bob], &[before, lost, after].concat()).await;
}

/// Nobody else has what the lost primary had acknowledged: it is kept as long as the new one cannot be read.
#[tokio::test]
async fn what_a_failover_lost_is_put_back_although_the_new_primary_goes_away_too() {
    let (mut stage, mut ann, typed) = one_who_loses(30).await;
    // What shows that entries are lost gets through, and what is read for that does not.
    stage.way.delay(4 * SLOW);
    assert_eq!(stage.fail_over().await, 30);
    ann.until("the copy is given up", |ann| !ann.is_joined()).await;
    stage.follower.kill();
    // As any join while the store is away.
    ann.until("its join is refused", |ann| !ann.heard.is_empty()).await;
    assert_eq!(ann.heard[0].1["code"], "STORE_UNAVAILABLE");
    assert_eq!(stage.put_back(), 0);
    stage.way.delay(Duration::ZERO);
    stage.follower.start_again().await;
    stage.agree(&mut [&mut ann], &typed).await;
    assert_eq!(stage.put_back(), 30);
}

#[tokio::test]
async fn a_document_that_nobody_has_open_any_more_is_put_back() {
    let (mut stage, ann, typed) = one_who_loses(30).await;
    drop(ann);
    assert_eq!(stage.fail_over().await, 30);
    eventually("the gateway puts it back by itself", async || stage.put_back() == 30).await;
    stage.agree(&mut [], &typed).await;
}

#[tokio::test]
async fn two_hundred_lost_edits_are_put_back_in_a_few_calls() {
    let (mut stage, mut ann, typed) = one_who_loses(200).await;
    assert_eq!(stage.fail_over().await, 200);
    let mut follower = stage.follower.client().await;
    eventually("all is there again", async || version(&mut follower).await == 220).await;
    // Questions to the log, opening and joining are among them.
    let calls = scripts(&mut follower).await;
    eprintln!("{calls} calls of scripts until 200 edits were put back");
    assert!(calls < 20, "{calls} calls of scripts");
    stage.agree(&mut [&mut ann], &typed).await;
}

async fn version(client: &mut MultiplexedConnection) -> u64 {
    client.hget("{doc:d}:meta", "v").await.unwrap_or(0)
}

/// Ten seconds for people to come back and thirty for entries to be remembered, counted from when nobody was left.
#[tokio::test]
async fn a_document_that_nobody_uses_here_is_closed_although_others_type_elsewhere() {
    let stage = Stage::new(&["ann", "bob"], 2).await;
    let at = stage.addresses();
    let (mut ann, mut bob) = (Editor::new("ann", "d", &at[..1], 1), Editor::new("bob", "d", &at[1..], 2));
    ann.until("ann is in", Editor::is_joined).await;
    let stop = CancellationToken::new();
    let typing = async {
        let typed = bob.type_until(&stop).await;
        assert!(!typed.is_empty());
    };
    let closing = async {
        drop(ann);
        within(2 * PATIENCE, "it is closed", async || stage.gateways[0].documents() == 0).await;
        stop.cancel();
    };
    tokio::join!(typing, closing);
}
