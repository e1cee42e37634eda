//! The context of a client's edits.
//!
//! A client sends without waiting: each edit applies to the document at the version it has applied **followed by its own
//! earlier edits that are not in that version yet**. In: its edits as they come, and the log as it grows. Out: each edit
//! as it applies to the head, once all before it are committed.
//!
//! Two lists per session do it. `pending`: the own edits that are not committed, as they apply at the pod's head, each
//! after the one before it. `changed`: the log entries that the client does not have yet, as they apply to what the
//! client shows, wherever that differs from their canonical form. A new edit is carried over those, and they over it;
//! a new entry is carried over the pending edits, and they over it; both from the old values. An own entry that comes
//! back leaves `pending` and has no form in `changed`: the client has it already.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ot::{Bias, Delta, Side};

use crate::{Canonical, Identity, Mutation, ReplyId, Version, window::History};

/// An own edit that is not known to be committed.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) identity: Identity,
    /// As it applies at the pod's head after the pending ones before it.
    pub(crate) ops: Delta,
    pub(crate) reply: Option<ReplyId>,
    /// Its place among all that this pod took in.
    pub(crate) arrival: u64,
    pub(crate) received_ms: u64,
    /// It is part of the commit call in flight, or known to be in the log.
    pub(crate) sent: bool,
    /// It does not fit; it is refused once the fetch of this number has shown that no older copy of it is in the log.
    pub(crate) refused_after: Option<u64>,
}

/// The version an edit names is not one that this chain can start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooOld;

/// The chain of one session.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// The version that the client said it has applied; none before its first edit.
    known: Option<Version>,
    pending: VecDeque<Own>,
    /// By version, above `known`; none = an own entry.
    changed: BTreeMap<Version, Option<Arc<Delta>>>,
    pending_bytes: usize,
}

impl Chain {
    pub(crate) fn pending(&self) -> &VecDeque<Own> {
        &self.pending
    }

    pub(crate) fn front_mut(&mut self) -> Option<&mut Own> {
        self.pending.front_mut()
    }

    /// For [`Mutation::ChainedBatch`].
    pub(crate) fn second_mut(&mut self) -> Option<&mut Own> {
        self.pending.get_mut(1)
    }

    /// The store has forgotten the count that the first pending edit belongs to: the pending ones of that count are
    /// counted anew.
    pub(crate) fn count_anew(&mut self) {
        let Some(first) = self.pending.front().map(|own| own.identity.clone()) else { return };
        for own in self.pending.iter_mut().filter(|own| own.identity.is_counted_with(&first)) {
            own.identity = own.identity.counted_from(&first);
        }
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Forgets the pending edits from the `index`th on; gives them back.
    pub(crate) fn cut(&mut self, index: usize) -> VecDeque<Own> {
        let gone = self.pending.split_off(index.min(self.pending.len()));
        self.pending_bytes = self.pending.iter().map(|own| own.ops.held_bytes()).sum();
        gone
    }

    /// An edit of this client that applies at `version` and what it sent before.
    pub(crate) fn add(
        &mut self,
        history: &History,
        client_id: &str,
        version: Version,
        own: Own,
        mutation: Mutation,
    ) -> Result<(), TooOld> {
        let mut own = own;
        self.reach(history, version)?;
        if mutation == Mutation::SkipOwnEntries {
            for entry in history.after(version).ok_or(TooOld)?.filter(|entry| *entry.client_id != *client_id) {
                own.ops = entry.ops.transform(&own.ops, history.tie());
            }
        } else {
            own.ops = self.carry(history, version, history.head().version, own.ops)?;
        }
        self.pending_bytes += own.ops.held_bytes();
        self.pending.push_back(own);
        Ok(())
    }

    /// An edit that was committed before this session began, as version `committed`, but that the client did not have
    /// when it wrote what follows: the context of those.
    pub(crate) fn add_committed(
        &mut self,
        history: &History,
        version: Version,
        ops: Delta,
        committed: Version,
    ) -> Result<(), TooOld> {
        self.reach(history, version)?;
        if committed > version {
            self.carry(history, version, committed - 1, ops)?;
            self.changed.insert(committed, None);
        }
        Ok(())
    }

    /// The entry that just became the head. Gives back the own edit that it was, if it was one.
    pub(crate) fn learn(&mut self, history: &History, entry: &Canonical, mutation: Mutation) -> Option<Own> {
        let version = entry.at.version;
        if self.pending.front().is_some_and(|own| own.identity == entry.identity) {
            let own = self.pending.pop_front()?;
            self.pending_bytes = self.pending_bytes.saturating_sub(own.ops.held_bytes());
            self.changed.insert(version, None);
            self.forget_below(history.floor());
            return Some(own);
        }
        if self.pending.is_empty() {
            return None;
        }
        let mut entry_ops = Delta::clone(&entry.ops);
        let mut pending_bytes = 0;
        for own in &mut self.pending {
            let carried = entry_ops.transform(&own.ops, history.tie());
            if mutation != Mutation::SkipOwnEntries {
                entry_ops = own.ops.transform(&entry_ops, opposite(history.tie()));
            }
            own.ops = carried;
            // Carrying changes what an edit holds; a sum that kept the old figures would only grow.
            pending_bytes += own.ops.held_bytes();
        }
        self.pending_bytes = pending_bytes;
        self.changed.insert(version, Some(Arc::new(entry_ops)));
        self.forget_below(history.floor());
        None
    }

    /// A position in what the client showed at `version` and its own edits sent so far, as it is at the head after all
    /// pending edits.
    pub(crate) fn carry_position(&self, history: &History, version: Version, index: usize) -> Option<usize> {
        let mut index = index;
        for entry in history.after(version)? {
            match self.changed.get(&entry.at.version) {
                Some(None) => {}
                Some(Some(ops)) => index = ops.transform_position(index, Bias::After),
                None => index = entry.ops.transform_position(index, Bias::After),
            }
        }
        Some(index)
    }

    /// An entry that is about to be learned, as it applies after the first `count` pending edits.
    pub(crate) fn after_pending(&self, entry: &Canonical, count: usize) -> Delta {
        let mut ops = Delta::clone(&entry.ops);
        for own in self.pending.iter().take(count) {
            ops = own.ops.transform(&ops, Side::This);
        }
        ops
    }

    /// The client has applied `version`: what is at or below it is no longer of interest.
    fn reach(&mut self, history: &History, version: Version) -> Result<(), TooOld> {
        if self.known.is_some_and(|known| version < known) || version < history.floor() {
            return Err(TooOld);
        }
        self.known = Some(version);
        self.changed = self.changed.split_off(&(version + 1));
        Ok(())
    }

    /// Carries `ops` over the entries in `from + 1 ..= to` as the client will meet them, and those over it.
    fn carry(&mut self, history: &History, from: Version, to: Version, ops: Delta) -> Result<Delta, TooOld> {
        let mut ops = ops;
        for entry in history.after(from).ok_or(TooOld)? {
            if entry.at.version > to {
                break;
            }
            let met = match self.changed.get(&entry.at.version) {
                Some(None) if history.mutation() == Mutation::FoldOverOwnEntries => entry.ops.clone(),
                Some(None) => continue,
                Some(Some(met)) => met.clone(),
                None => entry.ops.clone(),
            };
            let carried = met.transform(&ops, history.tie());
            let met = ops.transform(&met, opposite(history.tie()));
            self.changed.insert(entry.at.version, Some(Arc::new(met)));
            ops = carried;
        }
        Ok(ops)
    }

    /// Edits that name such versions are refused, so nobody will ask.
    fn forget_below(&mut self, floor: Version) {
        if self.changed.first_key_value().is_some_and(|(version, _)| *version <= floor) {
            self.changed = self.changed.split_off(&(floor + 1));
        }
    }
}

fn opposite(side: Side) -> Side {
    match side {
        Side::This => Side::Other,
        Side::Other => Side::This,
    }
}
