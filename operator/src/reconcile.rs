//! One reconcile: fetch → validate → build → apply → status. In: a resource and the shared context. Out: the world a step
//! nearer to the spec, and when to look again.

use std::{sync::Arc, time::Duration};

use collab_api::{
    CollabCluster, CollabClusterSpec,
    policy::{Pause, PauseScope},
    reason,
    status::{ManagedBy, Status},
};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{controller::Action, events::EventType},
};
use rand::{Rng, distr::Alphanumeric};
use serde_json::json;

use crate::{
    apply::{self, Applied, apply, create_secret, restart_outdated},
    build::{build, secrets},
    context::Context,
    events,
    fetch::{Fetched, fetch},
    kinds::{Kind, Object},
    names::STATUS_MANAGER,
    pods,
    status::{COUNTS_PERIOD, Observed, Rejection, status},
    validate::{Cluster, Problem, chosen_images, validate},
};

/// How soon to look again while something is not as it should be and no watch would tell (Events, Secrets).
const RETRY: Duration = Duration::from_secs(5);
/// Letters and digits: 62^43 is above 2^256.
const PASSWORD_LENGTH: usize = 43;

/// Why a reconcile did not come to its end; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not tell what is there.
    #[error("fetch: {0}")]
    Fetch(#[source] kube::Error),
    /// An object did not come to be, for no fault of the spec.
    #[error("apply: {0}")]
    Apply(#[source] apply::Error),
    /// The status could not be written.
    #[error("status: {0}")]
    Status(#[source] kube::Error),
}

/// What became of the spec.
struct Outcome {
    cluster: Option<Cluster>,
    applied: Applied,
    rejection: Option<Rejection>,
    failure: Option<apply::Error>,
}

/// Brings the world a step nearer to the spec.
///
/// # Errors
/// When the API server does not answer; a bad spec is no error but a condition.
pub async fn reconcile(resource: Arc<CollabCluster>, context: Arc<Context>) -> Result<Action, Error> {
    if resource.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let mut resource = (*resource).clone();
    resource.spec.paused.retain(|pause| !has_ended(pause, now));

    let mut fetched = fetch(&context, &resource).await.map_err(Error::Fetch)?;
    let outcome = converge(&context, &resource, &mut fetched).await?;
    tell(&context, &resource, &fetched, &outcome, now).await?;

    let is_ready = outcome.failure.is_none() && outcome.rejection.is_none();
    match outcome.failure {
        Some(failure) => Err(Error::Apply(failure)),
        None if is_ready && !needs_attention(&fetched, &resource.spec) => Ok(Action::requeue(COUNTS_PERIOD)),
        None => Ok(Action::requeue(RETRY)),
    }
}

/// Validate, build, apply. A bad spec changes nothing: the last good state keeps running.
async fn converge(context: &Context, resource: &CollabCluster, fetched: &mut Fetched) -> Result<Outcome, Error> {
    let live = std::mem::take(&mut fetched.live);
    let kept = |live, rejection| Outcome {
        cluster: None,
        applied: Applied { live, ..Applied::default() },
        rejection,
        failure: None,
    };
    let mut cluster = match validate(resource, &context.images, context.platform, &fetched.surroundings) {
        Ok(cluster) => cluster,
        Err(problems) => return Ok(kept(live, Some(spec_invalid(&problems)))),
    };
    if is_paused(&resource.spec, PauseScope::All) {
        return Ok(Outcome { cluster: Some(cluster), ..kept(live, None) });
    }
    let desired = match build(&cluster) {
        Ok(desired) => desired,
        Err(problems) => return Ok(kept(live, Some(spec_invalid(&problems)))),
    };
    let before = live.clone();
    match apply_all(context, resource, &cluster, desired, fetched, live).await {
        Ok(applied) => {
            let rejection = pods::mount_problems(&resource.spec, &fetched.pod_events);
            let rejection = (!rejection.is_empty()).then(|| spec_invalid(&rejection));
            Ok(Outcome { cluster: Some(cluster), applied, rejection, failure: None })
        }
        Err(failure) => {
            let rejection = rejection_of(&failure);
            let failure = matches!(failure, apply::Error::Api { .. }).then_some(failure);
            cluster.ineffective.clear();
            Ok(Outcome {
                cluster: None,
                applied: Applied { live: before, ..Applied::default() },
                rejection: Some(rejection),
                failure,
            })
        }
    }
}

async fn apply_all(
    context: &Context,
    resource: &CollabCluster,
    cluster: &Cluster,
    desired: crate::build::Desired,
    fetched: &Fetched,
    live: std::collections::BTreeMap<(Kind, String), kube::core::DynamicObject>,
) -> Result<Applied, apply::Error> {
    let namespace = &cluster.names.namespace;
    let absent = |secret: &Object| fetched.absent_secrets.contains(secret.name());
    for secret in secrets::all(cluster, fresh_password).into_iter().filter(absent) {
        let note = format!("created Secret {}", secret.name());
        if create_secret(context, namespace, secret).await? {
            events::publish(context, resource, EventType::Normal, "Created", &note).await;
        }
    }
    let applied = apply(context, resource, desired, live).await?;
    if !applied.created.is_empty() {
        let note = format!("created {}", applied.created.join(", "));
        events::publish(context, resource, EventType::Normal, "Created", &note).await;
    }
    if !applied.changed.is_empty() {
        let note = format!("changed {}", applied.changed.join(", "));
        events::publish(context, resource, EventType::Normal, "Changed", &note).await;
    }
    if !is_paused(&resource.spec, PauseScope::Rollout) {
        let stateful_set = applied.live.get(&(Kind::StatefulSet, cluster.names.redis()));
        for pod in restart_outdated(context, namespace, stateful_set, &fetched.redis_pods).await? {
            let note = format!("restarting {pod}: its template changed; edits are held until it is back");
            events::publish(context, resource, EventType::Normal, "RestartingRedis", &note).await;
        }
    }
    Ok(applied)
}

/// Computes the status and writes it if it differs.
async fn tell(
    context: &Context,
    resource: &CollabCluster,
    fetched: &Fetched,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<(), Error> {
    let (namespace, name) = (resource.namespace().unwrap_or_default(), resource.name_any());
    let old = resource.status.clone().unwrap_or_default();
    let new = status(&Observed {
        resource,
        live: &outcome.applied.live,
        gateway_pods: &fetched.gateway_pods,
        redis_pods: &fetched.redis_pods,
        connections: fetched.connections,
        images: &chosen_images(resource, &context.images),
        ineffective: outcome.cluster.as_ref().map_or(&[], |cluster| &cluster.ineffective),
        rejection: outcome.rejection.as_ref(),
        managed_by: ManagedBy { class: context.class.clone(), id: context.id.clone() },
        counts_age: context.counts_age(&namespace, &name),
        now,
    });
    if new == old {
        return Ok(());
    }
    if connections(&new) != connections(&old) {
        context.write_counts(&namespace, &name);
    }
    let api: Api<CollabCluster> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({
        "apiVersion": "collabcluster.io/v1alpha1",
        "kind": "CollabCluster",
        "metadata": {"name": name, "uid": resource.uid()},
        "status": new,
    });
    let parameters = PatchParams::apply(STATUS_MANAGER).force();
    api.patch_status(&name, &parameters, &Patch::Apply(&body)).await.map_err(Error::Status)?;
    context.metrics.wrote_status();
    events::publish_changes(context, resource, &old, &new).await;
    Ok(())
}

fn connections(status: &Status) -> Option<i64> {
    status.gateway.as_ref().and_then(|gateway| gateway.connections)
}

fn spec_invalid(problems: &[Problem]) -> Rejection {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Rejection { reason: reason::SPEC_INVALID, message: lines.join("; ") }
}

fn rejection_of(failure: &apply::Error) -> Rejection {
    let reason = match failure {
        apply::Error::NameTaken(_) => reason::NAME_TAKEN,
        apply::Error::Refused { .. } => reason::SPEC_INVALID,
        apply::Error::Api { .. } => reason::APPLY_FAILED,
    };
    Rejection { reason, message: failure.to_string() }
}

/// Whether something is under way that no watch reports.
fn needs_attention(fetched: &Fetched, spec: &CollabClusterSpec) -> bool {
    let ready = fetched.gateway_pods.iter().filter(|pod| pods::is_ready(pod)).count();
    let wanted = usize::try_from(spec.gateway.replicas).unwrap_or_default();
    ready < wanted || !fetched.redis_pods.iter().any(pods::is_ready)
}

fn is_paused(spec: &CollabClusterSpec, what: PauseScope) -> bool {
    spec.paused.iter().any(|pause| pause.what == what || pause.what == PauseScope::All)
}

/// A time that cannot be read never ends: the schema refuses it anyway.
fn has_ended(pause: &Pause, now: Timestamp) -> bool {
    pause.until.as_ref().and_then(|until| until.parse::<Timestamp>().ok()).is_some_and(|until| until <= now)
}

fn fresh_password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect()
}
