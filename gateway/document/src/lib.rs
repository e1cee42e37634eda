//! The state machine of one open document on one pod.
//!
//! In: [`Input`]s with the present time in milliseconds. Out: [`Command`]s for the pod to carry out. No I/O, no clock,
//! no randomness, no task: the same inputs give the same commands, which is what `tests/sim` relies on.

mod access;
mod batch;
mod catching_up;
mod chain;
mod color;
#[allow(missing_docs, reason = "most fields are said by their name and type; the others have a comment")]
mod command;
mod connection;
mod connections;
mod crowd;
mod cursors;
mod digest;
mod divergence;
mod document;
mod durability;
mod edits;
mod healing;
#[allow(missing_docs, reason = "most fields are said by their name and type; the others have a comment")]
mod input;
mod joins;
mod learning;
mod numbering;
mod people;
mod presence;
mod queue;
mod rows;
mod saving;
mod settings;
mod settled;
#[allow(missing_docs, reason = "most fields are said by their name and type; the others have a comment")]
mod types;
mod window;

pub use color::color;
pub use command::*;
pub use digest::{DIGEST_EVERY, Digest, NoDigest};
pub use document::Document;
pub use healing::Reopened;
pub use input::*;
pub use settings::{Mutation, OpenError, Settings};
pub use types::*;
