//! A log that a storm does not drown: so many lines of one place in the code, then they are counted; and no line is long.
//!
//! In: events. Out: whether each is written, what was left out, lines whose long values are cut. Ten thousand clients that
//! fail in the same way make a few lines and a number. Debugging levels are somebody's wish and are not counted.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tracing::{Event, Level, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    EnvFilter,
    fmt::MakeWriter,
    layer::{Context, Layer},
};

use crate::{live::LogLevel, telemetry};

/// Lines of one place within [`WINDOW`]: enough to see what goes on.
const LINES_MAX: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);
/// Longer lines are cut by what collectors of logs split, at 16 KiB: halves of JSON are of no use to anybody.
const LINE_BYTES_MAX: usize = 8 << 10;
/// What is left of each text in a line that is too long.
const TEXT_BYTES_MAX: usize = 1 << 10;

/// What is logged at this level. Spans that are traced are no matter of the log.
pub fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("{},{}=off", level.as_str(), telemetry::TARGET))
}

/// Writes lines of JSON to another writer, long texts in long lines cut.
#[derive(Debug, Clone, Copy)]
pub struct Short<M>(pub M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Short<M> {
    type Writer = Short<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Short(self.0.make_writer())
    }
}

impl<W: Write> Write for Short<W> {
    // A line comes in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() <= LINE_BYTES_MAX {
            return self.0.write(line);
        }
        self.0.write_all(&shortened(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The line with the beginnings of its texts; where that is not enough, the beginning of the line as one text.
fn shortened(line: &[u8]) -> Vec<u8> {
    let mut short = serde_json::from_slice(line).ok().map(|mut value: Value| {
        cut(&mut value);
        value.to_string()
    });
    if short.as_ref().is_none_or(|short| short.len() > LINE_BYTES_MAX) {
        let text = String::from_utf8_lossy(line);
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        short =
            Some(serde_json::json!({ "level": "WARN", "message": "a line was too long", "began": text }).to_string());
    }
    let mut short = short.unwrap_or_default().into_bytes();
    short.push(b'\n');
    short
}

fn cut(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > TEXT_BYTES_MAX => {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
            text.push('…');
        }
        Value::Array(values) => values.iter_mut().for_each(cut),
        Value::Object(values) => values.values_mut().for_each(cut),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

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
    fn a_long_line_stays_json_and_keeps_what_is_short() {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl Write for Lines {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("no panic").write(line)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let json =
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(Short(move || writer.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(json), || {
            tracing::warn!(document = "d", why = "ö\"".repeat(100_000), "a client failed");
            tracing::warn!(document = "e", "a client failed");
        });
        let text = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
        let read: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert_eq!(read.len(), 2, "{text}");
        let of_first = |name: &str| read[0][name].as_str().expect(name).to_owned();
        assert_eq!((of_first("document"), of_first("message")), ("d".into(), "a client failed".into()));
        assert!((1000..1100).contains(&of_first("why").len()), "{}", of_first("why").len());
        assert_eq!(read[1]["document"], "e");
        let deep = format!("{}\n", serde_json::json!({ "many": vec!["x"; 10_000] }));
        let short: Value = serde_json::from_slice(&shortened(deep.as_bytes())).expect("JSON");
        assert_eq!(short["message"], "a line was too long");
        assert!(shortened(&[0xff; 100_000]).len() <= LINE_BYTES_MAX);
    }

    #[test]
    fn a_storm_of_one_line_is_counted_and_other_lines_are_written() {
        let (bound, written) = (Bound::default(), Written::default());
        // As the process puts them together.
        let log = bound.clone().and_then(written.clone()).with_filter(filter(LogLevel::Debug));
        let subscriber = tracing_subscriber::registry().with(log);
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
