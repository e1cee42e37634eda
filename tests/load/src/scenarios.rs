//! What is measured, the same way for everybody.
//!
//! In: a kind of server. Out: figures. Warm-up is not counted; CPU and memory are the servers' alone, as the kernel
//! counts them.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};

use crate::{
    bare::Bare,
    drivers::{Driver, Listener},
    histogram::Histogram,
    process::{Process, free_address},
    servers::{Kind, Programs, Servers},
    swarm::{Counts, Swarm},
};

/// Pods of the edit scenario.
const PODS: usize = 2;
/// Editors of one document.
pub const PER_DOCUMENT: usize = 20;
/// Joined before memory is measured for the first time: what a process needs once is not charged to connections.
const FIRST_CONNECTIONS: usize = 1_000;
/// After joining, until nothing moves any more.
const SETTLE: Duration = Duration::from_secs(3);
/// Of a soak: visitors a second, each in a document of its own people and then in one of those who stay.
const VISITORS_PER_SECOND: f64 = 10.0;
/// Before counting.
const WARM_UP: Duration = Duration::from_secs(2);

/// Connections that have joined and rest.
#[derive(Debug, Clone)]
pub struct Idle {
    /// How many the figures are taken over.
    pub connections: usize,
    /// Memory of each.
    pub bytes: f64,
    /// Servers' CPU of each connect, sign-in and join.
    pub cpu_ms: f64,
    /// The store's.
    pub redis_cpu_ms: f64,
    /// Connects a second, with this program on the same cores.
    pub per_second: f64,
    /// From connecting to having joined, in microseconds.
    pub joins: Histogram,
}

/// Edits at one rate.
#[derive(Debug, Clone)]
pub struct Edits {
    /// Deliveries a second as they were.
    pub per_second: f64,
    /// Servers' CPU of each delivery.
    pub cpu_us: f64,
    /// The store's.
    pub redis_cpu_us: f64,
    /// Bytes of each message that arrived.
    pub bytes: f64,
    /// From the writer's send to the reader's read.
    pub counts: Counts,
    /// Share of all deliveries that arrived in the time.
    pub share: f64,
}

/// Joins many, lets them rest, and measures what that took.
///
/// # Errors
/// When a server does not start or refuses somebody.
pub async fn idle(kind: Kind, programs: &Programs, connections: usize) -> Result<Idle> {
    let users = FIRST_CONNECTIONS + connections;
    let servers = Servers::start(kind, programs, 1, users, users / PER_DOCUMENT).await?;
    let mut swarm = Swarm::default();
    swarm.join(servers.clients(0..FIRST_CONNECTIONS, PER_DOCUMENT)?).await?;
    rest(&servers, &swarm).await?;
    let (bytes, cpu, redis_cpu) = (servers.rss_bytes()?, servers.cpu()?, servers.redis_cpu()?);
    swarm.take_joins();
    let took = swarm.join(servers.clients(FIRST_CONNECTIONS..users, PER_DOCUMENT)?).await?;
    let joins = swarm.take_joins();
    let (cpu, redis_cpu) = (servers.cpu()? - cpu, servers.redis_cpu()? - redis_cpu);
    rest(&servers, &swarm).await?;
    let bytes = servers.rss_bytes()?.saturating_sub(bytes);
    let each = connections as f64;
    Ok(Idle {
        connections,
        bytes: bytes as f64 / each,
        cpu_ms: cpu.as_secs_f64() * 1e3 / each,
        redis_cpu_ms: redis_cpu.as_secs_f64() * 1e3 / each,
        per_second: each / took.as_secs_f64(),
        joins,
    })
}

async fn rest(servers: &Servers, swarm: &Swarm) -> Result<()> {
    swarm.run(SETTLE / 2).await?;
    servers.collect_garbage()?;
    swarm.run(SETTLE / 2).await
}

/// Edits at each of these rates (deliveries a second), one after the other on the same servers.
///
/// # Errors
/// When a server does not start or refuses somebody.
pub async fn edits(
    kind: Kind,
    programs: &Programs,
    connections: usize,
    rates: &[f64],
    time: Duration,
) -> Result<Vec<Edits>> {
    let servers = Servers::start(kind, programs, PODS, connections, connections / PER_DOCUMENT).await?;
    let mut swarm = Swarm::default();
    swarm.join(servers.clients(0..connections, PER_DOCUMENT)?).await?;
    let mut all = Vec::new();
    for rate in rates {
        swarm.edits_per_second(rate / (PER_DOCUMENT - 1) as f64);
        let usage = || Ok((servers.cpu()?, servers.redis_cpu()?));
        all.push(window(&swarm, time, rate * time.as_secs_f64(), &usage).await?);
    }
    Ok(all)
}

/// The bare cost of a `send()` of frames of `bytes` at these rates.
///
/// # Errors
/// When the loop does not start.
pub async fn bare(connections: usize, rates: &[f64], bytes: u16, time: Duration) -> Result<Vec<Edits>> {
    let mut all = Vec::new();
    let folder = tempfile::tempdir()?;
    for rate in rates {
        let mut processes = Vec::new();
        let mut swarm = Swarm::default();
        for n in 0..PODS {
            let bare = Bare {
                listen: free_address()?,
                connections: connections / PODS,
                bursts: rate / (PER_DOCUMENT - 1) as f64,
                receivers: PER_DOCUMENT / PODS,
                bytes,
            };
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("bare").args(["--listen", &bare.listen.to_string(), "--bytes", &bytes.to_string()]);
            command.args(["--connections", &bare.connections.to_string(), "--bursts", &bare.bursts.to_string()]);
            command.args(["--receivers", &bare.receivers.to_string()]);
            processes.push(Process::start(command, &folder.path().join(format!("{n}.log")), bare.listen)?);
            let listeners = (0..bare.connections).map(|_| (bare.listen, Box::new(Listener) as Box<dyn Driver>));
            swarm.join(listeners.collect()).await?;
        }
        let usage = || Ok((processes.iter().map(Process::cpu).sum::<Result<Duration>>()?, Duration::ZERO));
        let sends = rate * PER_DOCUMENT as f64 / (PER_DOCUMENT - 1) as f64;
        all.push(window(&swarm, time, sends * time.as_secs_f64(), &usage).await?);
    }
    Ok(all)
}

/// Edits for a long time by some who stay, among whom others come and go; answers the memory at each sample.
///
/// # Errors
/// When a server does not start or refuses somebody.
pub async fn soak(
    programs: &Programs,
    connections: usize,
    rate: f64,
    samples: usize,
    every: Duration,
) -> Result<Vec<u64>> {
    let (users, documents) = (2 * connections, 2 * connections / PER_DOCUMENT);
    let servers = Servers::start(Kind::Gateway, programs, PODS, users, documents).await?;
    let mut swarm = Swarm::default();
    swarm.join(servers.clients(0..connections, PER_DOCUMENT)?).await?;
    swarm.edits_per_second(rate / (PER_DOCUMENT - 1) as f64);
    let visitors = servers.visitors(connections..users, documents, PER_DOCUMENT);
    swarm.visited(Duration::from_secs_f64(1.0 / VISITORS_PER_SECOND), visitors);
    let mut all = Vec::new();
    for _ in 0..samples {
        swarm.run(every).await?;
        all.push(servers.rss_bytes()?);
        let counts = swarm.take();
        println!(
            "soak: {:.1} MiB in {PODS} gateways, {:.0} deliveries/s, p99 {:.1} ms",
            servers.rss_bytes()? as f64 / f64::from(1 << 20),
            counts.deliveries as f64 / every.as_secs_f64(),
            counts.latency.quantile(0.99) as f64 / 1e3
        );
    }
    Ok(all)
}

async fn window(
    swarm: &Swarm,
    time: Duration,
    expected: f64,
    usage: &dyn Fn() -> Result<(Duration, Duration)>,
) -> Result<Edits> {
    swarm.run(WARM_UP).await?;
    swarm.take();
    let (cpu, redis_cpu) = usage()?;
    swarm.run(time).await?;
    let counts = swarm.take();
    let (cpu, redis_cpu) = {
        let now = usage().context("a server is gone")?;
        (now.0 - cpu, now.1 - redis_cpu)
    };
    let deliveries = counts.deliveries.max(1) as f64;
    Ok(Edits {
        per_second: counts.deliveries as f64 / time.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / deliveries,
        redis_cpu_us: redis_cpu.as_secs_f64() * 1e6 / deliveries,
        bytes: counts.bytes as f64 / (counts.deliveries + counts.confirmed).max(1) as f64,
        share: deliveries / expected,
        counts,
    })
}
