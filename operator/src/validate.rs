//! Second step: is the resource something that can be built? No client.
//!
//! In: the resource, and what `fetch` learned about Secrets and the live StatefulSet. Out: a [`Cluster`], in which every
//! choice is made, or the list of problems, each naming a field and what to write instead.

use std::collections::BTreeSet;

use collab_api::{CollabCluster, CollabClusterSpec, common::SecretKeyRef, policy::UpgradePolicy};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{names::Names, warnings::ineffective_fields};

/// Kubernetes' Cluster Autoscaler kills pods 600 s after it began to empty a node.
pub const GRACE_SECONDS_MAX: u64 = 540;
/// What a gateway may need beyond its drain deadline: closing sockets, flushing snapshots.
pub const GRACE_MARGIN_SECONDS: u64 = 60;

/// Images that a new cluster gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Of the gateway.
    pub gateway: String,
    /// Of the Redis server.
    pub redis: String,
}

/// What kind of platform the pods will run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// The pods' group is ours to choose.
    Kubernetes,
    /// The platform assigns user and group itself.
    OpenShift,
}

/// What is known about the world when a resource is validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Secrets that the resource names and that do not exist.
    pub missing_secrets: BTreeSet<String>,
    /// Size with which the live StatefulSet's claims were made; its template cannot change.
    pub claimed_storage: Option<String>,
}

/// A resource that can be built, with every choice made.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Names of the children.
    pub names: Names,
    /// `metadata.ownerReferences` of every child.
    pub owner: Value,
    /// What was asked for.
    pub spec: CollabClusterSpec,
    /// What the pods run.
    pub images: Images,
    /// Where they run.
    pub platform: Platform,
    /// `terminationGracePeriodSeconds` of gateway pods.
    pub gateway_grace_seconds: u64,
    /// Connections a second that one draining pod may close, ≥ 1.
    pub drain_rate_per_pod: i32,
    /// Size of the claim: the first that was asked for.
    pub redis_storage: String,
    /// Fields that differ from their default and have no effect in this version.
    pub ineffective: Vec<String>,
}

/// One thing that is wrong with a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Problem {
    /// Path of the field.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Makes every choice, or says why not.
///
/// # Errors
/// All problems at once.
pub fn validate(
    resource: &CollabCluster,
    images: &Images,
    platform: Platform,
    surroundings: &Surroundings,
) -> Result<Cluster, Vec<Problem>> {
    let spec = &resource.spec;
    let mut problems = schema_problems(resource);
    problems.extend(missing_secret_problems(spec, &surroundings.missing_secrets));
    problems.extend(pod_problems(spec));
    if !problems.is_empty() {
        return Err(problems);
    }
    let deadline_seconds = spec.gateway.drain.deadline.seconds_rounded_up().unwrap_or(GRACE_SECONDS_MAX);
    let asked_storage = spec.redis.storage.size.text();
    let redis_storage = surroundings.claimed_storage.clone().unwrap_or_else(|| asked_storage.clone());
    Ok(Cluster {
        names: names(resource),
        owner: owner(resource),
        spec: spec.clone(),
        images: chosen_images(resource, images),
        platform,
        gateway_grace_seconds: (deadline_seconds + GRACE_MARGIN_SECONDS).min(GRACE_SECONDS_MAX),
        drain_rate_per_pod: (spec.gateway.drain.max_connections_moved_per_second / spec.gateway.replicas.max(1)).max(1),
        ineffective: ineffective_fields(spec, redis_storage != asked_storage),
        redis_storage,
    })
}

/// Names of the children of a resource.
pub fn names(resource: &CollabCluster) -> Names {
    Names { cluster: resource.name_any(), namespace: resource.namespace().unwrap_or_default() }
}

/// Secrets that the pods of this version mount, with the field that names each.
pub fn named_secrets(spec: &CollabClusterSpec) -> Vec<(String, String)> {
    key_sources(spec).into_iter().map(|source| (source.field, source.secret.name.clone())).collect()
}

/// A Secret that holds a key with which tokens are verified, and how gateway pods mount it.
pub struct KeySource<'a> {
    /// The field that names it.
    pub field: String,
    /// The volume: `jwt-0`, `jwt-1`, … for shared secrets, `jwt-public`.
    pub volume: String,
    /// The gateway's flag.
    pub flag: &'static str,
    /// The Secret and its key.
    pub secret: &'a SecretKeyRef,
}

/// Every Secret that `spec.auth.jwt` names.
pub fn key_sources(spec: &CollabClusterSpec) -> Vec<KeySource<'_>> {
    let jwt = &spec.auth.jwt;
    let shared = jwt.secret_refs.iter().enumerate().map(|(index, secret)| KeySource {
        field: format!("spec.auth.jwt.secretRefs[{index}]"),
        volume: format!("jwt-{index}"),
        flag: "jwt-secret-file",
        secret,
    });
    let public = jwt.public_key_secret_ref.iter().map(|secret| KeySource {
        field: "spec.auth.jwt.publicKeySecretRef".to_owned(),
        volume: "jwt-public".to_owned(),
        flag: "jwt-public-key-file",
        secret,
    });
    shared.chain(public).collect()
}

/// The image in use stays until an explicit image or `upgrade.policy: Auto` moves it.
pub fn chosen_images(resource: &CollabCluster, operators: &Images) -> Images {
    let spec = &resource.spec;
    let status = resource.status.as_ref();
    let choose = |explicit: &Option<String>, in_use: Option<&String>, operators: &String| {
        let kept = in_use.filter(|image| !image.is_empty() && spec.upgrade.policy == UpgradePolicy::Manual);
        explicit.as_ref().or(kept).unwrap_or(operators).clone()
    };
    let gateway_in_use = status.and_then(|status| status.gateway.as_ref()).map(|gateway| &gateway.image);
    let redis_in_use = status.and_then(|status| status.redis.as_ref()).map(|redis| &redis.image);
    Images {
        gateway: choose(&spec.gateway.image, gateway_in_use, &operators.gateway),
        redis: choose(&spec.redis.image, redis_in_use, &operators.redis),
    }
}

fn owner(resource: &CollabCluster) -> Value {
    json!([{
        "apiVersion": "collabcluster.io/v1alpha1",
        "kind": "CollabCluster",
        "name": resource.name_any(),
        "uid": resource.uid().unwrap_or_default(),
        "controller": true,
        "blockOwnerDeletion": true,
    }])
}

/// The schema's own rules again: an API server with an older CRD did not enforce them.
fn schema_problems(resource: &CollabCluster) -> Vec<Problem> {
    let value = serde_json::to_value(resource).unwrap_or_default();
    let lines = collab_api::check(&value, None).err().unwrap_or_default();
    lines.into_iter().map(|line| split_line(&line)).collect()
}

fn split_line(line: &str) -> Problem {
    let (field, message) = line.split_once(": ").unwrap_or(("", line));
    let field = if field.is_empty() { "metadata.name" } else { field };
    problem(field, message)
}

fn missing_secret_problems(spec: &CollabClusterSpec, missing: &BTreeSet<String>) -> Vec<Problem> {
    let named = named_secrets(spec).into_iter().filter(|(_, name)| missing.contains(name));
    named
        .map(|(field, name)| problem(&field, &format!("Secret {name} does not exist: create it, or name another one")))
        .collect()
}

/// What a pod template or a sidecar must be before it can be merged.
fn pod_problems(spec: &CollabClusterSpec) -> Vec<Problem> {
    let templates = [
        ("spec.gateway.podTemplate", &spec.gateway.pod_template),
        ("spec.redis.podTemplate", &spec.redis.pod_template),
    ];
    let templates = templates.into_iter().filter_map(|(field, template)| template_problem(field, template));
    let sidecars = spec.gateway.sidecars.iter().enumerate().filter_map(|(index, sidecar)| {
        let field = format!("spec.gateway.sidecars[{index}]");
        let name = sidecar.get("name").and_then(Value::as_str).unwrap_or_default();
        if name == "gateway" {
            return Some(problem(&field, "the name gateway is taken by the gateway itself: choose another name"));
        }
        let container = json!({"spec": {"containers": [sidecar]}});
        parse_template(&container).err().map(|message| problem(&field, &message))
    });
    templates.chain(sidecars).collect()
}

fn template_problem(field: &str, template: &collab_api::schema::PassThrough) -> Option<Problem> {
    let unknown = template.keys().find(|key| !matches!(key.as_str(), "metadata" | "spec"));
    if let Some(key) = unknown {
        return Some(problem(field, &format!("{key} is not part of a pod template: write metadata or spec")));
    }
    let mut template = Value::Object(template.clone());
    if template.pointer("/spec/containers").is_none_or(Value::is_null) {
        template["spec"]["containers"] = json!([]);
    }
    if template["spec"]["containers"].as_array().is_some_and(|list| list.iter().any(|one| one["name"].is_null())) {
        return Some(problem(field, "every entry of spec.containers needs a name: containers are merged by name"));
    }
    parse_template(&template).err().map(|message| problem(field, &message))
}

/// Types only: fields that this operator does not know are the API server's business.
fn parse_template(template: &Value) -> Result<(), String> {
    serde_json::from_value::<k8s_openapi::api::core::v1::PodTemplateSpec>(template.clone())
        .map(drop)
        .map_err(|error| format!("is not a pod template: {error}"))
}

fn problem(field: &str, message: &str) -> Problem {
    Problem { field: field.to_owned(), message: message.to_owned() }
}
