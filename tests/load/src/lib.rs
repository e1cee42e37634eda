//! What the benchmarks run on: real editing traces as Deltas, and (in the modules) load on servers over sockets.

pub mod bare;
pub mod drivers;
pub mod figures;
pub mod frames;
pub mod histogram;
pub mod process;
pub mod scenarios;
pub mod servers;
pub mod swarm;

use std::{fs::File, path::PathBuf};

use anyhow::{Context, Result};
use ot::Delta;
use serde::Deserialize;

/// A recorded session of one writer.
pub struct Trace {
    /// One edit for every recorded change, each on the document after those before it.
    pub edits: Vec<Delta>,
    /// The text after all of them.
    pub end: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    start_content: String,
    end_content: String,
    txns: Vec<Transaction>,
}

#[derive(Deserialize)]
struct Transaction {
    /// Position, deleted count, inserted text; positions count code points.
    patches: Vec<(usize, usize, String)>,
}

/// Reads one of the sequential traces, such as `rustcode`; `None` where the data is absent. All of them hold characters
/// of the basic plane only, so that code points are UTF-16 units.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn trace(name: &str) -> Result<Option<Trace>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/editing-traces");
    let path = folder.join(format!("{name}.json.gz"));
    let Ok(file) = File::open(&path) else { return Ok(None) };
    let recorded: Recorded =
        serde_json::from_reader(flate2::read::GzDecoder::new(file)).with_context(|| path.display().to_string())?;
    let start = Delta::new().insert(&recorded.start_content, None);
    let patches = recorded.txns.into_iter().flat_map(|transaction| transaction.patches);
    let typed = patches
        .map(|(at, deleted, inserted)| Delta::new().retain(at, None).insert(&inserted, None).delete(deleted).chop());
    let edits = std::iter::once(start).chain(typed).filter(|edit| !edit.is_empty()).collect();
    Ok(Some(Trace { edits, end: recorded.end_content }))
}
