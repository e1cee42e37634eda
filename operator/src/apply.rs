//! Fourth step: makes what should exist exist, by server-side apply under the operator's own field manager. Decides
//! nothing but whether a call is needed at all.
//!
//! In: [`Desired`] and the live children. Out: [`Applied`], the children as they are now. Nothing is written where the
//! live object already is what was applied last.

use std::collections::BTreeMap;

use collab_api::CollabCluster;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{EvictParams, Patch, PatchParams, PostParams, ValidationDirective},
    core::DynamicObject,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    build::Desired,
    context::{Context, Settled},
    differs::first_difference,
    fetch::is_ours,
    health::Verb,
    kinds::{Kind, Object, number_at},
    names::{APPLIED_HASH, MANAGER},
    pods,
};

/// The children as they are now.
#[derive(Debug, Default)]
pub struct Applied {
    /// By kind and name.
    pub live: BTreeMap<(Kind, String), DynamicObject>,
    /// What was not there before.
    pub created: Vec<String>,
    /// What was changed, with the first field that differed.
    pub changed: Vec<String>,
}

/// Why not everything exists as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Objects with our names belong to somebody else; nothing was written.
    #[error("{} exists and does not belong to this CollabCluster: rename or delete it, or choose another name for the CollabCluster", .0.join(", "))]
    NameTaken(Vec<String>),
    /// The API server does not accept an object: something in the spec makes no sense to it.
    #[error("{object}: {message}")]
    Refused {
        /// Kind and name.
        object: String,
        /// What the API server says.
        message: String,
    },
    /// Anything else; tried again.
    #[error("{object}: {source}")]
    Api {
        /// Kind and name.
        object: String,
        /// What went wrong.
        source: Box<kube::Error>,
    },
}

/// Applies everything, what others need first: accounts and files before pods, Redis before gateways.
///
/// # Errors
/// On the first object that does not come to be; those before it stay applied.
pub async fn apply(
    context: &Context,
    resource: &CollabCluster,
    desired: Desired,
    live: BTreeMap<(Kind, String), DynamicObject>,
) -> Result<Applied, Error> {
    let objects = desired.in_order();
    let taken = live.iter().filter(|(_, object)| !is_ours(object, resource));
    let taken: Vec<String> = taken.map(|((kind, name), _)| format!("{kind:?} {name}")).collect();
    if !taken.is_empty() {
        return Err(Error::NameTaken(taken));
    }
    let mut applied = Applied { live, ..Applied::default() };
    for object in objects {
        apply_one(context, object, &mut applied).await?;
    }
    Ok(applied)
}

/// Creates the Secret; one that is there already stays as it is and counts as ours. Returns whether it was created.
///
/// # Errors
/// When the API server does not take it.
pub async fn create_secret(context: &Context, namespace: &str, object: Object) -> Result<bool, Error> {
    let label = format!("Secret {}", object.name());
    let failed = |source: Box<kube::Error>| Error::Api { object: label.clone(), source };
    let secret: Secret =
        serde_json::from_value(object.body).map_err(|error| failed(Box::new(kube::Error::SerdeError(error))))?;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&parameters, &secret).await {
        Ok(_) => {
            context.metrics.wrote(Kind::Secret, Verb::Create);
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(failed(Box::new(error))),
    }
}

/// Evicts Redis pods that run an older template: under `OnDelete` nobody else does. Returns their names.
///
/// # Errors
/// When the API server does not answer. An eviction that a budget forbids is tried again later.
pub async fn restart_outdated(
    context: &Context,
    namespace: &str,
    stateful_set: Option<&DynamicObject>,
    redis_pods: &[Pod],
) -> Result<Vec<String>, Error> {
    let mut evicted = Vec::new();
    let Some(revision) = stateful_set.and_then(settled_revision) else { return Ok(evicted) };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    for pod in redis_pods.iter().filter(|pod| pods::is_outdated(pod, &revision)) {
        let name = pod.name_any();
        match api.evict(&name, &EvictParams::default()).await {
            Ok(_) => {
                context.metrics.wrote(Kind::StatefulSet, Verb::Evict);
                evicted.push(name);
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 429) => {}
            Err(error) => return Err(Error::Api { object: format!("Pod {name}"), source: Box::new(error) }),
        }
    }
    Ok(evicted)
}

/// The revision of the newest template, once the StatefulSet's controller has seen that template.
fn settled_revision(stateful_set: &DynamicObject) -> Option<String> {
    let seen = number_at(stateful_set, "/status/observedGeneration");
    let is_current = seen.is_some() && seen == stateful_set.metadata.generation;
    let revision = stateful_set.data.pointer("/status/updateRevision").and_then(Value::as_str);
    revision.filter(|_| is_current).map(str::to_owned)
}

async fn apply_one(context: &Context, object: Object, applied: &mut Applied) -> Result<(), Error> {
    let Object { kind, mut body } = object;
    let hash = hash(&body);
    body["metadata"]["annotations"][APPLIED_HASH] = json!(hash);
    let text = |field: &str| body["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (name, namespace) = (text("name"), text("namespace"));
    let label = format!("{kind:?} {name}");
    let key = (namespace.clone(), kind, name.clone());
    let existing = applied.live.get(&(kind, name.clone()));
    let mut difference = String::new();
    if let Some(existing) = existing {
        let now = Settled { hash: hash.clone(), revision: revision(existing) };
        let Some(path) = difference_from(existing, &body, &hash) else { return Ok(()) };
        if context.is_settled(&key, &now) {
            return Ok(());
        }
        difference = path;
        // The patch holds for this very object, not for another one that took its name meanwhile.
        body["metadata"]["uid"] = json!(existing.uid());
    }
    let is_new = existing.is_none();
    let mut parameters = PatchParams::apply(MANAGER);
    parameters.force = !is_new;
    parameters.field_validation = Some(ValidationDirective::Strict);
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &kind.api_resource());
    let result = api.patch(&name, &parameters, &Patch::Apply(&body)).await.map_err(|error| explain(&label, error))?;
    context.metrics.wrote(kind, Verb::Apply);
    context.settle(key, Settled { hash, revision: revision(&result) });
    let old = applied.live.insert((kind, name), result);
    match old {
        None => applied.created.push(label),
        Some(_) => applied.changed.push(format!("{label} ({difference})")),
    }
    Ok(())
}

/// Why the object must be applied, or `None` where it is what was applied last.
fn difference_from(existing: &DynamicObject, body: &Value, hash: &str) -> Option<String> {
    if existing.annotations().get(APPLIED_HASH).map(String::as_str) != Some(hash) {
        return Some("what is wanted changed".to_owned());
    }
    let live = serde_json::to_value(existing).unwrap_or_default();
    first_difference(body, &live).map(|path| format!("{path} was changed by somebody else"))
}

/// Invalid objects come from the spec (a pod template, an annotation); a conflict or an outage passes.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other trouble of the client is tried again")]
fn explain(object: &str, error: kube::Error) -> Error {
    match error {
        // A field that the API server does not know is answered with 500 when it is applied.
        kube::Error::Api(status)
            if matches!(status.code, 400 | 422)
                || status.message.starts_with("failed to create typed patch object") =>
        {
            Error::Refused { object: object.to_owned(), message: status.message.clone() }
        }
        other => Error::Api { object: object.to_owned(), source: Box::new(other) },
    }
}

/// Kinds without a generation change their resource version only when something was written.
fn revision(object: &DynamicObject) -> String {
    match object.metadata.generation {
        Some(generation) => generation.to_string(),
        None => object.resource_version().unwrap_or_default(),
    }
}

fn hash(body: &Value) -> String {
    let digest = Sha256::digest(body.to_string().as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
