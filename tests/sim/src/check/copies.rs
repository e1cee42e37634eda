//! Everybody's copy: clients, pods, and what a pod would read that opens the document now.
//!
//! In: the world at rest, and the fold of its log. Out: whose copy differs.

use document::Document;
use ot::Delta;

use super::fold::Folded;
use crate::{client::Broken, pod::Read, world::World};

pub(super) fn check(world: &World, folded: &Folded) -> Result<(), Broken> {
    let newest = folded.newest();
    let at = world.store.head();
    for client in &world.clients {
        same(&format!("client {}", client.id), &client.shown.to_delta(), &newest)?;
        same(&format!("client {} (confirmed)", client.id), &client.confirmed.to_delta(), &newest)?;
        if client.at.as_ref() != Some(at) || !client.pending.is_empty() {
            return Err(Broken(format!("client {} stands at {:?}, not {at:?}", client.id, client.at)));
        }
    }
    for (index, pod) in world.pods.iter().enumerate().filter(|(_, pod)| pod.is_open()) {
        same_document(&format!("pod {index}"), &pod.document, world, &newest)?;
    }
    snapshot(world, folded)?;
    let Read { snapshot, tail, .. } = world.stored();
    let opened = Document::open(world.profile.settings.clone(), "new".into(), snapshot, tail, world.now_ms)
        .map_err(|error| Broken(format!("cannot be opened: {error}")))?;
    same_document("a pod that opens the document", &opened, world, &newest)
}

fn same_document(who: &str, document: &Document, world: &World, newest: &Delta) -> Result<(), Broken> {
    same(who, &document.content(), newest)?;
    let at = world.store.head();
    if document.head() == at {
        Ok(())
    } else {
        Err(Broken(format!("{who} stands at {:?}, not {at:?}", document.head())))
    }
}

/// The stored snapshot and the canonical forms below it are what the fold has there.
fn snapshot(world: &World, folded: &Folded) -> Result<(), Broken> {
    let (at, snapshot) = &world.store.snapshot;
    let strange = || Broken(format!("the snapshot at {at:?} is of no point of the log"));
    let index = usize::try_from(at.version).map_err(|_| strange())?;
    let document = folded.documents.get(index).filter(|_| world.store.point(at.version) == Some(at));
    same("the snapshot", &snapshot.content, document.ok_or_else(strange)?)?;
    let first = index.checked_sub(snapshot.window.len()).ok_or_else(strange)?;
    for ((entry, kept), ops) in snapshot.window.iter().zip(&world.store.all[first..]).zip(&folded.canonical[first..]) {
        if entry.at != kept.at || entry.identity != kept.payload.identity {
            return Err(Broken(format!("the snapshot's window has {:?} where the log has {:?}", entry.at, kept.at)));
        }
        same(&format!("the canonical form of {}", entry.at.version), &entry.ops, ops)?;
    }
    Ok(())
}

fn same(who: &str, shown: &Delta, expected: &Delta) -> Result<(), Broken> {
    if shown == expected { Ok(()) } else { Err(Broken(format!("{who} shows {shown:?}, the log says {expected:?}"))) }
}
