//! What the sequencer costs: one hot document from 64 writers over 16 store clients, and commit calls a second.
//!
//! In: `redis-server`. Out: rows of the table. The peers of the same run are compare-and-set on the same log, which is
//! what most systems do, and a bare `XADD` with `PUBLISH`, which is the least that a log costs.

mod cas;

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use collab_gateway::store::{Creation, NewEntry, RedisSettings, RedisStore, Store};
use document::{Identity, Point, Verdict};
use load::{
    figures::{Row, write},
    histogram::Histogram,
    process::{Process, free_address},
};
use tokio::task::JoinSet;

const DOCUMENT: &str = "hot";
const STORES: usize = 16;
const WRITERS: usize = 64;
const EDITS_PER_SECOND: f64 = 2500.0;
/// Milliseconds; DESIGN section 11.
const P99_MAX: f64 = 20.0;
/// Documents that are written at once where only calls are counted.
const DOCUMENTS: usize = 256;
const TIME: Duration = Duration::from_secs(8);
/// About what an edit takes in the log.
const ENTRY: &[u8] = &[b'e'; 180];
const WINDOW: u64 = 512;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let address = free_address()?;
    let mut command = Command::new("redis-server");
    command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(folder.path());
    let redis = Process::start(command, &folder.path().join("redis.log"), address)?;
    let stores: Vec<Store> = (0..STORES).map(|_| store(&address.to_string())).collect();

    let batched = hot(&stores).await?;
    batched.say("batches");
    let compared = cas::hot(address).await?;
    compared.say("compare-and-set");
    let (calls, call_us) = counted(&redis, calls(&stores)).await?;
    println!("commit: {calls:.0} calls/s, {call_us:.1} µs of Redis each");
    let (bare, bare_us) = counted(&redis, cas::bare(address)).await?;
    println!("XADD and PUBLISH: {bare:.0} a second, {bare_us:.1} µs of Redis each");
    write(&[
        Row {
            what: format!("one document, {WRITERS} writers over {STORES} stores, {EDITS_PER_SECOND} edits/s offered"),
            figure: batched.figure(),
            target: format!("p99 ≤ {P99_MAX} ms, 1.0 attempts"),
            peers: format!("compare-and-set {}", compared.figure()),
            is_met: Some(batched.p99_ms() <= P99_MAX && batched.attempts < 1.05),
        },
        Row {
            what: format!("commit calls a second, {DOCUMENTS} documents, the load on the same cores"),
            figure: format!("{calls:.0}, {call_us:.1} µs of Redis each"),
            target: String::new(),
            peers: format!("XADD + PUBLISH without a script {bare:.0}, {bare_us:.1} µs"),
            is_met: None,
        },
    ])
}

/// What became of the edits of a hot document.
#[derive(Default)]
struct Hot {
    /// From when the edit was due to its answer, in microseconds; an edit without one counts its age.
    latency: Histogram,
    committed: u64,
    attempts: f64,
}

impl Hot {
    fn p99_ms(&self) -> f64 {
        self.latency.quantile(0.99) as f64 / 1e3
    }

    fn figure(&self) -> String {
        let p50 = self.latency.quantile(0.5) as f64 / 1e3;
        let rate = self.committed as f64 / TIME.as_secs_f64();
        format!("p50 / p99 {p50:.1} / {:.1} ms, {:.2} attempts, {rate:.0} edits/s", self.p99_ms(), self.attempts)
    }

    fn say(&self, name: &str) {
        println!("{name}: {}", self.figure());
    }
}

/// Edits of one writer fall due at even times, whether or not earlier ones have been answered.
struct Writer {
    id: Arc<str>,
    seq: u64,
    due: Instant,
}

impl Writer {
    fn all(start: Instant) -> impl Iterator<Item = Self> {
        (0..WRITERS).map(move |n| {
            let due = start + Duration::from_secs_f64(n as f64 / EDITS_PER_SECOND);
            Self { id: format!("writer-{n}").into(), seq: 1, due }
        })
    }

    fn next(&mut self) {
        self.seq += 1;
        self.due += Duration::from_secs_f64(WRITERS as f64 / EDITS_PER_SECOND);
    }
}

fn store(address: &str) -> Store {
    Store::Redis(RedisStore::new(Arc::new(RedisSettings::at(vec![address.to_owned()]))))
}

async fn create(store: &Store, document: &str) -> Result<Point> {
    Ok(store.create(document, Creation { root: "00000000000".into(), snapshot: None }).await?.head)
}

fn entry(writer: &Writer, base: u64) -> NewEntry {
    let identity = Identity { id: writer.id.clone(), seq: writer.seq, by_gateway: false };
    NewEntry { identity, owner: "user".into(), base, bytes: ENTRY.into() }
}

/// Each store batches what its writers have due, as a pod does: one call in flight.
async fn hot(stores: &[Store]) -> Result<Hot> {
    let head = create(&stores[0], DOCUMENT).await?;
    let start = Instant::now();
    let mut writers: Vec<Writer> = Writer::all(start).collect();
    let mut pods = JoinSet::new();
    for store in stores {
        let own = writers.split_off(writers.len() - WRITERS / STORES);
        pods.spawn(pod(store.clone(), head.clone(), own, start + TIME));
    }
    let mut hot = Hot::default();
    let mut attempts = 0;
    while let Some(pod) = pods.join_next().await {
        let (latencies, tried) = pod??;
        attempts += tried;
        hot.committed += latencies.len() as u64;
        for latency in latencies {
            hot.latency.record(latency);
        }
    }
    hot.attempts = attempts as f64 / hot.committed.max(1) as f64;
    Ok(hot)
}

async fn pod(store: Store, mut head: Point, mut writers: Vec<Writer>, end: Instant) -> Result<(Vec<u64>, u64)> {
    let (mut latencies, mut attempts) = (Vec::new(), 0);
    loop {
        let next = writers.iter().map(|writer| writer.due).min().context("a store has writers")?;
        if next >= end {
            return Ok((latencies, attempts));
        }
        tokio::time::sleep_until(next.into()).await;
        let now = Instant::now();
        let mut due: Vec<&mut Writer> = writers.iter_mut().filter(|writer| writer.due <= now).collect();
        let batch: Vec<NewEntry> = due.iter().map(|writer| entry(writer, head.version)).collect();
        let floor = head.version.saturating_sub(WINDOW);
        let committed = store.commit(DOCUMENT, &head, floor, &batch).await?;
        attempts += batch.len() as u64;
        for (writer, verdict) in due.iter_mut().zip(&committed.verdicts) {
            match verdict {
                Verdict::Ok(_) => {
                    latencies.push(writer.due.elapsed().as_micros() as u64);
                    writer.next();
                }
                Verdict::Behind => {}
                Verdict::Dup(_) | Verdict::Gap(_) | Verdict::Overloaded => bail!("{verdict:?} was not to come"),
            }
        }
        let mut tail = committed.tail;
        loop {
            if let Some(last) = tail.entries.last() {
                head = last.at.clone();
            }
            if !tail.more {
                break;
            }
            tail = store.tail(DOCUMENT, &head).await?;
        }
    }
}

/// Commits of one entry each, one document a task, until the time is over; how many.
async fn calls(stores: &[Store]) -> Result<u64> {
    let end = Instant::now() + TIME;
    let mut tasks = JoinSet::new();
    for n in 0..DOCUMENTS {
        let store = stores[n % stores.len()].clone();
        tasks.spawn(async move {
            let document = format!("document-{n}");
            let mut head = create(&store, &document).await?;
            let mut writer = Writer { id: "writer".into(), seq: 1, due: end };
            while Instant::now() < end {
                let floor = head.version.saturating_sub(WINDOW);
                let committed = store.commit(&document, &head, floor, &[entry(&writer, head.version)]).await?;
                head = committed.tail.entries.last().context("the new entry")?.at.clone();
                writer.seq += 1;
            }
            anyhow::Ok(writer.seq - 1)
        });
    }
    let mut all = 0;
    while let Some(task) = tasks.join_next().await {
        all += task??;
    }
    Ok(all)
}

/// A second, and microseconds of Redis for each.
async fn counted(redis: &Process, work: impl Future<Output = Result<u64>>) -> Result<(f64, f64)> {
    let (start, before) = (Instant::now(), redis.cpu()?);
    let count = work.await? as f64;
    Ok((count / start.elapsed().as_secs_f64(), (redis.cpu()? - before).as_secs_f64() * 1e6 / count))
}
