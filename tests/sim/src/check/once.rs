//! How often each edit is in the log that goes on.
//!
//! In: the world at rest. Out: which edit is there too often, or not at all although its client keeps it until it is
//! confirmed, was told that it is saved, or a pod had to put it back. An edit is known by the number its client gave it,
//! whatever it does; those of a client without numbers by their tokens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use document::Entry;

use crate::{
    client::Broken,
    edits::{Kind, Typed},
    people::user_id,
    store::Kept,
    typing::{marks_of, tokens_of},
    world::World,
};

pub(super) fn check(world: &World) -> Result<(), Broken> {
    numbers(world)?;
    edits(world)
}

/// The tokens in the log, as often as they are in it, sorted.
pub(crate) fn tokens_in_log(world: &World) -> Vec<u32> {
    let mut tokens: Vec<u32> = world.store.all.iter().flat_map(|kept| tokens_of(&kept.payload.ops)).collect();
    tokens.sort_unstable();
    tokens
}

/// Every number of every client once, in order and without gaps; from 1 again where the store has forgotten it.
fn numbers(world: &World) -> Result<(), Broken> {
    let mut last: BTreeMap<(Arc<str>, bool), (u64, u64)> = BTreeMap::new();
    // A name that is forgotten may be another user's then.
    let mut last_of: BTreeMap<(Arc<str>, Arc<str>), u64> = BTreeMap::new();
    for kept in &world.store.all {
        let identity = &kept.payload.identity;
        let (last, last_ms) = last.entry((identity.id.clone(), identity.by_gateway)).or_default();
        let is_forgotten = kept.time_ms - *last_ms > world.store.remembered_ms(identity);
        if identity.seq != *last + 1 && !(is_forgotten && identity.seq == 1) {
            return Err(Broken(format!(
                "version {} is edit {} of {}, which had {last}",
                kept.at.version, identity.seq, identity.id
            )));
        }
        (*last, *last_ms) = (identity.seq, kept.time_ms);
        last_of.insert((identity.id.clone(), kept.payload.user_id.clone()), identity.seq);
    }
    for (index, client) in world.clients.iter().enumerate().filter(|(_, client)| !client.plain) {
        let last = last_of.get(&(client.id.clone(), user_id(index))).copied().unwrap_or(0);
        if last != client.seq {
            return Err(Broken(format!("{} has made {} edits, the log has {last}", client.id, client.seq)));
        }
    }
    Ok(())
}

/// Every edit at most once; once if its client keeps it until it is confirmed, or was told that it is saved.
fn edits(world: &World) -> Result<(), Broken> {
    let mut entries: BTreeMap<u32, Vec<&Kept<Entry>>> = BTreeMap::new();
    for kept in &world.store.all {
        let found = world.edits.in_entry(&kept.payload);
        is_what_was_typed(world, &kept.payload, &found)
            .map_err(|wrong| Broken(format!("version {} {wrong}: {:?}", kept.at.version, kept.payload)))?;
        found.into_iter().for_each(|token| entries.entry(token).or_default().push(kept));
    }
    for (token, typed) in &world.edits.typed {
        let found = entries.get(token).map_or(&[][..], Vec::as_slice);
        let count = world.edits.count(*token, &world.store, found.iter().copied());
        let owed = is_owed(world, *token, typed);
        let least = usize::from(owed || is_kept(world, *token, typed));
        if count > typed.most(world.era) || count < least {
            let versions: Vec<_> = found.iter().map(|kept| kept.at.version).collect();
            let owed = if owed { ", which a pod had to put back," } else { "" };
            return Err(Broken(format!("token {token} of {typed:?}{owed} is in versions {versions:?}")));
        }
    }
    Ok(())
}

/// An entry is one edit, and does what that was typed to do.
fn is_what_was_typed(world: &World, entry: &Entry, tokens: &BTreeSet<u32>) -> Result<(), &'static str> {
    let named = world.edits.of(&entry.identity, &entry.user_id);
    if tokens.len() > 1 {
        return Err("is several edits");
    }
    if named.is_none() && !entry.identity.by_gateway && *entry.client_id != *"newline" {
        return Err("is an edit that nobody made");
    }
    let Some((token, typed)) = named.and_then(|token| Some((token, world.edits.typed.get(&token)?))) else {
        return Ok(());
    };
    let is_marked = marks_of(&entry.ops).any(|mark| mark == token);
    let is_right = match typed.kind {
        // Its number stands for an edit that does nothing, or an older copy of it was quicker.
        Kind::Inserts | Kind::Formats if typed.refused => is_marked || entry.ops.is_empty(),
        Kind::Inserts => is_marked,
        Kind::Formats => is_marked || entry.ops.is_empty(),
        Kind::Deletes => !entry.ops.ops().iter().any(|op| op.is_insert() || op.attributes().is_some()),
        Kind::Garbage => entry.ops.is_empty(),
    };
    if is_right { Ok(()) } else { Err("is not what was typed") }
}

/// Whether it must be in the log because its client keeps it, or was told that it is saved.
fn is_kept(world: &World, token: u32, typed: &Typed) -> bool {
    // A copy that an older session left under way may enter the log after the newer one was refused.
    let kept = typed.saved || !typed.refused && !typed.plain;
    // What a lost primary alone had is gone. Nobody was told that it was saved if that promises a follower.
    let is_excused = world.edits.is_lost(token) && !(typed.saved && world.schedule.replicated);
    // Where others have deleted all that it formats, nothing tells it from other edits of a client without numbers.
    let is_found = !typed.plain || typed.kind == Kind::Inserts;
    kept && !is_excused && is_found
}

/// Whether a pod had to put it back. It cannot where its name is another user's in the history that goes on.
fn is_owed(world: &World, token: u32, typed: &Typed) -> bool {
    let is_found = !typed.plain || typed.kind == Kind::Inserts;
    is_found && world.owed.iter().any(|(_, owed)| *owed == token) && !world.edits.is_taken(token, &world.store)
}
