//! Makes a failing run smaller.
//!
//! In: a run that fails, and how to tell. Out: a run that still fails, with fewer clients, pods, kinds of trouble and
//! events. What is left is what the failure needs, mostly.

use crate::schedule::{FAULTS, Schedule};

/// Runs tried: a second or two.
const TRIES_MAX: usize = 4_000;

/// The smallest failing run that is found.
pub fn minimise(schedule: &Schedule, fails: impl Fn(&Schedule) -> bool) -> Schedule {
    let mut search = Search { best: schedule.clone(), fails, tries: 0 };
    loop {
        let before = search.best.clone();
        search.cut_the_end();
        search.leave_out_faults();
        search.leave_out_people();
        search.leave_out_events();
        if search.best == before || search.tries >= TRIES_MAX {
            return search.best;
        }
    }
}

struct Search<F> {
    best: Schedule,
    fails: F,
    tries: usize,
}

impl<F: Fn(&Schedule) -> bool> Search<F> {
    fn consider(&mut self, candidate: Schedule) -> bool {
        if candidate == self.best || self.tries >= TRIES_MAX {
            return false;
        }
        self.tries += 1;
        let fails = (self.fails)(&candidate);
        if fails {
            self.best = candidate;
        }
        fails
    }

    fn cut_the_end(&mut self) {
        let mut step = self.best.events.len() / 2;
        while step > 0 {
            let mut candidate = self.best.clone();
            candidate.events.truncate(candidate.events.len().saturating_sub(step));
            if !self.consider(candidate) {
                step /= 2;
            }
            step = step.min(self.best.events.len());
        }
    }

    fn leave_out_faults(&mut self) {
        for (_, fault) in FAULTS {
            let candidate = self.best.clone().without(fault);
            self.consider(candidate);
        }
    }

    fn leave_out_people(&mut self) {
        for clients in 1..self.best.clients {
            if self.consider(Schedule { clients, ..self.best.clone() }) {
                break;
            }
        }
        for pods in 1..self.best.pods {
            if self.consider(Schedule { pods, ..self.best.clone() }) {
                break;
            }
        }
    }

    /// Delta debugging: smaller and smaller pieces are left out.
    fn leave_out_events(&mut self) {
        let mut size = self.best.events.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.best.events.len() {
                let mut candidate = self.best.clone();
                let to = (from + size).min(candidate.events.len());
                candidate.events.drain(from..to);
                if !self.consider(candidate) {
                    from += size;
                }
            }
            size /= 2;
        }
    }
}
