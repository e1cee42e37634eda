//! What clients went through, for the product's client core to go through as well.
//!
//! In: what a client did or heard, and its state after it. Out: a line of JSON for each. The events are the frames that
//! the gateway would have sent.

use std::sync::Arc;

use document::{Code, Event};
use ot::{Delta, Op};
use serde_json::{Value, json};

use crate::world::World;

/// Lines so far.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) lines: Vec<String>,
}

/// One thing that a client did or heard.
pub(crate) enum Act<'a> {
    Local(&'a Delta),
    /// With the change that a join by content is taken for.
    Event(&'a Event, Option<Delta>),
    Refused(u64, Code),
    Disconnected,
}

impl World {
    /// Writes down what happened, and how the client stands after it.
    pub(crate) fn record(&mut self, client: usize, act: Act<'_>) {
        let editor = &self.clients[client];
        if self.recorder.is_none() || editor.plain {
            return;
        }
        let session = editor.session.clone();
        let version = editor.at.as_ref().map(|at| at.version);
        let all = || editor.pending.iter().map(|pending| json!([pending.seq, ops(&pending.ops)])).collect::<Vec<_>>();
        let sent = match &act {
            Act::Local(_) if editor.live => all().into_iter().next_back().into_iter().collect(),
            Act::Event(Event::DocumentJoined(_), _) if editor.live => all(),
            Act::Local(_) | Act::Event(..) | Act::Refused(..) | Act::Disconnected => Vec::new(),
        };
        let mut line = match &act {
            Act::Local(change) => json!({ "local": ops(change) }),
            Act::Event(event, difference) => {
                let frame = protocol::event("d", event);
                let difference = difference.as_ref().map(ops);
                json!({ "event": frame.as_str(), "difference": difference })
            }
            Act::Refused(seq, code) => json!({ "refused": { "seq": seq, "code": protocol::code_name(*code) } }),
            Act::Disconnected => json!({ "disconnected": true }),
        };
        let after = json!({
            "editor": client,
            "clientId": editor.id,
            "shown": ops(&editor.shown.to_delta()),
            "confirmed": ops(&editor.confirmed.to_delta()),
            "version": version,
            "hash": editor.at.as_ref().map(|at| Arc::clone(&at.hash)),
            "session": session,
            "live": editor.live,
            "seq": editor.first_seq(),
            "pending": all(),
            "sent": sent,
        });
        if let (Value::Object(line), Value::Object(after)) = (&mut line, after) {
            line.extend(after);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.lines.push(line.to_string());
        }
    }
}

fn ops(delta: &Delta) -> Value {
    let op = |op: &Op| {
        let (mut op, attributes) = match op {
            Op::Insert { text, attributes } => (json!({ "insert": text }), attributes),
            Op::Embed { value, attributes } => (json!({ "insert": value }), attributes),
            Op::Retain { length, attributes } => (json!({ "retain": length }), attributes),
            Op::Delete { length } => (json!({ "delete": length }), &None),
        };
        if let (Value::Object(op), Some(attributes)) = (&mut op, attributes) {
            op.insert(
                "attributes".to_owned(),
                attributes.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect(),
            );
        }
        op
    };
    delta.ops().iter().map(op).collect()
}
