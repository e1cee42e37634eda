//! Real editing sessions, as Deltas.
//!
//! In: the gzipped traces in `shared/data` beside the checkout, or in the folder that `EDITING_TRACES` names. Out: what
//! was typed, in order; or `None` where the data is absent, which is an error where `CI` is `true`. All traces hold
//! characters of the basic plane only, so that their code points are UTF-16 units.

use std::{env, fs::File, path::PathBuf};

use anyhow::{Context, Result, bail};
use ot::Delta;
use serde::Deserialize;

/// Traces of one writer.
pub const SEQUENTIAL: [&str; 3] = ["automerge-paper", "rustcode", "sveltecomponent"];
/// The trace of two writers who often typed at once.
pub const CONCURRENT: &str = "friendsforever";

/// A recorded session.
pub struct Trace {
    /// What was typed, in the order of the file.
    pub edits: Vec<Typed>,
    /// The text after all of them.
    pub end: String,
}

/// One transaction of a writer.
pub struct Typed {
    /// The writer's number; 0 in a trace of one.
    pub agent: usize,
    /// How many of each other writer's edits this one's author knew; nothing in a trace of one.
    pub others_known: usize,
    /// The change, on the document that its author saw.
    pub change: Delta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    #[serde(default)]
    start_content: String,
    end_content: String,
    txns: Vec<Transaction>,
}

#[derive(Deserialize)]
struct Transaction {
    #[serde(default)]
    agent: usize,
    /// Earlier transactions that this one follows; none in a trace of one writer.
    #[serde(default)]
    parents: Vec<usize>,
    patches: Vec<Patch>,
}

/// Position, deleted count, inserted text; each on the document that the one before it left.
type Patch = (usize, usize, String);

/// Reads one of [`SEQUENTIAL`], or [`CONCURRENT`].
///
/// # Errors
/// When the file is there and cannot be read, and where `CI` is `true` also when it is not there.
pub fn read(name: &str) -> Result<Option<Trace>> {
    let path = path(name);
    let Ok(file) = File::open(&path) else {
        if env::var("CI").as_deref() == Ok("true") {
            bail!("{} is absent: set EDITING_TRACES", path.display());
        }
        println!("SKIPPED: no {}; set EDITING_TRACES", path.display());
        return Ok(None);
    };
    let recorded: Recorded =
        serde_json::from_reader(flate2::read::GzDecoder::new(file)).with_context(|| path.display().to_string())?;
    let start = Some(Delta::new().insert(&recorded.start_content, None)).filter(|start| !start.is_empty());
    let start = start.map(|change| Typed { agent: 0, others_known: 0, change });
    let mut knowledge = Knowledge::default();
    let typed = recorded.txns.into_iter().map(|Transaction { agent, parents, patches }| {
        let others_known = knowledge.others(agent, &parents);
        Typed { agent, others_known, change: patches.iter().fold(Delta::new(), composed) }
    });
    Ok(Some(Trace { edits: start.into_iter().chain(typed).collect(), end: recorded.end_content }))
}

/// Where a trace is, or would be.
pub fn path(name: &str) -> PathBuf {
    let folder = env::var_os("EDITING_TRACES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/editing-traces"),
        PathBuf::from,
    );
    folder.join(format!("{name}.json.gz"))
}

fn composed(change: Delta, (at, deleted, inserted): &Patch) -> Delta {
    let patch = Delta::new().retain(*at, None).insert(inserted, None).delete(*deleted).chop();
    change.compose(&patch).expect("an edit of an open end fits")
}

/// What each transaction's author knew, itself included: how many of each writer's.
#[derive(Default)]
struct Knowledge(Vec<[usize; 2]>);

impl Knowledge {
    fn others(&mut self, agent: usize, parents: &[usize]) -> usize {
        let mut known = parents.iter().fold([0; 2], |known, parent| {
            let [a, b] = self.0[*parent];
            [known[0].max(a), known[1].max(b)]
        });
        let others = known[1 - agent];
        known[agent] += 1;
        self.0.push(known);
        others
    }
}
