//! The table at the end: each figure beside its target, the peer's and the limit of the same run.
//!
//! In: measured figures, as they come. Out: lines while it runs; one table, and the same as tab-separated rows in the file
//! that `COLLAB_BENCH_ROWS` names, which other benchmarks append to.

use std::{fmt::Write as _, fs::OpenOptions, io::Write as _, time::Duration};

use anyhow::{Result, ensure};

use crate::scenarios::{Edits, Idle};

/// Names the file that rows are appended to.
pub const ROWS: &str = "COLLAB_BENCH_ROWS";

const GATEWAY: &str = "gateway";
const CENTRIFUGO: &str = "Centrifugo";
/// DESIGN section 11.
const IDLE_BYTES_MAX: f64 = 4096.0;
const JOIN_MS_MAX: f64 = 0.15;
/// Deliveries a second and how many bare sends one of them may cost.
const SENDS_MAX: [(f64, f64); 2] = [(15_000.0, 1.4), (30_000.0, 1.2)];
/// A server that delivers less in the time has met nothing: what it leaves out costs it nothing.
const SHARE_MIN: f64 = 0.99;
/// A soak that grows less than this in its second half is flat.
const SOAK_BYTES_PER_HOUR_MAX: f64 = 16.0 * 1024.0 * 1024.0;

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The figure, with its unit.
    pub figure: String,
    /// What it is to be; empty where nothing is asked.
    pub target: String,
    /// What the peers have in the same run.
    pub peers: String,
    /// Whether the target is met, where there is one.
    pub is_met: Option<bool>,
}

/// All figures of a run.
#[derive(Default)]
pub struct Figures {
    idle: Vec<(&'static str, Idle)>,
    edits: Vec<(&'static str, f64, Edits)>,
    bare: Vec<(f64, Edits)>,
}

impl Figures {
    /// Takes in connections at rest.
    pub fn idle(&mut self, name: &'static str, idle: Idle) {
        println!(
            "{name}: {} at rest, {:.1} KiB each; {:.3} ms CPU each to connect, sign in and join (+ Redis {:.3}); \
             {:.0} connects/s, each within {:.1} / {:.1} ms (p50 / p99)",
            idle.connections,
            idle.bytes / 1024.0,
            idle.cpu_ms,
            idle.redis_cpu_ms,
            idle.per_second,
            idle.joins.quantile(0.5) as f64 / 1e3,
            idle.joins.quantile(0.99) as f64 / 1e3
        );
        self.idle.push((name, idle));
    }

    /// Takes in edits at some rates.
    pub fn edits(&mut self, name: &'static str, rates: &[f64], all: Vec<Edits>) {
        for (rate, edits) in rates.iter().zip(all) {
            say(name, *rate, &edits);
            self.edits.push((name, *rate, edits));
        }
    }

    /// Takes in the bare cost of sending at some rates.
    pub fn bare(&mut self, rates: &[f64], all: Vec<Edits>) {
        for (rate, edits) in rates.iter().zip(all) {
            say("bare send()", *rate, &edits);
            self.bare.push((*rate, edits));
        }
    }

    /// Prints the table.
    ///
    /// # Errors
    /// When the rows cannot be written.
    pub fn finish(&self) -> Result<()> {
        let mut rows = Vec::new();
        for (_, idle) in self.idle.iter().filter(|(name, _)| *name == GATEWAY) {
            let peers = |figure: &dyn Fn(&Idle) -> String| {
                join(self.idle.iter().filter(|(name, _)| *name != GATEWAY).map(|(name, idle)| (*name, figure(idle))))
            };
            rows.push(Row {
                what: format!("memory per idle joined connection ({} of them)", idle.connections),
                figure: kib(idle.bytes),
                target: "≤ 4 KiB".into(),
                peers: peers(&|idle| kib(idle.bytes)),
                is_met: Some(idle.bytes <= IDLE_BYTES_MAX),
            });
            rows.push(Row {
                what: "CPU per connect + JWT + join, without Redis (+ Redis)".into(),
                figure: format!("{:.3} ms (+ {:.3})", idle.cpu_ms, idle.redis_cpu_ms),
                target: format!("≤ {JOIN_MS_MAX} ms"),
                peers: peers(&|idle| format!("{:.2} ms (+ {:.2})", idle.cpu_ms, idle.redis_cpu_ms)),
                is_met: Some(idle.cpu_ms <= JOIN_MS_MAX),
            });
            rows.push(Row {
                what: "connects a second, the load on the same cores".into(),
                figure: format!("{:.0}, p99 {:.0} ms", idle.per_second, idle.joins.quantile(0.99) as f64 / 1e3),
                target: String::new(),
                peers: peers(&|idle| {
                    format!("{:.0}, p99 {:.0} ms", idle.per_second, idle.joins.quantile(0.99) as f64 / 1e3)
                }),
                is_met: None,
            });
        }
        for (_, rate, edits) in self.edits.iter().filter(|(name, ..)| *name == GATEWAY) {
            rows.extend(self.edit_rows(*rate, edits));
        }
        write(&rows)
    }

    fn edit_rows(&self, rate: f64, edits: &Edits) -> [Row; 2] {
        let others = || self.edits.iter().filter(|(name, at, _)| *name != GATEWAY && *at == rate);
        let send = self.bare.iter().find(|(at, _)| *at == rate).map(|(_, edits)| edits.cpu_us);
        let times = |cpu_us: f64| send.map(|send| format!(" = {:.2} sends", cpu_us / send)).unwrap_or_default();
        // Rates are whole edits, so a little above the target's.
        let most = SENDS_MAX.into_iter().find(|(at, _)| (rate / at - 1.0).abs() < 0.05).map(|(_, most)| most);
        let is_met = |met: bool| met && edits.share >= SHARE_MIN;
        let mut peers = join(others().map(|(name, _, edits)| {
            (*name, format!("{:.1} µs (+ {:.1}){}", edits.cpu_us, edits.redis_cpu_us, share(edits)))
        }));
        if let Some(send) = send {
            let _ = write!(peers, "; one send() {send:.1} µs");
        }
        let p99 = edits.counts.latency.quantile(0.99);
        let rival = others().find(|(name, ..)| name.contains(CENTRIFUGO));
        [
            Row {
                what: format!("CPU per delivered edit at {rate:.0} deliveries/s, without Redis (+ Redis)"),
                figure: format!(
                    "{:.1} µs{} (+ {:.1}){}",
                    edits.cpu_us,
                    times(edits.cpu_us),
                    edits.redis_cpu_us,
                    share(edits)
                ),
                target: most.map(|most| format!("≤ {most} sends")).unwrap_or_default(),
                peers,
                is_met: most.and_then(|most| send.map(|send| is_met(edits.cpu_us <= most * send))),
            },
            Row {
                what: format!("edit to remote client at {rate:.0} deliveries/s, p50 / p99"),
                figure: format!("{}{}", latency(edits), share(edits)),
                target: if most.is_some() { "p99 below Centrifugo's".into() } else { String::new() },
                peers: join(others().map(|(name, _, edits)| (*name, format!("{}{}", latency(edits), share(edits))))),
                is_met: rival
                    .filter(|_| most.is_some())
                    .map(|(.., rival)| is_met(p99 < rival.counts.latency.quantile(0.99))),
            },
        ]
    }

    /// Prints what a soak found: the slope of the second half, when caches are full.
    ///
    /// # Errors
    /// When it is not flat, or the rows cannot be written.
    pub fn soak(&self, bytes: &[u64], every: Duration) -> Result<()> {
        let half = &bytes[bytes.len() / 2..];
        let per_hour = slope(half) * 3600.0 / every.as_secs_f64();
        let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
        let seconds = every.as_secs_f64() * bytes.len() as f64;
        write(&[Row {
            what: format!("memory over {seconds:.0} s of edits and visits, growth in the second half"),
            figure: format!("{} an hour, at {}", mib(per_hour), mib(half.last().copied().unwrap_or(0) as f64)),
            target: format!("flat: ≤ {} an hour", mib(SOAK_BYTES_PER_HOUR_MAX)),
            peers: String::new(),
            is_met: Some(per_hour <= SOAK_BYTES_PER_HOUR_MAX),
        }])?;
        ensure!(per_hour <= SOAK_BYTES_PER_HOUR_MAX, "memory grows by {} an hour", mib(per_hour));
        Ok(())
    }
}

/// Prints rows, and appends them to the file of all benchmarks.
///
/// # Errors
/// When the file cannot be written.
pub fn write(rows: &[Row]) -> Result<()> {
    println!("\n| what | figure | target | peers in the same run | verdict |\n|---|---|---|---|---|");
    let mut file = match std::env::var_os(ROWS) {
        Some(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
        None => None,
    };
    for Row { what, figure, target, peers, is_met } in rows {
        let verdict = match is_met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let line = format!("| {what} | {figure} | {target} | {peers} | {verdict} |");
        println!("{line}");
        if let Some(file) = &mut file {
            writeln!(file, "{line}")?;
        }
    }
    Ok(())
}

fn say(name: &str, rate: f64, edits: &Edits) {
    println!(
        "{name} at {rate:.0}: {:.0} deliveries/s{}, {:.2} µs CPU each (+ Redis {:.2}), p50/p99 {}, max {:.1} ms, {:.0} \
         bytes, {} edits held",
        edits.per_second,
        share(edits),
        edits.cpu_us,
        edits.redis_cpu_us,
        latency(edits),
        edits.counts.latency.max() as f64 / 1e3,
        edits.bytes,
        edits.counts.held
    );
}

fn latency(edits: &Edits) -> String {
    let ms = |share| edits.counts.latency.quantile(share) as f64 / 1e3;
    format!("{:.2} / {:.2} ms", ms(0.5), ms(0.99))
}

/// Says so where a server could not keep up.
fn share(edits: &Edits) -> String {
    if edits.share < SHARE_MIN { format!(" ({:.0} % delivered)", edits.share * 100.0) } else { String::new() }
}

fn kib(bytes: f64) -> String {
    format!("{:.1} KiB", bytes / 1024.0)
}

fn join(parts: impl Iterator<Item = (&'static str, String)>) -> String {
    let first_word = |name: &'static str| name.split(' ').next().unwrap_or(name);
    parts.map(|(name, figure)| format!("{} {figure}", first_word(name))).collect::<Vec<_>>().join("; ")
}

/// Least squares: bytes a sample.
fn slope(samples: &[u64]) -> f64 {
    let n = samples.len() as f64;
    let mean_x = (n - 1.0) / 2.0;
    let mean_y = samples.iter().sum::<u64>() as f64 / n;
    let pairs = samples.iter().enumerate().map(|(x, y)| (x as f64 - mean_x, *y as f64 - mean_y));
    let (above, below) = pairs.fold((0.0, 0.0), |(above, below), (x, y)| (above + x * y, below + x * x));
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{histogram::Histogram, swarm::Counts};

    fn edits(share: f64, cpu_us: f64, latency_us: u64) -> Edits {
        let mut latency = Histogram::default();
        latency.record(latency_us);
        let counts = Counts { sent: 1, held: 0, deliveries: 1, confirmed: 1, bytes: 1, latency };
        Edits { per_second: 15_200.0 * share, cpu_us, redis_cpu_us: 3.25, bytes: 200.0, counts, share }
    }

    #[test]
    fn whoever_does_not_deliver_has_met_nothing() {
        const RATE: f64 = 15_200.0;
        let mut figures = Figures::default();
        figures.bare(&[RATE], vec![edits(1.0, 10.0, 50)]);
        figures.edits("Centrifugo", &[RATE], vec![edits(1.0, 30.0, 2000)]);
        for (share, cpu_us, latency_us, expected) in [
            (1.0, 13.0, 1000, [Some(true), Some(true)]),
            (0.99, 13.0, 1000, [Some(true), Some(true)]),
            (0.98, 13.0, 1000, [Some(false), Some(false)]),
            (0.5, 1.0, 1, [Some(false), Some(false)]),
            (1.0, 15.0, 3000, [Some(false), Some(false)]),
        ] {
            let rows = figures.edit_rows(RATE, &edits(share, cpu_us, latency_us));
            assert_eq!(rows.each_ref().map(|row| row.is_met), expected, "{share}, {cpu_us} µs, {latency_us} µs");
            let is_said = rows.iter().all(|row| row.figure.contains("% delivered"));
            assert_eq!(is_said, share < SHARE_MIN, "{rows:?}");
            assert!(rows[0].figure.contains("(+ 3.2)"), "what Redis takes is told: {}", rows[0].figure);
        }
    }

    #[test]
    fn a_soak_that_grows_is_a_failure() {
        let minute = Duration::from_secs(60);
        let (flat, mib) = (vec![100 << 20; 20], 1 << 20);
        assert!(Figures::default().soak(&flat, minute).is_ok());
        // What grows at first fills caches.
        let filling: Vec<u64> = (0..20).map(|n| (100 + 5 * n.min(9)) * mib).collect();
        assert!(Figures::default().soak(&filling, minute).is_ok());
        let growing: Vec<u64> = (0..20).map(|n| (100 + n) * mib).collect();
        assert!(Figures::default().soak(&growing, minute).is_err());
    }

    #[test]
    fn the_slope_of_a_line_is_its_slope() {
        assert!((slope(&[10, 13, 16, 19]) - 3.0).abs() < 1e-9);
        assert_eq!(slope(&[5]), 0.0);
    }
}
