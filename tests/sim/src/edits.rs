//! Every edit that was typed: what it is, under which names its client sent it, and what has become of it.
//!
//! In: edits as they are typed, renamed, refused, acknowledged, lost. Out: which edit an entry of the log is. The number
//! that a client gives an edit finds it whatever it does; a token finds those that insert or format, also where a client
//! has no numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use document::{Entry, Identity};
use ot::{Delta, Op};

use crate::{client::Pending, log::Log, store::Kept, typing};

/// What an edit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its token is in what it inserts.
    Inserts,
    /// Its token is the value of an attribute; it does nothing where others have deleted all that it formats.
    Formats,
    /// It has no token.
    Deletes,
    /// Nothing: its client sends what fits no document.
    Garbage,
}

/// An edit that a user made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Typed {
    pub(crate) kind: Kind,
    /// It was refused, so that its number stands for an edit that does nothing.
    pub(crate) refused: bool,
    /// Its client was told that it is saved.
    pub(crate) saved: bool,
    /// Its client went on under another name: history had lost edits before it, or gives its first name to another user.
    pub(crate) renamed: bool,
    /// It may be lost: its client has no numbers.
    pub(crate) plain: bool,
}

/// The client's name, the number it gave, and its user.
type Name = (Arc<str>, u64, Arc<str>);

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    /// By token.
    pub(crate) typed: BTreeMap<u32, Typed>,
    /// By name.
    tokens: BTreeMap<Name, u32>,
    /// By token, the newest last.
    names: BTreeMap<u32, Vec<Name>>,
    /// What primaries took with them when they were lost.
    lost: BTreeSet<u32>,
    /// Clients without numbers of which they took something.
    lost_of: BTreeSet<Arc<str>>,
}

impl Kind {
    /// What an edit does that carries this token, if it can.
    pub(crate) fn of(ops: &Delta, token: u32) -> Self {
        let formats = |op: &Op| matches!(op, Op::Retain { attributes: Some(_), .. });
        match typing::count_token(ops, token) {
            0 if ops.ops().iter().any(formats) => Self::Formats,
            0 => Self::Deletes,
            _ => Self::Inserts,
        }
    }
}

impl Typed {
    pub(crate) fn new(kind: Kind, plain: bool) -> Self {
        Self { kind, refused: false, saved: false, renamed: false, plain }
    }

    /// How often it may be in the log after so many failovers, as far as the store remembers. A pod that still has it from its first name may bring it in
    /// after a primary that is lost told its client of a history that has ended, and too late for the client to see that.
    pub(crate) fn most(&self, failovers: u64) -> usize {
        1 + usize::from(self.renamed && failovers > 0)
    }
}

impl Edits {
    /// A client sends this edit under this name and its number from now on.
    pub(crate) fn name(&mut self, client_id: &Arc<str>, user_id: &Arc<str>, pending: &Pending) {
        let name = (client_id.clone(), pending.seq, user_id.clone());
        self.tokens.insert(name.clone(), pending.token);
        self.names.entry(pending.token).or_default().push(name);
    }

    /// Which of the numbered edits has this identity.
    pub(crate) fn of(&self, identity: &Identity, user_id: &Arc<str>) -> Option<u32> {
        if identity.by_gateway {
            return None;
        }
        self.tokens.get(&(identity.id.clone(), identity.seq, user_id.clone())).copied()
    }

    /// Which edits an entry is: one, unless something is wrong.
    pub(crate) fn in_entry(&self, entry: &Entry) -> BTreeSet<u32> {
        self.of(&entry.identity, &entry.user_id).into_iter().chain(typing::marks_of(&entry.ops)).collect()
    }

    /// Whether an entry is this edit.
    pub(crate) fn is(&self, token: u32, entry: &Entry) -> bool {
        let Entry { identity, user_id, .. } = entry;
        if identity.by_gateway {
            return typing::marks_of(&entry.ops).any(|mark| mark == token);
        }
        self.names_of(token).any(|(id, seq, user)| *seq == identity.seq && *id == identity.id && user == user_id)
    }

    /// Whether an entry is this edit, or another one of its client.
    pub(crate) fn is_of(&self, token: u32, entry: &Entry) -> bool {
        let is_name = |(id, _, user): &Name| *id == entry.identity.id && *user == entry.user_id;
        // Names of clients without numbers are the pods'.
        self.is(token, entry)
            || if entry.identity.by_gateway { self.typed[&token].plain } else { self.names_of(token).any(is_name) }
    }

    /// These entries were in a log that is lost, and not in the one that goes on.
    pub(crate) fn lose<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) {
        for entry in entries {
            let tokens = self.in_entry(entry);
            self.lost.extend(tokens);
            if entry.identity.by_gateway {
                self.lost_of.insert(entry.client_id.clone());
            }
        }
    }

    /// Whether a lost primary has had it, and the history that goes on had not.
    pub(crate) fn is_lost(&self, token: u32) -> bool {
        self.lost.contains(&token)
    }

    /// Whether a lost primary has had edits of this client, which has no numbers.
    pub(crate) fn has_lost_of(&self, client_id: &str) -> bool {
        self.lost_of.contains(client_id)
    }

    /// Whether a name of this edit belongs to another user in this log.
    pub(crate) fn is_taken(&self, token: u32, log: &Log) -> bool {
        self.names_of(token).any(|(client_id, _, user_id)| {
            log.all
                .iter()
                .map(|kept| &kept.payload)
                .any(|entry| !entry.identity.by_gateway && entry.identity.id == *client_id && entry.user_id != *user_id)
        })
    }

    /// How often this edit is in these entries of the log. One that comes when the store has forgotten the one before it
    /// is no repetition to it.
    pub(crate) fn count<'a>(&self, token: u32, log: &Log, entries: impl Iterator<Item = &'a Kept<Entry>>) -> usize {
        let (mut count, mut before_ms) = (0, 0);
        for Kept { payload, time_ms, .. } in entries.filter(|kept| self.is(token, &kept.payload)) {
            let is_remembered = time_ms - before_ms <= log.remembered_ms(&payload.identity) + 1_000;
            count += usize::from(count == 0 || is_remembered);
            before_ms = *time_ms;
        }
        count
    }

    fn names_of(&self, token: u32) -> impl Iterator<Item = &Name> {
        self.names.get(&token).into_iter().flatten()
    }
}
