//! Clients: what their users type, and what they make of what they hear.
//!
//! In: the schedule. Out: messages on the clients' connections, and their state, as the contract's rule says.

use std::sync::Arc;

use document::{Code, ConnectionId, Event, JoinedContent};
use ot::Delta;

use crate::{
    client::{Broken, Pending},
    counts::Met,
    edits::{Kind, Typed},
    record::Act,
    schedule::Fault,
    sockets::{Got, Sent},
    typing,
    world::World,
};

impl World {
    pub(crate) fn type_something(&mut self, client: usize) -> Result<(), Broken> {
        let is_first = self.clients[client].at.is_none();
        let early = self.fault(Fault::Early, 4);
        let editor = &self.clients[client];
        if self.edits.typed.len() >= self.profile.edits_max
            || is_first && (!early || editor.plain && !self.may_send_early(client))
        {
            return Ok(());
        }
        // A plain client that waits for its join does not let its user type.
        if editor.plain && self.present[client].is_some() && !editor.live {
            return Ok(());
        }
        self.tokens += 1;
        let shown = self.clients[client].shown.to_delta();
        let mut ops = typing::edit(&mut self.random, &shown, self.tokens);
        while self.comparable && typing::count_token(&ops, self.tokens) == 0 {
            ops = typing::edit(&mut self.random, &shown, self.tokens);
        }
        let pending = self.clients[client].edit(ops.clone(), self.tokens)?;
        let plain = self.clients[client].plain;
        self.typed(client, Kind::of(&ops, self.tokens), &pending);
        self.counts.meet_times(Met::Pipelined, usize::from(self.clients[client].pending.len() > 1));
        self.counts.meet_times(Met::TypedOffline, usize::from(self.offline[client]));
        self.counts.meet_times(Met::TypedBeforeJoin, usize::from(is_first));
        self.counts.meet_times(Met::PlainEdit, usize::from(plain));
        self.record(client, Act::Local(&ops));
        // A careless client sends under its old session while it is joining; that is dropped.
        let careless = self.random.one_in(2) && self.has(Fault::Early) && self.may_send_early(client);
        if let Some(id) = self.present[client]
            && (self.clients[client].live || careless)
        {
            self.send_edit(client, id, &pending);
        }
        Ok(())
    }

    /// A bug in an editor.
    pub(crate) fn type_garbage(&mut self, client: usize) {
        if self.clients[client].at.is_none()
            || self.clients[client].plain
            || self.edits.typed.len() >= self.profile.edits_max
        {
            return;
        }
        self.tokens += 1;
        let unreadable = self.random.one_in(2);
        let pending = self.clients[client].edit_garbage(self.tokens, unreadable);
        self.typed(client, Kind::Garbage, &pending);
        if let Some(id) = self.present[client].filter(|_| self.clients[client].live) {
            self.send_edit(client, id, &pending);
        }
    }

    fn typed(&mut self, client: usize, kind: Kind, pending: &Pending) {
        let plain = self.clients[client].plain;
        self.edits.typed.insert(pending.token, Typed::new(kind, plain));
        if !plain {
            self.edits.name(&self.clients[client].id, &user_id(client), pending);
        }
    }

    pub(crate) fn move_cursor(&mut self, client: usize) {
        let index = self.random.below(self.clients[client].shown.length_utf16() + 1);
        if let (Some(id), Some(at), true) = (self.present[client], &self.clients[client].at, self.clients[client].live)
        {
            let version = at.version;
            self.send(id, Sent::Cursor { version, index });
        }
    }

    /// The client notices that its connection is gone.
    pub(crate) fn lose_transport(&mut self, client: usize) {
        self.clients[client].live = false;
        if self.clients[client].plain {
            self.clients[client].forget();
        }
        self.record(client, Act::Disconnected);
    }

    /// A client reads one message.
    pub(crate) fn hear(&mut self, client: usize) -> Result<(), Broken> {
        let Some(id) = self.present[client] else { return Ok(()) };
        let got = self.connections.get_mut(&id).and_then(|connection| connection.got.pop_front());
        self.trace(|| format!("client {client} hears {got:?}"));
        match got {
            None | Some(Got::Edited { answer: Ok(_), .. }) => Ok(()),
            Some(Got::JoinAnswered) => {
                self.clients[client].on_join_answered();
                Ok(())
            }
            Some(Got::JoinFailed(Code::BadRequest)) => {
                // The name is another user's. Nothing of this client's is in the log under it.
                self.counts.meet(Met::Namesake);
                self.rename(client);
                self.disconnect(client);
                Ok(())
            }
            Some(Got::JoinFailed(code)) => {
                self.counts.meet(Met::FailedJoin);
                self.overloaded |= code == Code::Overloaded;
                self.clients[client].joins -= 1;
                self.send_join(client, id, true);
                Ok(())
            }
            Some(Got::Edited { seq, session, answer: Err(refusal) }) => {
                let editor = &self.clients[client];
                if !editor.live || !editor.plain && session != editor.session {
                    return Ok(());
                }
                self.refused(client, id, seq.unwrap_or(0), refusal.code)
            }
            Some(Got::Event(event)) => self.hear_event(client, id, &event),
        }
    }

    fn refused(&mut self, client: usize, id: ConnectionId, seq: u64, code: Code) -> Result<(), Broken> {
        self.count_refusal(code);
        let drop = matches!(code, Code::BadRequest | Code::OpInvalid | Code::ReadOnly | Code::DocumentTooLarge);
        let editor = &mut self.clients[client];
        if editor.plain {
            if code == Code::SeqGap {
                return Err(Broken(format!("{}, which has no numbers, was told that one is missing", editor.id)));
            }
            editor.forget();
        } else if drop {
            self.counts.meet(Met::Dropped);
            let refused = editor.pending.iter().find(|pending| pending.seq == seq).map(|pending| pending.token);
            editor.on_refused(seq)?;
            if let Some(typed) = refused.and_then(|token| self.edits.typed.get_mut(&token)) {
                typed.refused = true;
            }
        }
        self.send_join(client, id, true);
        self.record(client, Act::Refused(seq, code));
        Ok(())
    }

    fn hear_event(&mut self, client: usize, id: ConnectionId, event: &Event) -> Result<(), Broken> {
        let difference = self.difference(client, event);
        let editor = &mut self.clients[client];
        match event {
            Event::Edit(entry) => editor.on_edit(entry)?,
            Event::EditCommitted { at, seq, .. } => editor.on_committed(at, *seq)?,
            Event::Rejoin => {
                if editor.plain {
                    editor.forget();
                }
                self.send_join(client, id, false);
            }
            Event::DocumentJoined(joined) => {
                let rename = editor.on_joined(joined)?;
                if rename {
                    self.counts.meet(Met::Renamed);
                    self.rename(client);
                    self.record(client, Act::Event(event, difference));
                    self.disconnect(client);
                    return Ok(());
                }
                let editor = &self.clients[client];
                let pending = if editor.live { editor.pending.clone() } else { Default::default() };
                for edit in pending {
                    self.send_edit(client, id, &edit);
                }
            }
            // Accesses do not change here.
            Event::AccessChanged { .. } => {}
            Event::UserJoined(_)
            | Event::UserLeft { .. }
            | Event::Presence { .. }
            | Event::CursorUpdate { .. }
            | Event::TypingUpdate { .. }
            | Event::Error(_) => return Ok(()),
        }
        self.record(client, Act::Event(event, difference));
        Ok(())
    }

    /// The client goes on under a new name. That belongs to a connection's life, so that this one has to end.
    fn rename(&mut self, client: usize) {
        for pending in &self.clients[client].pending {
            if let Some(typed) = self.edits.typed.get_mut(&pending.token) {
                typed.renamed = true;
            }
        }
        self.next += 1;
        let editor = &mut self.clients[client];
        editor.rename_to(&format!("c{client}-{}", self.next));
        for pending in &editor.pending {
            self.edits.name(&editor.id, &user_id(client), pending);
        }
    }

    /// The change that a join by content is taken for; only for those who write down what happens.
    fn difference(&self, client: usize, event: &Event) -> Option<Delta> {
        let Event::DocumentJoined(joined) = event else { return None };
        let JoinedContent::Ops(content) = &joined.content else { return None };
        self.recorder.as_ref()?;
        self.clients[client].known_up_to(joined.last_seq).ok()?.diff(content).ok()
    }
}

/// Each client is another user's.
pub(crate) fn user_id(client: usize) -> Arc<str> {
    format!("u{client}").into()
}
