//! Joins that are traced.
//!
//! In: the span that a join came with, what it is answered. Out: the span ended, and spans for its lookups. Empty, and
//! therefore free, where nothing is traced.

use std::collections::HashMap;

use document::{Answer, ConnectionId, Refusal};
use tracing::Span;

use crate::telemetry::step;

/// Bounded by the connections of the document.
#[derive(Default)]
pub(super) struct Joins(HashMap<ConnectionId, Span>);

impl Joins {
    pub(super) fn begin(&mut self, connection: ConnectionId, span: Span) {
        if !span.is_disabled() {
            self.0.insert(connection, span);
        }
    }

    /// The span of what the store is asked for it.
    pub(super) fn lookup(&self, connection: ConnectionId) -> Span {
        let join = self.0.get(&connection);
        join.map_or_else(Span::none, |join| step!(join, "store.lookup", otel.kind = "client"))
    }

    /// A refusal ends it: there may be no lookup.
    pub(super) fn answered(&mut self, connection: ConnectionId, answer: &Result<Answer, Refusal>) {
        if self.0.is_empty() {
            return;
        }
        if let Err(refusal) = answer
            && let Some(span) = self.0.remove(&connection)
        {
            span.record("outcome", protocol::code_name(refusal.code));
        }
    }

    /// It was answered, or nobody waits for it any more.
    pub(super) fn end(&mut self, connection: ConnectionId, outcome: &'static str) {
        if self.0.is_empty() {
            return;
        }
        if let Some(span) = self.0.remove(&connection) {
            span.record("outcome", outcome);
        }
    }
}
