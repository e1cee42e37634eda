//! What follows when a user's access changes while the document is open.
//!
//! In: the role as it was read anew. Out: `access-changed`; whoever may do less has edits that were not sent to the store
//! refused, whoever may do nothing is taken out of the document. What was sent already may be in the log: its fate is
//! the store's to say. It is acknowledged as ever if it is there, and refused if it is not.

use ot::Delta;

use crate::{
    Code, Command, ConnectionId, Document, Event, Refusal, Role,
    connection::{Connection, Stage},
    edits::{allowed, read_only, refusal},
    queue::Queued,
};

impl Document {
    pub(crate) fn on_access(&mut self, user_id: &str, role: Option<Role>, now_ms: u64) {
        for id in self.connections.of(user_id).to_vec() {
            match role {
                None => self.remove(id, now_ms),
                Some(role) => self.change_role(id, role),
            }
        }
        if role.is_none() {
            for place in 0..self.draining.len() {
                let Some(connection) = self.draining.get_mut(place).filter(|left| *left.user.id == *user_id) else {
                    continue;
                };
                connection.revoked = true;
                if let Some(index) = connection.chain.pending().iter().position(|own| !own.sent) {
                    self.refuse_departed(place, index, denied());
                }
            }
        }
    }

    fn remove(&mut self, id: ConnectionId, now_ms: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        if let Stage::Joining(_) = connection.stage {
            self.answer_join(id, Err(denied()));
        } else {
            if let Some(index) = connection.chain.pending().iter().position(|own| !own.sent) {
                self.refuse_pending(id, index, denied());
            }
            let waiting = self.connections.get_mut(&id).map(|connection| connection.inbox.take());
            for Queued { edit, .. } in waiting.unwrap_or_default() {
                self.refuse_edit(id, edit.reply, edit.seq, denied());
            }
            self.out.push(Command::Send { to: vec![id], event: Event::AccessChanged { role: None } });
        }
        self.depart(id, false, now_ms);
    }

    fn change_role(&mut self, id: ConnectionId, role: Role) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // A join under way brings the role that its own lookup reads.
        let is_told = matches!(connection.stage, Stage::Joined | Stage::Rejoining(_));
        if !is_told && self.lookups.contains_key(&id) || connection.role == role {
            return;
        }
        connection.role = role;
        let refused = connection.chain.pending().iter().position(|own| !own.sent && !allowed(role, &own.ops));
        if let Some(index) = refused {
            self.refuse_pending(id, index, read_only(role));
        }
        if is_told {
            self.out.push(Command::Send { to: vec![id], event: Event::AccessChanged { role: Some(role) } });
        }
    }
}

/// Why the user of a connection may not make this edit any more.
pub(crate) fn objection(connection: &Connection, ops: &Delta) -> Option<Refusal> {
    if connection.revoked {
        return Some(denied());
    }
    (!allowed(connection.role, ops)).then(|| read_only(connection.role))
}

fn denied() -> Refusal {
    refusal(Code::AccessDenied, "this user has no access to the document any more")
}
