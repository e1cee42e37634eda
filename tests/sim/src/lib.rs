//! A deterministic simulation of the editing protocol.
//!
//! Clients send without waiting, pods run the product's document, one store appends. The run is random and repeats for a
//! seed: pods crash or stop for minutes, clients reconnect to other pods or stay away, messages of old connections arrive
//! late, replies and publishes are late, lost, doubled or out of order, calls arrive that nobody waits for, the store goes
//! away, users type while they join, edits are refused, snapshots trim the log, rows of clients fill their table and are
//! forgotten, documents are opened call by call. In: a [`Schedule`]. Out: what was met,
//! or what was wrong when everything had come to rest.

mod check;
pub mod client;
mod counts;
mod edits;
mod log;
pub mod many;
mod minimise;
mod opening;
mod people;
mod pod;
mod pods;
mod profile;
pub mod random;
mod record;
mod replicas;
mod schedule;
mod sockets;
pub mod store;
pub mod typing;
mod world;

pub use counts::{Counts, Met};
use document::{Logged, Mutation};
pub use minimise::minimise;
use ot::Delta;
pub use schedule::{FAULTS, Fault, Faults, Schedule};
pub use store::BrokenRule;

/// What is broken on purpose, and what is kept of the run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A rule of the product's document.
    pub mutation: Mutation,
    /// A rule of the store.
    pub broken_rule: BrokenRule,
    /// Entries of a publish are taken without asking whether they follow on what the pod has.
    pub unchecked_chain: bool,
    /// A pod whose history ended opens the document anew and forgets what only it has.
    pub forgets_lost: bool,
    /// Commit the naive way: the store takes a call only if the pod has everything that is in the log.
    pub compare_and_set: bool,
    /// Every edit inserts, and carries the number of its event: two runs of one schedule are comparable.
    pub comparable: bool,
    /// Write down what clients go through.
    pub record: bool,
    /// Print every message, call and reply as it happens.
    pub trace: bool,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What it met.
    pub counts: Counts,
    /// What clients went through, a line of JSON for each step.
    pub record: Vec<String>,
    /// The tokens in the log, as often as they are in it, sorted.
    pub tokens: Vec<u32>,
    /// What the document began with.
    pub root: Delta,
    /// The log.
    pub log: Vec<Logged>,
    /// What everybody shows.
    pub content: Delta,
}

/// Plays one run.
///
/// # Errors
/// What a client could not take, or what did not hold at rest.
pub fn run(schedule: &Schedule, options: &Options) -> Result<Outcome, String> {
    let mut world = world::World::new(schedule, options).map_err(|broken| broken.0)?;
    let mut go = || {
        if options.comparable {
            world.join_all()?;
        }
        for event in &schedule.events {
            world.step(*event)?;
        }
        world.settle()?;
        check::check(&world)
    };
    match go() {
        Ok(()) => {
            let tokens = check::tokens_in_log(&world);
            let root = world.store_root();
            let log = log::logged(world.store.all.clone());
            let content = world.clients.first().map(|client| client.shown.to_delta()).unwrap_or_default();
            let record = world.recorder.map(|recorder| recorder.lines).unwrap_or_default();
            Ok(Outcome { counts: world.counts, record, tokens, root, log, content })
        }
        Err(broken) => Err(broken.0),
    }
}
