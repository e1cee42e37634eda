//! What must hold when everything has come to rest.
//!
//! In: the world at rest. Out: nothing, or what is wrong.

use std::collections::BTreeMap;

use ot::{Delta, Side};

use crate::{client::Broken, typing::count_token, world::World};

/// All clients, all pods and the snapshot show what a fold of the log gives; every edit is in the log exactly once.
pub(crate) fn check(world: &World) -> Result<(), Broken> {
    let documents = fold(world)?;
    let newest = documents.last().cloned().unwrap_or_default();
    let at = world.store.point(world.store.version());
    for client in &world.clients {
        same(&format!("client {}", client.id), &client.shown, &newest)?;
        same(&format!("client {} (confirmed)", client.id), &client.confirmed, &newest)?;
        if client.at.as_ref() != at || !client.pending.is_empty() {
            return Err(Broken(format!("client {} stands at {:?}, not {at:?}", client.id, client.at)));
        }
    }
    for (index, pod) in world.pods.iter().enumerate() {
        same(&format!("pod {index}"), &pod.document.content(), &newest)?;
        if Some(pod.document.head()) != at {
            return Err(Broken(format!("pod {index} stands at {:?}, not {at:?}", pod.document.head())));
        }
    }
    let snapshot = &world.store.snapshot;
    if let Some(document) = documents.get(snapshot.at.version as usize) {
        same("the snapshot", &snapshot.content, document)?;
    }
    once(world)
}

/// Every number of every client once and without gaps, every token that is not refused once, and every
/// acknowledgement true.
fn once(world: &World) -> Result<(), Broken> {
    let mut seen = BTreeMap::new();
    for logged in &world.store.all {
        let key = (logged.entry.identity.id.clone(), logged.entry.identity.seq);
        if seen.insert(key.clone(), logged.at.version).is_some() {
            return Err(Broken(format!("{key:?} is in the log twice")));
        }
    }
    for client in &world.clients {
        for seq in 1..=client.seq {
            if !seen.contains_key(&(client.id.clone(), seq)) {
                return Err(Broken(format!("edit {seq} of {} is lost", client.id)));
            }
        }
    }
    for (token, typed) in &world.edits {
        let entries = world.store.all.iter().filter(|logged| count_token(&logged.entry.ops, *token) > 0);
        let found: Vec<_> = entries.map(|logged| logged.entry.identity.seq).collect();
        // A copy that an older session left under way may enter the log after the newer one was refused.
        let least = usize::from(typed.inserts && !typed.refused);
        if found.len() > 1 || found.len() < least || found.iter().any(|seq| *seq != typed.seq) {
            return Err(Broken(format!("token {token} of {typed:?} is in entries {found:?}")));
        }
    }
    for (client, seq, version) in &world.saved {
        let id = &world.clients[*client].id;
        match seen.get(&(id.clone(), *seq)) {
            Some(found) if found <= version => {}
            found => return Err(Broken(format!("edit {seq} of {id} was said to be {version}, it is {found:?}"))),
        }
    }
    Ok(())
}

/// The document at every version, by the plainest fold there is.
fn fold(world: &World) -> Result<Vec<Delta>, Broken> {
    let mut documents = vec![world.store.seed.content.clone()];
    let mut canonical: Vec<Delta> = Vec::new();
    for logged in &world.store.all {
        let mut ops = logged.entry.ops.clone();
        for committed in canonical.iter().skip(logged.entry.base as usize) {
            ops = committed.transform(&ops, Side::Other);
        }
        let before = documents.last().cloned().unwrap_or_default();
        if ops.base_length() > before.length() {
            return Err(Broken(format!("version {} reaches past the end", logged.at.version)));
        }
        documents.push(before.compose(&ops).map_err(|invalid| Broken(invalid.to_string()))?);
        canonical.push(ops);
    }
    Ok(documents)
}

fn same(who: &str, shown: &Delta, expected: &Delta) -> Result<(), Broken> {
    if shown == expected { Ok(()) } else { Err(Broken(format!("{who} shows {shown:?}, the log says {expected:?}"))) }
}
