//! A log that a storm does not drown: so many lines of one place in the code, then they are counted.
//!
//! In: events. Out: whether each is written, and what was left out. Ten thousand clients that fail in the same way make a
//! few lines and a number. Debugging levels are somebody's wish and are not bounded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Subscriber, callsite::Identifier};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of one place within [`WINDOW`]: enough to see what goes on.
const LINES_MAX: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);

/// Counts lines by their place; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Bound {
    // Bounded by the places in the code.
    places: Arc<Mutex<HashMap<Identifier, Place>>>,
}

/// Lines that were not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// File and line in the source.
    pub place: String,
    /// How many.
    pub lines: u64,
}

#[derive(Debug)]
struct Place {
    name: String,
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Bound {
    /// What was left out since the last call.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let mut places = self.places();
        let silent = places.values_mut().filter(|place| place.left_out > 0);
        silent.map(|place| LeftOut { place: place.name.clone(), lines: std::mem::take(&mut place.left_out) }).collect()
    }

    /// Says now and then what was left out, as long as the process runs.
    pub async fn tell(self) {
        let mut interval = tokio::time::interval(WINDOW);
        loop {
            interval.tick().await;
            for LeftOut { place, lines } in self.left_out() {
                tracing::warn!(place, lines, "similar lines were left out");
            }
        }
    }

    fn takes(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        // Levels are ordered by how much they say.
        if *metadata.level() > Level::INFO {
            return true;
        }
        let mut places = self.places();
        let place = places.entry(metadata.callsite()).or_insert_with(|| {
            let (file, line) = (metadata.file().unwrap_or("?"), metadata.line().unwrap_or_default());
            Place { name: format!("{file}:{line}"), since: now, lines: 0, left_out: 0 }
        });
        if now.saturating_duration_since(place.since) >= WINDOW {
            (place.since, place.lines) = (now, 0);
        }
        let is_taken = place.lines < LINES_MAX;
        if is_taken {
            place.lines += 1;
        } else {
            place.left_out += 1;
        }
        is_taken
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        // Nothing can panic while it is held.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Bound {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        self.takes(event, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Written(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_storm_of_one_line_is_counted_and_other_lines_are_written() {
        let (bound, written) = (Bound::default(), Written::default());
        let subscriber = tracing_subscriber::registry().with(bound.clone()).with(written.clone());
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..1000 {
                tracing::warn!(number, "a client failed");
            }
            for number in 0..60 {
                tracing::debug!(number, "for whoever wants to know all");
            }
            tracing::info!("something else");
        });
        assert_eq!(written.0.load(Ordering::Relaxed), 50 + 60 + 1);
        let left_out = bound.left_out();
        assert_eq!((left_out.len(), left_out[0].lines), (1, 950));
        assert!(left_out[0].place.contains("log.rs:"), "{left_out:?}");
        assert_eq!(bound.left_out(), []);
    }
}
