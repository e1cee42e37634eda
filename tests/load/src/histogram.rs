//! Latencies in microseconds, counted in buckets that are at most 1.6 % wide.
//!
//! In: one number for every delivery. Out: quantiles. A fixed array: recording costs a few nanoseconds and no memory.

/// Buckets of each power of two.
const PARTS_BITS: u32 = 6;
const PARTS: usize = 1 << PARTS_BITS;
/// Numbers of 40 bits: twelve days.
const POWERS: usize = 40;

/// How many numbers fell where.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; PARTS * POWERS], count: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one number.
    pub fn record(&mut self, value: u64) {
        let last = self.buckets.len() - 1;
        self.buckets[index(value).min(last)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// How many numbers were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest number.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The number below which this share of all lies; 0 where there is none.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted && seen > 0 {
                return upper(index).min(self.max);
            }
        }
        self.max
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
        self.max = 0;
    }
}

fn index(value: u64) -> usize {
    if value < PARTS as u64 {
        return value as usize;
    }
    let power = value.ilog2() - PARTS_BITS;
    (power as usize + 1) * PARTS + ((value >> power) as usize - PARTS)
}

/// The largest number of a bucket.
fn upper(index: usize) -> u64 {
    let (power, part) = (index / PARTS, (index % PARTS) as u64);
    match power {
        0 => part,
        power => ((part + PARTS as u64 + 1) << (power - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn quantiles_are_off_by_less_than_two_percent() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), 0);
        (1..=100_000).for_each(|value| histogram.record(value));
        for (share, wanted) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let found = histogram.quantile(share) as f64;
            assert!((found / wanted - 1.0).abs() < 0.02, "{share}: {found}");
        }
        assert_eq!((histogram.quantile(1.0), histogram.max(), histogram.count()), (100_000, 100_000, 100_000));
    }
}
