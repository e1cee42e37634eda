//! What must hold when everything has come to rest.
//!
//! In: the world at rest. Out: nothing, or what is wrong: `copies` compares everybody with a fold of the log, `once` says
//! how often an edit may be in it, `units` follows what it inserted and formatted.

mod copies;
mod fold;
mod once;
mod units;

pub(crate) use once::tokens_in_log;

use crate::{client::Broken, world::World};

/// All clients, all pods and whoever opens the document now show what a fold of the log gives, and each edit is in it as
/// often as it may.
pub(crate) fn check(world: &World) -> Result<(), Broken> {
    let folded = fold::fold(world)?;
    copies::check(world, &folded)?;
    once::check(world)?;
    units::check(world, &folded)
}
