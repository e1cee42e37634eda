//! What must hold when everything has come to rest.
//!
//! In: the world at rest. Out: nothing, or what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use document::Version;
use ot::{Delta, Op, Side};

use crate::{client::Broken, typing::tokens_of, world::World};

/// All clients, all pods and the snapshot show what a fold of the log gives, and each edit is in it as often as it may.
pub(crate) fn check(world: &World) -> Result<(), Broken> {
    let folded = fold(world)?;
    let newest = folded.documents.last().cloned().unwrap_or_default();
    let at = world.store.head();
    for client in &world.clients {
        same(&format!("client {}", client.id), &client.shown.to_delta(), &newest)?;
        same(&format!("client {} (confirmed)", client.id), &client.confirmed.to_delta(), &newest)?;
        if client.at.as_ref() != Some(at) || !client.pending.is_empty() {
            return Err(Broken(format!("client {} stands at {:?}, not {at:?}", client.id, client.at)));
        }
    }
    for (index, pod) in world.pods.iter().enumerate() {
        same(&format!("pod {index}"), &pod.document.content(), &newest)?;
        if pod.document.head() != at {
            return Err(Broken(format!("pod {index} stands at {:?}, not {at:?}", pod.document.head())));
        }
    }
    let (at, snapshot) = &world.store.snapshot;
    if let Some(document) = folded.documents.get(at.version as usize) {
        same("the snapshot", &snapshot.content, document)?;
    }
    numbers(world)?;
    tokens(world)?;
    provenance(world, &folded, &newest)
}

/// Every number of every client once, in order and without gaps.
fn numbers(world: &World) -> Result<(), Broken> {
    let mut last: BTreeMap<(Arc<str>, bool), u64> = BTreeMap::new();
    for kept in &world.store.all {
        let identity = &kept.payload.identity;
        let last = last.entry((identity.id.clone(), identity.by_gateway)).or_default();
        *last += 1;
        if identity.seq != *last {
            return Err(Broken(format!(
                "version {} is edit {} of {}, not {last}",
                kept.at.version, identity.seq, identity.id
            )));
        }
    }
    for client in world.clients.iter().filter(|client| !client.plain) {
        let last = last.get(&(client.id.clone(), false)).copied().unwrap_or(0);
        if last != client.seq {
            return Err(Broken(format!("{} has made {} edits, the log has {last}", client.id, client.seq)));
        }
    }
    Ok(())
}

/// Every token at most once; once if its client keeps it until it is confirmed, or was told that it is saved.
fn tokens(world: &World) -> Result<(), Broken> {
    let mut versions: BTreeMap<u32, Vec<Version>> = BTreeMap::new();
    for kept in &world.store.all {
        let tokens: BTreeSet<u32> = tokens_of(&kept.payload.ops).collect();
        tokens.into_iter().for_each(|token| versions.entry(token).or_default().push(kept.at.version));
    }
    for (token, typed) in world.edits.iter().filter(|(_, typed)| typed.inserts) {
        let found = versions.get(token).map_or(&[][..], Vec::as_slice);
        // A copy that an older session left under way may enter the log after the newer one was refused.
        let kept = typed.saved || !typed.refused && !typed.plain;
        // What a lost primary alone had is gone. Nobody was told that it was saved if that promises a follower.
        let excused = world.lost_tail && !(typed.saved && world.schedule.replicated);
        // Nor can be put back what stood under a name that is another user's in the history that goes on.
        let owed = !world.has_namesake && world.owed.iter().any(|(_, owed)| owed == token);
        let least = usize::from(kept && !excused || owed);
        if found.len() > typed.most(world.era) || found.len() < least {
            let owed = if owed { ", which a pod had to put back," } else { "" };
            return Err(Broken(format!("token {token} of {typed:?}{owed} is in versions {found:?}")));
        }
    }
    Ok(())
}

/// The tokens in the log, as often as they are in it, sorted.
pub(crate) fn tokens_in_log(world: &World) -> Vec<u32> {
    let mut tokens: Vec<u32> = world.store.all.iter().flat_map(|kept| tokens_of(&kept.payload.ops)).collect();
    tokens.sort_unstable();
    tokens
}

/// Every unit of text comes from one entry and stays until an entry deletes it: a token that no logged delete has
/// touched is in the document, once and whole.
fn provenance(world: &World, folded: &Folded, newest: &Delta) -> Result<(), Broken> {
    // What each unit is, and the version that it came with.
    let mut units: Vec<(u16, usize)> = units_of(&world.store_root()).into_iter().map(|unit| (unit, 0)).collect();
    let mut touched = vec![false; folded.canonical.len() + 1];
    for (index, ops) in folded.canonical.iter().enumerate() {
        let mut at = 0;
        for op in ops.ops() {
            match op {
                Op::Retain { length, .. } => at += length,
                Op::Delete { length } => {
                    let end = (at + length).min(units.len());
                    units.drain(at.min(end)..end).for_each(|(_, from)| touched[from] = true);
                }
                Op::Insert { .. } | Op::Embed { .. } => {
                    let new: Vec<_> = units_of_op(op).into_iter().map(|unit| (unit, index + 1)).collect();
                    let length = new.len();
                    units.splice(at..at, new);
                    at += length;
                }
            }
        }
    }
    if units.iter().map(|(unit, _)| *unit).ne(units_of(newest)) {
        return Err(Broken("units that were inserted and not deleted are not those of the document".to_owned()));
    }
    for (index, kept) in world.store.all.iter().enumerate() {
        let inserted: Vec<u16> = kept.payload.ops.ops().iter().flat_map(units_of_op).collect();
        let left = units.iter().filter(|(_, from)| *from == index + 1).map(|(unit, _)| *unit);
        if !touched[index + 1] && left.ne(inserted) {
            return Err(Broken(format!("what version {} inserted is not whole, though nobody deleted it", index + 1)));
        }
    }
    Ok(())
}

struct Folded {
    /// At every version.
    documents: Vec<Delta>,
    canonical: Vec<Delta>,
}

/// The document at every version, by the plainest fold there is.
fn fold(world: &World) -> Result<Folded, Broken> {
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

fn units_of(document: &Delta) -> Vec<u16> {
    document.ops().iter().flat_map(units_of_op).collect()
}

fn units_of_op(op: &Op) -> Vec<u16> {
    match op {
        Op::Insert { text, .. } => text.encode_utf16().collect(),
        Op::Embed { .. } => vec![0xFFFC],
        Op::Retain { .. } | Op::Delete { .. } => Vec::new(),
    }
}

fn same(who: &str, shown: &Delta, expected: &Delta) -> Result<(), Broken> {
    if shown == expected { Ok(()) } else { Err(Broken(format!("{who} shows {shown:?}, the log says {expected:?}"))) }
}
