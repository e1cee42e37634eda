//! How fast one connection may do something.
//!
//! In: what it does, the rate of this moment, how much may come at once. Out: whether it may, or how long it must wait.
//! A meter is one moment in time (the one at which it would be full again), so that a connection can have several.

use std::time::Duration;

use tokio::time::Instant;

/// One thing's rate on one connection.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    /// When all that was taken is paid.
    paid_at: Instant,
}

/// So much a second, and so many seconds' worth at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Units a second; 0 counts as 1, since nothing may wait for ever.
    pub per_second: u32,
    /// What may come at once is what this time pays.
    pub burst: Duration,
}

impl Meter {
    /// Nothing was taken yet.
    pub fn new(now: Instant) -> Meter {
        Meter { paid_at: now }
    }

    /// Takes one.
    ///
    /// # Errors
    /// With the time to wait; then nothing was taken.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut next = *self;
        let wait = next.charge(1, rate, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        *self = next;
        Ok(())
    }

    /// Takes so many whatever it owes, and tells how long to take nothing more.
    pub fn charge(&mut self, amount: usize, rate: Rate, now: Instant) -> Duration {
        // Amounts are bytes and messages of one read: exact in f64.
        let cost = Duration::from_secs_f64(amount as f64 / f64::from(rate.per_second.max(1)));
        self.paid_at = self.paid_at.max(now) + cost;
        self.paid_at.saturating_duration_since(now).saturating_sub(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: Duration::from_secs(2) };

    #[tokio::test(start_paused = true)]
    async fn a_burst_comes_at_once_and_then_the_rate() {
        let mut meter = Meter::new(Instant::now());
        let mut took = |seconds: u64| {
            let now = Instant::now() + Duration::from_secs(seconds);
            (0..1000).take_while(|_| meter.take(RATE, now).is_ok()).count()
        };
        assert_eq!([took(0), took(0), took(1), took(2), took(100)], [20, 0, 10, 10, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_as_told_may() {
        let (mut meter, now) = (Meter::new(Instant::now()), Instant::now());
        while meter.take(RATE, now).is_ok() {}
        let wait = meter.take(RATE, now).expect_err("empty");
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(meter.take(RATE, now + wait), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_already_is_paid_later() {
        let (mut meter, now) = (Meter::new(Instant::now()), Instant::now());
        assert_eq!(meter.charge(20, RATE, now), Duration::ZERO);
        assert_eq!(meter.charge(100, RATE, now), Duration::from_secs(10));
        assert_eq!(meter.charge(0, RATE, now + Duration::from_secs(10)), Duration::ZERO);
        let none = Rate { per_second: 0, ..RATE };
        assert!(meter.charge(5, none, now + Duration::from_secs(60)) < Duration::from_secs(60), "never for ever");
    }
}
