//! What work costs on one core.
//!
//! In: work that can be repeated. Out: the CPU time of this process that it took, of all threads, which other processes
//! disturb less than the time on the wall.

use std::time::Duration;

use anyhow::Result;

use crate::process::cpu_of;

/// The best of so many runs counts: the others were disturbed.
const RUNS: usize = 5;
/// The kernel tells CPU time in hundredths of a second.
const RUN: Duration = Duration::from_millis(500);

/// Nanoseconds of one round of work.
///
/// # Errors
/// When the kernel does not tell.
pub fn ns(work: impl Fn() -> usize) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let (before, mut rounds, mut used) = (cpu_of("self")?, 0, Duration::ZERO);
        while used < RUN {
            std::hint::black_box(work());
            rounds += 1;
            used = cpu_of("self")?.saturating_sub(before);
        }
        best = best.min(used.as_secs_f64() * 1e9 / f64::from(rounds));
    }
    Ok(best)
}
