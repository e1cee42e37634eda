//! Fifth step: what to tell. Pure: the clock comes in as an argument. `reconcile` writes the result if it differs.
//!
//! In: the resource with its present status, the children as they are now, what went wrong. Out: the new status.

use std::{collections::BTreeMap, time::Duration};

use collab_api::{
    CollabCluster, reason,
    status::{Condition, GatewayStatus, ManagedBy, RedisStatus, Shard, Status},
};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::core::DynamicObject;
use serde_json::Value;

use crate::{
    kinds::{Kind, number_at},
    names::Component,
    pods,
    validate::{Images, names},
};

/// Counts are rewritten at most so often.
pub const COUNTS_PERIOD: Duration = Duration::from_secs(15);
/// Counts that differ by no more than this share stay as they are.
const COUNTS_TOLERANCE_PERCENT: i64 = 5;

/// Why the spec is not (wholly) in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// One of the catalogue's reasons.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Everything that the status tells about.
pub struct Observed<'a> {
    /// The resource with its present status.
    pub resource: &'a CollabCluster,
    /// The children as they are now.
    pub live: &'a BTreeMap<(Kind, String), DynamicObject>,
    /// The gateway pods.
    pub gateway_pods: &'a [Pod],
    /// The Redis pods.
    pub redis_pods: &'a [Pod],
    /// Connections on all gateway pods, where any answered.
    pub connections: Option<i64>,
    /// Images in use.
    pub images: &'a Images,
    /// Fields without an effect.
    pub ineffective: &'a [String],
    /// Why the spec is not in force.
    pub rejection: Option<&'a Rejection>,
    /// Who we are.
    pub managed_by: ManagedBy,
    /// Time since the counts were written; `None` = long ago.
    pub counts_age: Option<Duration>,
    /// Now.
    pub now: Timestamp,
}

/// What is true, before it becomes a condition.
struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// The new status.
pub fn status(observed: &Observed) -> Status {
    let old = observed.resource.status.clone().unwrap_or_default();
    let gateway = gateway(observed, old.gateway.as_ref());
    let redis = redis(observed, old.redis.as_ref());
    let verdicts = verdicts(observed, &gateway, &redis);
    let conditions = verdicts.into_iter().map(|verdict| condition(observed, &old.conditions, verdict)).collect();
    Status {
        observed_generation: observed.resource.metadata.generation,
        conditions,
        managed_by: Some(observed.managed_by.clone()),
        gateway: Some(gateway),
        redis: Some(redis),
        agent: old.agent,
        autoscaling: old.autoscaling,
    }
}

/// Whether a count differs enough, and long enough after the last one, to be written.
pub fn quiet_count(old: Option<i64>, new: Option<i64>, age: Option<Duration>) -> Option<i64> {
    let (Some(before), Some(after)) = (old, new) else { return new.or(old) };
    let is_close = (after - before).abs() * 100 <= before * COUNTS_TOLERANCE_PERCENT;
    let is_early = age.is_some_and(|age| age < COUNTS_PERIOD);
    Some(if is_close || is_early { before } else { after })
}

fn gateway(observed: &Observed, old: Option<&GatewayStatus>) -> GatewayStatus {
    let names = names(observed.resource);
    let deployment = live(observed, Kind::Deployment, &names.gateway());
    let count = |field: &str| count_at(deployment, &format!("/status/{field}"));
    let wanted = wanted_gateways(observed);
    GatewayStatus {
        replicas: count("replicas"),
        ready_replicas: count("readyReplicas"),
        draining_replicas: count("terminatingReplicas"),
        connections: quiet_count(old.and_then(|old| old.connections), observed.connections, observed.counts_age),
        summary: format!("{}/{wanted}", count("readyReplicas")),
        selector: names.selector_text(Component::Gateway),
        image: observed.images.gateway.clone(),
    }
}

fn redis(observed: &Observed, old: Option<&RedisStatus>) -> RedisStatus {
    let ready = observed.redis_pods.iter().filter(|pod| pods::is_ready(pod));
    let ready: Vec<&str> = ready.filter_map(|pod| pod.metadata.name.as_deref()).collect();
    let primary = ready.first().copied().unwrap_or_default().to_owned();
    RedisStatus {
        summary: if primary.is_empty() { "none".to_owned() } else { primary.clone() },
        image: observed.images.redis.clone(),
        shards: vec![Shard {
            name: "0".to_owned(),
            primary,
            epoch: None,
            ready_pods: i32::try_from(ready.len()).unwrap_or(i32::MAX),
            position: None,
        }],
        backup: old.and_then(|old| old.backup.clone()),
    }
}

fn verdicts(observed: &Observed, gateway: &GatewayStatus, redis: &RedisStatus) -> Vec<Verdict> {
    let redis_serves = redis.shards.iter().all(|shard| !shard.primary.is_empty());
    let trouble = pods::trouble(observed.gateway_pods).or_else(|| pods::trouble(observed.redis_pods));
    let rollout = rollout(observed);
    let paused: Vec<String> = observed.resource.spec.paused.iter().map(|pause| format!("{:?}", pause.what)).collect();
    let ineffective = observed.ineffective;
    let gateway_serves = gateway.ready_replicas > 0;
    vec![
        ready(observed, gateway, redis_serves, rollout.is_some(), trouble.as_deref()),
        match rollout {
            Some(message) => verdict(reason::PROGRESSING, true, reason::ROLLING_OUT, message),
            None => verdict(reason::PROGRESSING, false, reason::SETTLED, "nothing is under way"),
        },
        verdict(
            reason::GATEWAY_AVAILABLE,
            gateway_serves,
            if gateway_serves { reason::SERVING } else { reason::NOT_SERVING },
            if gateway_serves { "gateway pods serve" } else { "no gateway pod is ready" },
        ),
        verdict(
            reason::REDIS_AVAILABLE,
            redis_serves,
            if redis_serves { reason::SERVING } else { reason::NOT_SERVING },
            if redis_serves { format!("{} serves", redis.summary) } else { "the Redis pod is not ready".to_owned() },
        ),
        if ineffective.is_empty() {
            verdict(
                reason::CONFIGURATION_WARNING,
                false,
                reason::ALL_IN_EFFECT,
                "every field that is set has an effect",
            )
        } else {
            let message = format!("not in this version yet, so without an effect: {}", ineffective.join(", "));
            verdict(reason::CONFIGURATION_WARNING, true, reason::FIELDS_WITHOUT_EFFECT, message)
        },
        match &trouble {
            Some(trouble) => verdict(reason::DEGRADED, true, reason::POD_TROUBLE, trouble.clone()),
            None => verdict(reason::DEGRADED, false, reason::AS_EXPECTED, "no pod is in trouble"),
        },
        if paused.is_empty() {
            verdict(reason::PAUSED, false, reason::NOT_PAUSED, "nothing is paused")
        } else {
            verdict(reason::PAUSED, true, reason::PAUSED_BY_SPEC, format!("spec.paused: {}", paused.join(", ")))
        },
    ]
}

fn ready(
    observed: &Observed,
    gateway: &GatewayStatus,
    redis_serves: bool,
    is_rolling: bool,
    trouble: Option<&str>,
) -> Verdict {
    if let Some(rejection) = observed.rejection {
        return verdict(reason::READY, false, rejection.reason, rejection.message.clone());
    }
    let because = |what: String| trouble.map_or(what.clone(), |trouble| format!("{what}; {trouble}"));
    if !redis_serves {
        return verdict(
            reason::READY,
            false,
            reason::REDIS_NOT_READY,
            because("the Redis pod is not ready".to_owned()),
        );
    }
    let wanted = observed.resource.spec.gateway.replicas;
    if is_rolling || gateway.ready_replicas < wanted {
        let message = because(format!("{} gateway pods are ready", gateway.summary));
        return verdict(reason::READY, false, reason::GATEWAYS_NOT_READY, message);
    }
    verdict(reason::READY, true, reason::ALL_READY, format!("{} gateway pods and Redis are ready", gateway.summary))
}

/// What is under way, or `None`.
fn rollout(observed: &Observed) -> Option<String> {
    let names = names(observed.resource);
    let deployment = live(observed, Kind::Deployment, &names.gateway());
    let wanted = wanted_gateways(observed);
    let count = |field: &str| count_at(deployment, &format!("/status/{field}"));
    let is_seen = observed.live.get(&(Kind::Deployment, names.gateway())).is_some_and(is_observed);
    if !is_seen || count("updatedReplicas") < wanted {
        return Some(format!("{} of {wanted} gateway pods run the newest template", count("updatedReplicas")));
    }
    if count("replicas") > wanted {
        return Some(format!("{} gateway pods are being taken away", count("replicas") - wanted));
    }
    let stateful_set = live(observed, Kind::StatefulSet, &names.redis());
    let revision = stateful_set.pointer("/status/updateRevision").and_then(Value::as_str).unwrap_or_default();
    let outdated = observed.redis_pods.iter().any(|pod| pods::is_outdated(pod, revision));
    outdated.then(|| "the Redis pod is being restarted with a new template".to_owned())
}

/// What the Deployment was told; before there is one, what the spec says.
fn wanted_gateways(observed: &Observed) -> i32 {
    let name = names(observed.resource).gateway();
    let deployment = observed.live.get(&(Kind::Deployment, name));
    deployment
        .map_or(observed.resource.spec.gateway.replicas, |deployment| count_at(&deployment.data, "/spec/replicas"))
}

/// Whether the object's controller has seen its newest spec.
fn is_observed(object: &DynamicObject) -> bool {
    let seen = number_at(object, "/status/observedGeneration");
    seen.is_some() && seen >= object.metadata.generation
}

fn condition(observed: &Observed, old: &[Condition], verdict: Verdict) -> Condition {
    let status = if verdict.holds { "True" } else { "False" };
    let before = old.iter().find(|condition| condition.kind == verdict.kind && condition.status == status);
    Condition {
        kind: verdict.kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message.chars().take(MESSAGE_LENGTH_MAX).collect(),
        observed_generation: observed.resource.metadata.generation,
        last_transition_time: before.map_or_else(
            || observed.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            |condition| condition.last_transition_time.clone(),
        ),
    }
}

/// Long enough for any message of the API server, and far below what the schema allows.
const MESSAGE_LENGTH_MAX: usize = 2_048;

fn verdict(kind: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { kind, holds, reason, message: message.into() }
}

/// A live child's spec and status; null where it is missing.
fn live<'a>(observed: &'a Observed, kind: Kind, name: &str) -> &'a Value {
    observed.live.get(&(kind, name.to_owned())).map_or(&Value::Null, |object| &object.data)
}

fn count_at(object: &Value, pointer: &str) -> i32 {
    let count = object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    i32::try_from(count).unwrap_or(i32::MAX)
}
