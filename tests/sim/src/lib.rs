//! A deterministic simulation of the editing protocol.
//!
//! Four clients send without waiting, three pods run the product's document, one store appends. The schedule is random
//! and repeats for a seed: pods crash, clients reconnect to other pods, messages of old connections arrive late, replies
//! and publishes are late or lost, the store goes away, users type while they join, edits are refused, snapshots trim the
//! log. In: a seed. Out: what was exercised, or what was wrong when everything had come to rest.

mod check;
pub mod client;
mod pod;
pub mod random;
mod sockets;
pub mod store;
pub mod typing;
mod world;

use document::Mutation;
pub use world::Counts;

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A rule of the product.
    pub mutation: Mutation,
    /// The store appends duplicates.
    pub drop_dedupe: bool,
}

/// Runs one schedule.
///
/// # Errors
/// What a client could not take, or what did not hold at rest.
pub fn run(seed: u64, options: &Options) -> Result<Counts, String> {
    let mut world = world::World::new(seed, options).map_err(|broken| broken.0)?;
    let steps = 200 + world.random.below(400);
    let mut go = || {
        for _ in 0..steps {
            world.step()?;
        }
        world.settle()?;
        check::check(&world)
    };
    match go() {
        Ok(()) => Ok(world.counts),
        Err(broken) => Err(broken.0),
    }
}
