//! Redis under pressure: gone, hung, slow, read-only, loading, busy, full, unable to save, without followers, switching.
//! In each case two editors keep typing through two gateways; see `stage.rs` for what must hold.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../editor/mod.rs"]
mod editor;
mod proxy;
#[macro_use]
#[path = "../servers/mod.rs"]
mod servers;
mod stage;

use std::time::Duration;

use proxy::Proxy;
use servers::{Engine, Server, eventually, run};
use stage::{Effect, Trouble, withstand};

on_both! {
    a_server_that_was_killed_and_comes_back
    a_server_that_hangs
    a_server_that_lets_writes_wait
    a_slow_network
    a_server_that_became_a_follower_of_nobody
    a_server_that_loads_its_data_for_a_while
    a_script_that_does_not_end
    a_server_that_forgets_its_scripts
    a_server_out_of_memory
    a_server_that_may_throw_documents_away
    a_server_that_cannot_save
    a_primary_without_followers
    a_planned_switch_to_the_follower
}

async fn a_server_that_was_killed_and_comes_back(engine: Engine) -> Option<()> {
    let trouble = Trouble::with(engine, &[]).await?;
    withstand(trouble, None, Effect::Held, async |t| t.server.kill(), async |t| t.server.start_again().await).await;
    Some(())
}

/// The connection stays, no answer comes.
async fn a_server_that_hangs(engine: Engine) -> Option<()> {
    let trouble = Trouble::with(engine, &[]).await?;
    withstand(trouble, None, Effect::Held, async |t| t.signal("-STOP"), async |t| t.signal("-CONT")).await;
    Some(())
}

/// It answers to everything but changes, as while a replica is promoted by hand.
async fn a_server_that_lets_writes_wait(engine: Engine) -> Option<()> {
    let trouble = Trouble::with(engine, &[]).await?;
    let hurt = async |t: &mut Trouble| t.run(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    withstand(trouble, None, Effect::Held, hurt, async |t| t.run(&["CLIENT", "UNPAUSE"]).await).await;
    Some(())
}

async fn a_slow_network(engine: Engine) -> Option<()> {
    const DELAY: Duration = Duration::from_millis(150);
    let trouble = Trouble::with(engine, &[]).await?;
    let proxy = Proxy::to(trouble.server.address()).await;
    let way = Some(proxy.address.clone());
    let hurt = async |_: &mut Trouble| proxy.delay(DELAY);
    // Half of it: some were under way before.
    withstand(trouble, way, Effect::Slow(DELAY / 2), hurt, async |_| proxy.delay(Duration::ZERO)).await;
    Some(())
}

async fn a_server_that_became_a_follower_of_nobody(engine: Engine) -> Option<()> {
    let trouble = Trouble::with(engine, &[]).await?;
    let hurt = async |t: &mut Trouble| t.run(&["REPLICAOF", "127.0.0.1", "1"]).await;
    withstand(trouble, None, Effect::Held, hurt, async |t| t.run(&["REPLICAOF", "NO", "ONE"]).await).await;
    Some(())
}

async fn a_server_that_loads_its_data_for_a_while(engine: Engine) -> Option<()> {
    // While it loads it looks at its connections after every 1,024 commands.
    const KEYS: usize = 30_000;
    let mut trouble = Trouble::with(engine, &[]).await?;
    for start in (0..KEYS).step_by(500) {
        let mut pipeline = redis::Pipeline::with_capacity(500);
        for n in start..start + 500 {
            pipeline.cmd("SET").arg(n).arg(n).ignore();
        }
        pipeline.exec_async(&mut trouble.client).await.unwrap();
    }
    let hurt = async |t: &mut Trouble| {
        t.server.add_arguments(&["--key-load-delay", "150"]);
        t.server.start_again().await;
    };
    let heal = async |t: &mut Trouble| {
        let mut client = t.server.client().await;
        eventually("it has loaded", async || {
            let info: redis::RedisResult<String> = redis::cmd("INFO").arg("persistence").query_async(&mut client).await;
            info.is_ok_and(|info| info.contains("\r\nloading:0"))
        })
        .await;
    };
    withstand(trouble, None, Effect::Held, hurt, heal).await;
    Some(())
}

async fn a_script_that_does_not_end(engine: Engine) -> Option<()> {
    let trouble = Trouble::with(engine, &["--lua-time-limit", "100"]).await?;
    let hurt = async |t: &mut Trouble| {
        let mut client = t.server.client().await;
        tokio::spawn(async move {
            let _ = redis::cmd("EVAL").arg("while true do end").arg(0).exec_async(&mut client).await;
        });
    };
    let heal = async |t: &mut Trouble| {
        let mut client = t.client.clone();
        eventually("it is ended", async || redis::cmd("SCRIPT").arg("KILL").exec_async(&mut client).await.is_ok())
            .await;
    };
    withstand(trouble, None, Effect::Held, hurt, heal).await;
    Some(())
}

async fn a_server_that_forgets_its_scripts(engine: Engine) -> Option<()> {
    let trouble = Trouble::with(engine, &[]).await?;
    let flush = async |t: &mut Trouble| t.run(&["SCRIPT", "FLUSH"]).await;
    withstand(trouble, None, Effect::Slow(Duration::ZERO), flush, flush).await;
    Some(())
}

async fn a_server_out_of_memory(engine: Engine) -> Option<()> {
    let trouble = Trouble::with(engine, &["--maxmemory-policy", "noeviction"]).await?;
    let hurt = async |t: &mut Trouble| t.run(&["CONFIG", "SET", "maxmemory", "1000"]).await;
    withstand(trouble, None, Effect::Held, hurt, async |t| t.run(&["CONFIG", "SET", "maxmemory", "0"]).await).await;
    Some(())
}

async fn a_server_that_may_throw_documents_away(engine: Engine) -> Option<()> {
    let server = Server::start(engine, &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await?;
    let gateway = editor::Gateway::start(&server.address()).await;
    let admin = stage::serve_admin(&gateway).await;
    let told = async |expected: u64| {
        eventually("the metrics tell it", async || {
            stage::metric(admin, "collab_gateway_store_may_evict").await == expected
        })
        .await;
    };
    told(1).await;
    run(&mut server.client().await, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    told(0).await;
    run(&mut server.client().await, &["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]).await;
    told(1).await;
    // Without a limit nothing is thrown away, whatever the policy.
    run(&mut server.client().await, &["CONFIG", "SET", "maxmemory", "0"]).await;
    told(0).await;
    Some(())
}

/// `MISCONF`: its snapshots fail, and then it takes no changes.
async fn a_server_that_cannot_save(engine: Engine) -> Option<()> {
    let trouble = Trouble::with(engine, &[]).await?;
    let hurt = async |t: &mut Trouble| {
        // A directory in the place of the file cannot be replaced by it.
        std::fs::create_dir(t.directory().join("dump.rdb")).unwrap();
        t.run(&["CONFIG", "SET", "save", "3600 1"]).await;
        save(t, "err").await;
    };
    let heal = async |t: &mut Trouble| {
        std::fs::remove_dir(t.directory().join("dump.rdb")).unwrap();
        save(t, "ok").await;
    };
    withstand(trouble, None, Effect::Held, hurt, heal).await;
    Some(())
}

async fn save(trouble: &mut Trouble, outcome: &str) {
    let mut client = trouble.client.clone();
    let wanted = format!("rdb_last_bgsave_status:{outcome}");
    eventually("it has tried to save", async || {
        // Refused while another one is under way.
        let _ = redis::cmd("BGSAVE").exec_async(&mut client).await;
        let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut client).await.unwrap();
        info.contains(&wanted)
    })
    .await;
}

async fn a_primary_without_followers(engine: Engine) -> Option<()> {
    let trouble = Trouble::with(engine, &[]).await?;
    let hurt = async |t: &mut Trouble| t.run(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let heal = async |t: &mut Trouble| t.run(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    withstand(trouble, None, Effect::Held, hurt, heal).await;
    Some(())
}

async fn a_planned_switch_to_the_follower(engine: Engine) -> Option<()> {
    let mut trouble = Trouble::with(engine, &["--repl-diskless-sync-delay", "0"]).await?;
    let follower = Server::start(engine, &["--repl-diskless-sync-delay", "0"]).await?;
    let port = follower.port.to_string();
    let mut client = follower.client().await;
    run(&mut client, &["REPLICAOF", "127.0.0.1", &trouble.server.port.to_string()]).await;
    let is = async |client: &mut redis::aio::MultiplexedConnection, what: &str| {
        let info: String = redis::cmd("INFO").arg("replication").query_async(client).await.unwrap();
        info.contains(what)
    };
    eventually("it follows", async || is(&mut client, "master_link_status:up").await).await;
    trouble.follower = Some(follower);
    let hurt = async |t: &mut Trouble| t.run(&["FAILOVER", "TO", "127.0.0.1", &port, "TIMEOUT", "10000"]).await;
    let heal = async |_: &mut Trouble| eventually("it leads", async || is(&mut client, "role:master").await).await;
    withstand(trouble, None, Effect::Slow(Duration::ZERO), hurt, heal).await;
    Some(())
}
