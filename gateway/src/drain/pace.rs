//! When the next connection may be closed: pure arithmetic over the closes so far.
//!
//! In: the rate, the moments of closes. Out: the moment of the next one: evenly spread, each moved a little, a little
//! late work made up for, and never more within any one second than the rate says.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// How much of its distance a close is moved, each way.
const JITTER: f64 = 0.25;
/// A pacer that woke up late makes up for this much, not for more: that would be a burst.
const CATCH_UP: Duration = Duration::from_millis(100);
const WINDOW: Duration = Duration::from_secs(1);

/// The closes of one drain.
#[derive(Debug)]
pub(super) struct Pace {
    /// Within the last second.
    recent: VecDeque<Instant>,
    /// When the last close was due.
    last: Instant,
    /// The next one's distance, in mean distances.
    stretch: f64,
}

impl Pace {
    /// The first close may be at once.
    pub(super) fn new(now: Instant) -> Pace {
        Pace { recent: VecDeque::new(), last: now, stretch: 0.0 }
    }

    /// When the next close is due at `rate` a second.
    pub(super) fn due(&self, rate: f64) -> Instant {
        let even = self.last + Duration::from_secs_f64(self.stretch / rate);
        // The oldest close that must be a second ago then; a rate below one is kept by the distance alone.
        let most = (rate.ceil() as usize).max(1);
        let free = self.recent.len().checked_sub(most).and_then(|index| self.recent.get(index));
        free.map_or(even, |oldest| even.max(*oldest + WINDOW))
    }

    /// One was closed; `dice` is between 0 and 1.
    pub(super) fn closed(&mut self, now: Instant, rate: f64, dice: f64) {
        self.last = self.due(rate).max(now.checked_sub(CATCH_UP).unwrap_or(now)).min(now);
        self.stretch = 1.0 + JITTER * (2.0 * dice - 1.0);
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|oldest| *oldest + WINDOW <= now) {
            self.recent.pop_front();
        }
    }
}

/// Closes a second: as asked, or more where the deadline wants it.
pub(super) fn rate(asked: u32, left: usize, remaining: Duration) -> f64 {
    let asked = f64::from(asked.max(1));
    let seconds = remaining.as_secs_f64().max(0.001);
    // Counts of connections are far below 2^52.
    asked.max(left as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    /// The moments of `count` closes by a caller who wakes up late at random, in milliseconds.
    fn closes(rate: f64, count: usize, late_ms: u64, seed: u64) -> Vec<u64> {
        let mut random = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let mut now = start;
        let mut pace = Pace::new(now);
        let mut moments = Vec::new();
        for _ in 0..count {
            now = now.max(pace.due(rate)) + Duration::from_millis(random.random_range(0..=late_ms));
            pace.closed(now, rate, random.random());
            moments.push(u64::try_from((now - start).as_millis()).unwrap());
        }
        moments
    }

    #[test]
    fn no_second_has_more_closes_than_the_rate() {
        for (rate, late_ms) in [(1.0, 0), (7.0, 30), (100.0, 0), (100.0, 40), (100.0, 700), (1000.0, 5)] {
            let moments = closes(rate, 3000.min(rate as usize * 30), late_ms, 7);
            let most = moments
                .iter()
                .enumerate()
                .map(|(at, first)| moments[at..].iter().take_while(|moment| **moment < first + 1000).count());
            assert!(most.max().unwrap_or_default() <= rate as usize, "{rate} a second, late by {late_ms}");
        }
    }

    #[test]
    fn being_late_now_and_then_does_not_slow_it_down() {
        let moments = closes(100.0, 1000, 8, 3);
        let seconds = moments.last().unwrap() / 1000;
        assert!((9..=11).contains(&seconds), "{seconds} s");
    }

    #[test]
    fn closes_are_moved_within_their_slots() {
        let moments = closes(10.0, 100, 0, 5);
        let mut distances: Vec<u64> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        distances.sort_unstable();
        assert!(distances[0] >= 74 && distances[0] < 85, "{distances:?}");
        assert!(distances[98] > 115, "{distances:?}");
    }

    #[test]
    fn the_deadline_counts_more_than_the_rate() {
        assert_eq!(rate(10, 1000, Duration::from_secs(200)), 10.0);
        assert_eq!(rate(10, 1000, Duration::from_secs(20)), 50.0);
        assert!(rate(10, 1000, Duration::ZERO) >= 1_000_000.0);
        assert_eq!(rate(0, 0, Duration::from_secs(20)), 1.0);
    }

    #[test]
    fn a_new_rate_counts_at_once() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.closed(now, 1.0, 0.5);
        assert_eq!(pace.due(1.0), now + Duration::from_secs(1));
        assert_eq!(pace.due(100.0), now + Duration::from_millis(10));
    }
}
