//! A million runs of the simulation, with progress and a summary.
//!
//! `SIM_RUNS` of them, from `SIM_FIRST`, on `SIM_THREADS` cores. Ends with 1 if any has failed.

use std::{
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::Context;
use sim::many::{Summary, play};

/// Unless `SIM_RUNS` says otherwise.
const RUNS: u64 = 1_000_000;
/// Runs between which a failure stays unprinted, at most.
const PIECE: u64 = 10_000;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<ExitCode> {
    let first = number("SIM_FIRST")?.unwrap_or(1);
    let runs = number("SIM_RUNS")?.unwrap_or(RUNS);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = number("SIM_THREADS")?.map_or(cores, |threads| threads as usize);
    let end = first + runs;
    let start = Instant::now();
    let said = Mutex::new(start);
    let mut total = Summary::default();
    let mut from = first;
    while from < end {
        let to = end.min(from + PIECE);
        let piece = play(from..to, threads, |seed| {
            if let Ok(mut said) = said.try_lock()
                && said.elapsed() >= PROGRESS
            {
                *said = Instant::now();
                let (done, seconds) = (seed - first + 1, start.elapsed().as_secs());
                println!("{done} of {runs} runs in {seconds} s, {} a second", done / seconds.max(1));
            }
        });
        for (seed, wrong) in &piece.failed {
            println!("seed {seed} failed: {wrong:.300}");
        }
        total.add(piece);
        from = to;
    }
    total.show_failures();
    println!("met: {:?}", total.counts);
    println!("seeds {first}..{end}: {} failed, {} s", total.failed.len(), start.elapsed().as_secs());
    Ok(if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{variable}={text} is no number"))?))
}
