//! Lines that tell a person what is going on.
//!
//! In: the name of a step. Out: on standard error, when it starts, how long it has taken every 15 s, and its end.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A longer silence makes people think that it hangs.
const REMIND_EVERY: Duration = Duration::from_secs(15);

/// A step under way; dropping it prints how long it took.
#[derive(Debug)]
pub(crate) struct Step {
    name: String,
    started: Instant,
    end: Option<Sender<()>>,
    reminder: Option<JoinHandle<()>>,
}

impl Step {
    /// Prints the step's name and starts its clock.
    pub(crate) fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        eprintln!("cluster: {name}");
        let started = Instant::now();
        let (end, ended) = channel();
        let said = name.clone();
        let reminder = std::thread::spawn(move || {
            while ended.recv_timeout(REMIND_EVERY) == Err(RecvTimeoutError::Timeout) {
                eprintln!("cluster: {said}: {} s so far", started.elapsed().as_secs());
            }
        });
        Self { name, started, end: Some(end), reminder: Some(reminder) }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(reminder) = self.reminder.take() {
            let _ = reminder.join();
        }
        eprintln!("cluster: {} (took {:.1} s)", self.name, self.started.elapsed().as_secs_f64());
    }
}
