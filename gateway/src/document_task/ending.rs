//! How a document's task ends that cannot go on: nobody is left without an answer.
//!
//! In: why, as clients are told. Out: `rejoin` for those who have joined, and the refusal for all mail that waits.

use document::{Answer, Code, Event, Input, Refusal};

use super::Task;
use crate::{document_io::refusal, documents::Mail};

impl Task {
    pub(super) fn say_rejoin(&mut self) {
        let everybody: Vec<_> = self.outboxes.keys().copied().collect();
        self.send(&everybody, &Event::Rejoin);
        self.flush();
    }

    /// Ends the task with an answer to everybody who waits for one.
    pub(super) async fn refuse(&mut self, refusal: &Refusal) {
        self.inner.close(&self.id);
        self.mail.close();
        while let Some(mail) = self.mail.recv().await {
            let input = match *mail {
                Mail::Input(input, _) => input,
                Mail::AccessChanged { .. } | Mail::GiveWay | Mail::IsHere { .. } | Mail::Settle { .. } => continue,
                Mail::Join { outbox, join, span } => {
                    span.record("outcome", "refused").record("otel.status_code", "ERROR");
                    self.outboxes.insert(join.connection, outbox);
                    for edit in &join.early {
                        let refusal = Refusal { seq: edit.seq, ..refusal.clone() };
                        self.answer(edit.connection, edit.reply, &Err(refusal));
                    }
                    Input::Join(join)
                }
            };
            self.refuse_input(input, refusal);
            self.flush();
        }
    }

    fn refuse_input(&mut self, input: Input, refused: &Refusal) {
        match input {
            Input::Join(join) => self.answer(join.connection, join.reply, &Err(refused.clone())),
            // Its session is over: the client was told to join again, and sends it then.
            Input::Edit(edit) if edit.session.is_some() => {}
            Input::Edit(edit) => {
                let refused = Refusal { seq: edit.seq, ..refused.clone() };
                self.answer(edit.connection, edit.reply, &Err(refused));
            }
            Input::Leave { connection, reply, .. } => self.answer(connection, reply, &Ok(Answer::Empty)),
            Input::Cursor { connection, reply, .. } | Input::Typing { connection, reply, .. } => {
                let refused = refusal(Code::NotJoined, "join the document first", None);
                self.answer(connection, reply, &Err(refused));
            }
            // Never in a mailbox.
            Input::LookedUp { .. }
            | Input::Learned(_)
            | Input::Hint(_)
            | Input::Committed(_)
            | Input::StoreAway(_)
            | Input::Peer { .. }
            | Input::PresenceUnread
            | Input::PresenceWritten(_)
            | Input::PodsLive { .. }
            | Input::Missed
            | Input::Access { .. }
            | Input::User(_)
            | Input::Presence { .. }
            | Input::Saved(_)
            | Input::Durable { .. }
            | Input::CatchUp { .. }
            | Input::Forked
            | Input::Tick => {}
        }
    }
}
