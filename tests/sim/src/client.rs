//! A client, by the contract's rule.
//!
//! In: what its user types, and the gateway's events in order. Out: what it shows, and what it sends. It sends without
//! waiting, keeps what is not confirmed, and sends it again under its number after every join.

use std::{collections::VecDeque, sync::Arc};

use document::{Canonical, Joined, JoinedContent, Point};
use ot::{Delta, Side};

/// An edit that is not confirmed.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Its number, given once.
    pub seq: u64,
    /// As it applies now: after what is confirmed and those before it.
    pub ops: Delta,
}

/// One editor instance.
#[derive(Debug)]
pub struct Client {
    /// Its `clientId`.
    pub id: Arc<str>,
    /// What its user sees.
    pub shown: Delta,
    /// What is confirmed of it, at `at`.
    pub confirmed: Delta,
    /// The point that it has reached; none before the first join.
    pub at: Option<Point>,
    /// Of its last `document-joined`.
    pub session: Option<Arc<str>>,
    /// Not confirmed, in order.
    pub pending: VecDeque<Pending>,
    /// The number of the last edit it made.
    pub seq: u64,
    /// Whether it may send: joined, and not about to join again.
    pub live: bool,
}

/// What the client cannot have been sent.
#[derive(Debug)]
pub struct Broken(pub String);

impl Client {
    /// An editor that shows nothing yet.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            shown: Delta::new(),
            confirmed: Delta::new(),
            at: None,
            session: None,
            pending: VecDeque::new(),
            seq: 0,
            live: false,
        }
    }

    /// The user makes this change to what is shown.
    ///
    /// # Errors
    /// The change does not fit.
    pub fn edit(&mut self, ops: Delta) -> Result<Pending, Broken> {
        self.shown = compose(&self.shown, &ops)?;
        self.seq += 1;
        let pending = Pending { seq: self.seq, ops };
        self.pending.push_back(pending.clone());
        Ok(pending)
    }

    /// The number of the first unconfirmed edit, or the next one.
    pub fn first_seq(&self) -> u64 {
        self.pending.front().map_or(self.seq + 1, |first| first.seq)
    }

    /// `edit`
    ///
    /// # Errors
    /// A version is missing, or the edit does not fit.
    pub fn on_edit(&mut self, entry: &Canonical) -> Result<(), Broken> {
        if self.is_new(&entry.at)? {
            self.confirmed = compose(&self.confirmed, &entry.ops)?;
            self.remote(Delta::clone(&entry.ops))?;
            self.at = Some(entry.at.clone());
        }
        Ok(())
    }

    /// `edit-committed`
    ///
    /// # Errors
    /// A version is missing, or it is not the first unconfirmed edit.
    pub fn on_committed(&mut self, at: &Point, seq: Option<u64>) -> Result<(), Broken> {
        if self.is_new(at)? {
            let first = self.pending.pop_front().filter(|first| Some(first.seq) == seq);
            let first = first.ok_or_else(|| Broken(format!("own edit {seq:?} out of order at {}", at.version)))?;
            self.confirmed = compose(&self.confirmed, &first.ops)?;
            self.at = Some(at.clone());
        }
        Ok(())
    }

    /// `document-joined`. Everything that is still unconfirmed has to be sent again.
    ///
    /// # Errors
    /// The answer does not fit what the client has.
    pub fn on_joined(&mut self, joined: &Joined) -> Result<(), Broken> {
        match &joined.content {
            JoinedContent::Edits(entries) => {
                for entry in entries {
                    if entry.client_id == self.id {
                        self.on_committed(&entry.at, (!entry.identity.by_gateway).then_some(entry.identity.seq))?;
                    } else {
                        self.on_edit(entry)?;
                    }
                }
                if self.at.as_ref() != Some(&joined.at) {
                    return Err(Broken(format!("joined at {:?}, reached {:?}", joined.at, self.at)));
                }
            }
            JoinedContent::Ops(content) => {
                let mut before = self.confirmed.clone();
                while self.pending.front().is_some_and(|first| first.seq <= joined.last_seq) {
                    if let Some(first) = self.pending.pop_front() {
                        before = compose(&before, &first.ops)?;
                    }
                }
                self.remote(before.diff(content).map_err(|invalid| Broken(format!("diff: {invalid}")))?)?;
                self.confirmed = content.clone();
                self.at = Some(joined.at.clone());
            }
            JoinedContent::Text(_) => return Err(Broken("text where a delta was asked for".to_owned())),
        }
        self.session = Some(joined.session.clone());
        self.live = true;
        Ok(())
    }

    /// The edit of this number is refused: its effect is taken back, its number stays, as an edit that does nothing.
    ///
    /// # Errors
    /// It does not fit.
    pub fn on_refused(&mut self, seq: u64) -> Result<(), Broken> {
        let Some(index) = self.pending.iter().position(|pending| pending.seq == seq) else { return Ok(()) };
        let mut before = self.confirmed.clone();
        for pending in self.pending.iter().take(index) {
            before = compose(&before, &pending.ops)?;
        }
        let mut undo = Delta::new();
        if let Some(refused) = self.pending.get_mut(index) {
            undo = refused.ops.invert(&before).map_err(|invalid| Broken(format!("undo: {invalid}")))?;
            refused.ops = Delta::new();
        }
        for pending in self.pending.iter_mut().skip(index + 1) {
            carry(pending, &mut undo);
        }
        self.shown = compose(&self.shown, &undo)?;
        Ok(())
    }

    /// Somebody else's change to what is confirmed, carried over what is not.
    fn remote(&mut self, ops: Delta) -> Result<(), Broken> {
        let mut ops = ops;
        for pending in &mut self.pending {
            carry(pending, &mut ops);
        }
        self.shown = compose(&self.shown, &ops)?;
        Ok(())
    }

    fn is_new(&self, at: &Point) -> Result<bool, Broken> {
        let version = self.at.as_ref().map(|at| at.version);
        match version {
            Some(version) if at.version <= version => Ok(false),
            Some(version) if at.version == version + 1 => Ok(true),
            _ => Err(Broken(format!("version {} came at {version:?}", at.version))),
        }
    }
}

/// `(P, R) = (R.transform(P, false), P.transform(R, true))`
fn carry(pending: &mut Pending, remote: &mut Delta) {
    let carried = remote.transform(&pending.ops, Side::Other);
    *remote = pending.ops.transform(remote, Side::This);
    pending.ops = carried;
}

fn compose(first: &Delta, second: &Delta) -> Result<Delta, Broken> {
    first.compose(second).map_err(|invalid| Broken(format!("{invalid}: {first:?} then {second:?}")))
}
