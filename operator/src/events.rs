//! Events for people who run `kubectl describe ccl`: what was made, and every change of a condition. In: what happened.
//! Out: Events. One that cannot be published is logged and forgotten: it must not hold up a reconcile.

use collab_api::{
    CollabCluster, reason,
    status::{Condition, Status},
};
use kube::{
    Resource,
    runtime::events::{Event, EventType},
};

use crate::context::Context;

/// The API server refuses longer notes.
const NOTE_LENGTH_MAX: usize = 1_000;

/// Publishes one Event about the resource.
pub async fn publish(context: &Context, resource: &CollabCluster, kind: EventType, reason: &str, note: &str) {
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(note.chars().take(NOTE_LENGTH_MAX).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &resource.object_ref(&())).await {
        tracing::warn!(%error, reason, "an Event could not be published");
    }
}

/// Publishes what changed between two statuses.
pub async fn publish_changes(context: &Context, resource: &CollabCluster, old: &Status, new: &Status) {
    for condition in new.conditions.iter().filter(|condition| is_news(&old.conditions, condition)) {
        let kind = if is_bad(condition) { EventType::Warning } else { EventType::Normal };
        publish(context, resource, kind, &condition.reason, &condition.message).await;
    }
}

/// A changed status is news; a changed reason only where something is wrong. A first "nothing is wrong" is none.
fn is_news(old: &[Condition], condition: &Condition) -> bool {
    match old.iter().find(|before| before.kind == condition.kind) {
        // At first nothing serves, which is no news beside Ready=False.
        None => match condition.kind.as_str() {
            reason::READY => true,
            reason::CONFIGURATION_WARNING | reason::DEGRADED => is_bad(condition),
            _ => false,
        },
        Some(before) if before.status != condition.status => true,
        Some(before) => is_bad(condition) && before.reason != condition.reason,
    }
}

fn is_bad(condition: &Condition) -> bool {
    let bad_when = match condition.kind.as_str() {
        reason::CONFIGURATION_WARNING | reason::DEGRADED => "True",
        reason::READY | reason::GATEWAY_AVAILABLE | reason::REDIS_AVAILABLE => "False",
        _ => return false,
    };
    condition.status == bad_when
}
