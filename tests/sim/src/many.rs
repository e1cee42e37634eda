//! Many runs, on some cores, with what they met in all.
//!
//! In: seeds. Out: which of them failed and why. A run that panics has failed; one that goes on for ever has its own bound
//! (`World::goes_on`).

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::{Counts, Options, Schedule, minimise, run};

/// Failures that are made smaller and shown.
const SHOWN: usize = 3;

/// What came of them.
#[derive(Debug, Default)]
pub struct Summary {
    /// What they met.
    pub counts: Counts,
    /// Seeds, and what was wrong.
    pub failed: Vec<(u64, String)>,
}

/// The run of a seed: every third with acknowledgements that wait for a follower.
pub fn schedule(seed: u64) -> Schedule {
    if seed.is_multiple_of(3) { Schedule::of(seed).replicated() } else { Schedule::of(seed) }
}

/// Plays the runs of these seeds; `done` is told of each that has ended.
pub fn play(seeds: Range<u64>, threads: usize, done: impl Fn(u64) + Sync) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Summary::default());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut mine = Summary::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match run_caught(&schedule(seed)) {
                        Ok(counts) => mine.counts.add(&counts),
                        Err(wrong) => mine.failed.push((seed, wrong)),
                    }
                    done(seed);
                }
                let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                total.add(mine);
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    total.failed.sort();
    total
}

impl Summary {
    /// Those of other seeds, too.
    pub fn add(&mut self, other: Self) {
        self.counts.add(&other.counts);
        self.failed.extend(other.failed);
    }

    /// Prints the first failures, and what they can be made smaller to.
    pub fn show_failures(&self) {
        for (seed, wrong) in self.failed.iter().take(SHOWN) {
            let smallest = minimise(&schedule(*seed), |schedule| run_caught(schedule).is_err());
            let still = run_caught(&smallest).err().unwrap_or_default();
            println!(
                "SIM_SEED={seed}: {wrong:.2000}\n  smaller: SIM_REPLAY='{smallest}' cargo test -p sim\n  {still:.2000}"
            );
        }
    }
}

fn run_caught(schedule: &Schedule) -> Result<Counts, String> {
    let caught = catch_unwind(AssertUnwindSafe(|| run(schedule, &Options::default())));
    match caught {
        Ok(outcome) => outcome.map(|outcome| outcome.counts),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Err(format!("panics: {}", text.or_else(|| panic.downcast_ref().copied()).unwrap_or("?")))
        }
    }
}
