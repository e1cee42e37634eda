//! What keeps pods from being ready, in words that lead to the field. In: pods and their Events. Out: sentences.

use collab_api::CollabClusterSpec;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::ResourceExt;

use crate::validate::{KeySource, Problem, key_sources};

/// Whether the pod is ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the pod is on a node and its containers still wait: a volume may be what is missing.
pub fn waits_for_volumes(pod: &Pod) -> bool {
    let is_pending = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Pending"));
    let is_creating = container_statuses(pod).any(|status| waiting_reason(status) == Some("ContainerCreating"));
    is_pending && is_creating
}

/// Secrets and keys that pods could not mount.
pub fn mount_problems(spec: &CollabClusterSpec, events: &[Event]) -> Vec<Problem> {
    let messages = events.iter().filter(|event| event.reason.as_deref() == Some("FailedMount"));
    let messages: Vec<&str> = messages.filter_map(|event| event.message.as_deref()).collect();
    let sources = key_sources(spec).into_iter();
    sources
        .filter_map(|KeySource { field, volume, secret, .. }| {
            let volume = format!("volume \"{volume}\"");
            let message = messages.iter().find(|message| message.contains(&volume))?;
            let what = if message.contains("non-existent secret key") {
                format!("Secret {} has no key {}: add it, or name another key", secret.name, secret.key)
            } else {
                format!("Secret {} cannot be mounted: {message}", secret.name)
            };
            Some(Problem { field, message: what })
        })
        .collect()
}

/// The first trouble of the first pod that has one, for the message of a condition.
pub fn trouble(pods: &[Pod]) -> Option<String> {
    pods.iter().find_map(|pod| {
        let waiting = container_statuses(pod).find_map(|status| {
            let waiting = status.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting
                .reason
                .as_deref()
                .filter(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"))?;
            let detail = waiting.message.as_deref().unwrap_or_default();
            Some(format!("pod {}: container {}: {reason} {detail}", pod.name_any(), status.name).trim_end().to_owned())
        });
        waiting.or_else(|| unscheduled(pod))
    })
}

fn unscheduled(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let condition = conditions.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
    Some(format!("pod {} has no node: {}", pod.name_any(), condition.message.as_deref().unwrap_or_default()))
}

fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let main = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    init.iter().chain(main)
}

fn waiting_reason(status: &ContainerStatus) -> Option<&str> {
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

/// Whether the pod runs another template than the StatefulSet's newest, and is not on its way out.
pub fn is_outdated(pod: &Pod, revision: &str) -> bool {
    let runs = pod.labels().get("controller-revision-hash");
    pod.metadata.deletion_timestamp.is_none() && runs.is_some_and(|runs| runs != revision)
}
