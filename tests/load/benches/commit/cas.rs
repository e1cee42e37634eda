//! The peers of the commit script: compare-and-set, one edit a call, and a log without any rule.
//!
//! In: the address of a Redis. Out: the same figures as the commit script's.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use anyhow::Result;
use redis::{Script, aio::MultiplexedConnection};
use tokio::task::JoinSet;

use crate::{DOCUMENTS, ENTRY, Hot, STORES, TIME, Writer};

const LOG: &str = "{hot-by-comparing}:log";
const CHANNEL: &str = "{hot-by-comparing}";

/// Every writer tries until nobody was quicker; what came in between has to be read and rebased over first.
pub(crate) async fn hot(address: SocketAddr) -> Result<Hot> {
    let script = Arc::new(Script::new(include_str!("cas.lua")));
    let connections = connections(address).await?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (n, writer) in Writer::all(start).enumerate() {
        tasks.spawn(write(script.clone(), connections[n % STORES].clone(), writer, start + TIME));
    }
    let (mut hot, mut attempts) = (Hot::default(), 0);
    while let Some(task) = tasks.join_next().await {
        let (latencies, unanswered, tried) = task??;
        attempts += tried;
        hot.committed += latencies.len() as u64;
        for latency in latencies.into_iter().chain(unanswered) {
            hot.latency.record(latency);
        }
    }
    hot.attempts = attempts as f64 / hot.committed.max(1) as f64;
    Ok(hot)
}

/// Latencies of what was committed, ages of what was due and was not, attempts.
async fn write(
    script: Arc<Script>,
    mut connection: MultiplexedConnection,
    mut writer: Writer,
    end: Instant,
) -> Result<(Vec<u64>, Vec<u64>, u64)> {
    let (mut version, mut latencies, mut attempts) = (0, Vec::new(), 0);
    while writer.due < end && Instant::now() < end {
        tokio::time::sleep_until(writer.due.into()).await;
        let mut call = script.key(LOG);
        call.arg(version).arg(ENTRY).arg(CHANNEL);
        let (done, answer): (u8, redis::Value) = call.invoke_async(&mut connection).await?;
        attempts += 1;
        if done == 1 {
            version = redis::from_redis_value::<u64>(answer)?;
            latencies.push(writer.due.elapsed().as_micros() as u64);
            writer.next();
        } else {
            version += redis::from_redis_value::<Vec<redis::Value>>(answer)?.len() as u64;
        }
    }
    let mut unanswered = Vec::new();
    while writer.due < end {
        unanswered.push(writer.due.elapsed().as_micros() as u64);
        writer.next();
    }
    Ok((latencies, unanswered, attempts))
}

/// Appends and publishes as fast as answers come, without a script; how many.
pub(crate) async fn bare(address: SocketAddr) -> Result<u64> {
    let connections = connections(address).await?;
    let end = Instant::now() + TIME;
    let mut tasks = JoinSet::new();
    for n in 0..DOCUMENTS {
        let mut connection = connections[n % STORES].clone();
        tasks.spawn(async move {
            let (mut count, key) = (0, format!("{{bare-{n}}}:log"));
            while Instant::now() < end {
                let mut pipeline = redis::pipe();
                pipeline.cmd("XADD").arg(&key).arg("*").arg("e").arg(ENTRY).arg("h").arg("00000000000");
                pipeline.cmd("SPUBLISH").arg(&key).arg(ENTRY);
                pipeline.query_async::<()>(&mut connection).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut all = 0;
    while let Some(task) = tasks.join_next().await {
        all += task??;
    }
    Ok(all)
}

async fn connections(address: SocketAddr) -> Result<Vec<MultiplexedConnection>> {
    let client = redis::Client::open(format!("redis://{address}"))?;
    let mut all = Vec::with_capacity(STORES);
    for _ in 0..STORES {
        all.push(client.get_multiplexed_async_connection().await?);
    }
    Ok(all)
}
