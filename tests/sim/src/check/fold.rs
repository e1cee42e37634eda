//! The document at every version, by the plainest fold there is.
//!
//! In: the log. Out: documents and canonical forms.

use ot::{Delta, Side};

use crate::{client::Broken, world::World};

/// What the log says.
pub(super) struct Folded {
    /// At every version.
    pub(super) documents: Vec<Delta>,
    /// Of every entry, the one of version 1 first.
    pub(super) canonical: Vec<Delta>,
}

impl Folded {
    pub(super) fn newest(&self) -> Delta {
        self.documents.last().cloned().unwrap_or_default()
    }
}

pub(super) fn fold(world: &World) -> Result<Folded, Broken> {
    let mut documents = vec![world.store_root()];
    let mut canonical: Vec<Delta> = Vec::new();
    for kept in &world.store.all {
        let mut ops = kept.payload.ops.clone();
        for committed in canonical.iter().skip(kept.payload.base as usize) {
            ops = committed.transform(&ops, Side::Other);
        }
        let before = documents.last().cloned().unwrap_or_default();
        if ops.base_length() > before.length() {
            return Err(Broken(format!("version {} reaches past the end", kept.at.version)));
        }
        documents.push(before.compose(&ops).map_err(|invalid| Broken(invalid.to_string()))?);
        canonical.push(ops);
    }
    Ok(Folded { documents, canonical })
}
