//! A client, by the contract's rule.
//!
//! In: what its user types, and the gateway's events in order. Out: what it shows, and what it sends. It sends without
//! waiting, keeps what is not confirmed, and sends it again under its number after every join.

use std::{collections::VecDeque, sync::Arc};

use document::{Canonical, Joined, JoinedContent, Point};
use ot::{Delta, Invalid, Rope, cross};

/// An edit that is not confirmed.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Its number, given once.
    pub seq: u64,
    /// As it applies now: after what is confirmed and those before it.
    pub ops: Delta,
    /// What it carries, to be found again.
    pub token: u32,
    /// What it sends in their place, a bug of an editor: it fits no document, or (empty) cannot even be read.
    pub garbage: Option<Delta>,
}

/// One editor instance.
#[derive(Debug)]
pub struct Client {
    /// Its `clientId`.
    pub id: Arc<str>,
    /// What its user sees.
    pub shown: Rope,
    /// What is confirmed of it, at `at`.
    pub confirmed: Rope,
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
    /// It was told to join anew, by content.
    pub afresh: bool,
    /// It sends neither numbers nor sessions, and forgets what is not confirmed when it joins again.
    pub plain: bool,
    /// Joins of this connection that are not answered.
    pub joins: usize,
}

/// What the client cannot have been sent.
#[derive(Debug)]
pub struct Broken(pub String);

impl Client {
    /// An editor that shows nothing yet.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            shown: Rope::default(),
            confirmed: Rope::default(),
            at: None,
            session: None,
            pending: VecDeque::new(),
            seq: 0,
            live: false,
            afresh: false,
            plain: false,
            joins: 0,
        }
    }

    /// The user makes this change to what is shown.
    ///
    /// # Errors
    /// The change does not fit.
    pub fn edit(&mut self, ops: Delta, token: u32) -> Result<Pending, Broken> {
        apply(&mut self.shown, &ops)?;
        self.seq += 1;
        let pending = Pending { seq: self.seq, ops, token, garbage: None };
        self.pending.push_back(pending.clone());
        Ok(pending)
    }

    /// A bug makes an edit of nothing, which is sent as one that fits no document or cannot be read.
    pub fn edit_garbage(&mut self, token: u32, unreadable: bool) -> Pending {
        // Further than any document of a run reaches.
        let unfit = Delta::new().retain(1 << 30, None).delete(1);
        let garbage = Some(if unreadable { Delta::new() } else { unfit });
        self.seq += 1;
        let pending = Pending { seq: self.seq, ops: Delta::new(), token, garbage };
        self.pending.push_back(pending.clone());
        pending
    }

    /// A plain client goes back to what is confirmed.
    pub fn forget(&mut self) {
        self.pending.clear();
        self.shown = self.confirmed.clone();
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
        if self.is_deaf() {
            return Ok(());
        }
        if self.is_new(&entry.at)? {
            apply(&mut self.confirmed, &entry.ops)?;
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
        if self.is_deaf() {
            return Ok(());
        }
        if self.is_new(at)? {
            let first = self
                .pending
                .pop_front()
                .filter(|first| self.plain == seq.is_none() && seq.is_none_or(|seq| first.seq == seq));
            let first = first.ok_or_else(|| Broken(format!("own edit {seq:?} out of order at {}", at.version)))?;
            apply(&mut self.confirmed, &first.ops)?;
            self.at = Some(at.clone());
        }
        Ok(())
    }

    /// What is confirmed, followed by the unconfirmed edits up to this number.
    ///
    /// # Errors
    /// An edit does not fit.
    pub fn known_up_to(&self, seq: u64) -> Result<Delta, Broken> {
        let mut known = self.confirmed.clone();
        for pending in self.pending.iter().take_while(|pending| pending.seq <= seq) {
            apply(&mut known, &pending.ops)?;
        }
        Ok(known.to_delta())
    }

    /// `document-joined`. Everything that is still unconfirmed has to be sent again; under another name if this says so,
    /// because the history has lost edits before them.
    ///
    /// # Errors
    /// The answer does not fit what the client has.
    pub fn on_joined(&mut self, joined: &Joined) -> Result<bool, Broken> {
        match &joined.content {
            // This answers a join that was sent before `rejoin` came: perhaps on another history.
            JoinedContent::Edits(_) if self.afresh => return Ok(false),
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
                if self.plain {
                    self.forget();
                }
                let before = self.known_up_to(joined.last_seq)?;
                while self.pending.pop_front_if(|first| first.seq <= joined.last_seq).is_some() {}
                self.remote(before.diff(content).map_err(|invalid| Broken(format!("diff: {invalid}")))?)?;
                self.confirmed = Rope::from_delta(content).map_err(|invalid| Broken(format!("content: {invalid}")))?;
                self.at = Some(joined.at.clone());
            }
            JoinedContent::Text(_) => return Err(Broken("text where a delta was asked for".to_owned())),
        }
        self.afresh = false;
        let is_first = self.session.is_none();
        self.session = Some(joined.session.clone());
        let (next, due) = (self.first_seq(), joined.last_seq + 1);
        let rename = !self.plain && (next > due || is_first && next != due);
        // Without sessions it cannot tell of which join an edit is: it waits until all are answered.
        self.live = !rename && !self.plain;
        Ok(rename)
    }

    /// The acknowledgement of a join, which comes right behind its `document-joined`.
    pub fn on_join_answered(&mut self) {
        self.joins = self.joins.saturating_sub(1);
        self.live |= self.plain && self.joins == 0;
    }

    /// Goes on as another client.
    pub fn rename_to(&mut self, id: &str) {
        self.id = id.into();
        self.session = None;
        self.live = false;
        self.seq = 0;
        for pending in &mut self.pending {
            self.seq += 1;
            pending.seq = self.seq;
        }
    }

    /// The edit of this number is refused: its effect is taken back, its number stays, as an edit that does nothing.
    ///
    /// # Errors
    /// It does not fit.
    pub fn on_refused(&mut self, seq: u64) -> Result<(), Broken> {
        let Some(index) = self.pending.iter().position(|pending| pending.seq == seq) else { return Ok(()) };
        let mut before = self.confirmed.clone();
        for pending in self.pending.iter().take(index) {
            apply(&mut before, &pending.ops)?;
        }
        let mut undo = Delta::new();
        if let Some(refused) = self.pending.get_mut(index) {
            undo = refused.ops.invert(&before.to_delta()).map_err(|invalid| Broken(format!("undo: {invalid}")))?;
            refused.ops = Delta::new();
            refused.garbage = None;
        }
        for pending in self.pending.iter_mut().skip(index + 1) {
            carry(pending, &mut undo);
        }
        apply(&mut self.shown, &undo)?;
        Ok(())
    }

    /// Somebody else's change to what is confirmed, carried over what is not.
    fn remote(&mut self, ops: Delta) -> Result<(), Broken> {
        let mut ops = ops;
        for pending in &mut self.pending {
            carry(pending, &mut ops);
        }
        apply(&mut self.shown, &ops)?;
        Ok(())
    }

    /// What comes is of a session that ended, perhaps on a history that is lost: the next content tells it anew.
    fn is_deaf(&self) -> bool {
        self.afresh || self.plain && !self.live
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
    (pending.ops, *remote) = cross(&pending.ops, remote);
}

fn apply(document: &mut Rope, ops: &Delta) -> Result<(), Broken> {
    document.apply(ops).map_err(|invalid: Invalid| Broken(format!("{invalid}: {:?} then {ops:?}", document.to_delta())))
}
