//! Third step: what should exist. No client, no clock, no randomness.
//!
//! In: a validated [`Cluster`]. Out: [`Desired`], one value with every object. `apply` takes it apart without `..`, so an
//! object that is built but not applied does not compile. One file per kind.

pub mod config_map;
pub mod gateway_deployment;
pub mod gateway_pdb;
pub mod gateway_service;
pub mod pod_template;
pub mod redis_config;
pub mod redis_pdb;
pub mod redis_service;
pub mod redis_stateful_set;
pub mod secrets;
pub mod service_account;

use serde_json::{Value, json};

use crate::{
    kinds::Object,
    names::Component,
    validate::{Cluster, Problem},
};

/// Everything that should exist for one CollabCluster, but for the Secret, which is created and never applied.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each field is one object, named as its file")]
pub struct Desired {
    pub gateway_service_account: Object,
    pub redis_service_account: Object,
    pub gateway_config: Object,
    pub redis_config: Object,
    pub redis_service: Object,
    pub redis_pdb: Object,
    pub redis_stateful_set: Object,
    pub gateway_service: Object,
    pub gateway_pdb: Object,
    pub gateway_deployment: Object,
}

impl Desired {
    /// All of it, in the order in which it is applied. Taken apart without `..`, so that a new kind is not forgotten.
    pub fn in_order(self) -> [Object; 10] {
        let Self {
            gateway_service_account,
            redis_service_account,
            gateway_config,
            redis_config,
            redis_service,
            redis_pdb,
            redis_stateful_set,
            gateway_service,
            gateway_pdb,
            gateway_deployment,
        } = self;
        [
            gateway_service_account,
            redis_service_account,
            gateway_config,
            redis_config,
            redis_service,
            redis_pdb,
            redis_stateful_set,
            gateway_service,
            gateway_pdb,
            gateway_deployment,
        ]
    }
}

/// Builds every object.
///
/// # Errors
/// When a `podTemplate` cannot be merged.
pub fn build(cluster: &Cluster) -> Result<Desired, Vec<Problem>> {
    Ok(Desired {
        gateway_service_account: service_account::build(cluster, Component::Gateway),
        redis_service_account: service_account::build(cluster, Component::Redis),
        gateway_config: config_map::build(cluster),
        redis_config: redis_config::build(cluster),
        redis_service: redis_service::build(cluster),
        redis_pdb: redis_pdb::build(cluster),
        redis_stateful_set: redis_stateful_set::build(cluster)?,
        gateway_service: gateway_service::build(cluster),
        gateway_pdb: gateway_pdb::build(cluster),
        gateway_deployment: gateway_deployment::build(cluster)?,
    })
}

/// Metadata of a child.
pub(crate) fn metadata(cluster: &Cluster, component: Component, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": cluster.names.namespace,
        "labels": cluster.names.labels(component),
        "ownerReferences": cluster.owner,
    })
}

/// Security settings of every container: Kubernetes' restricted profile, and a root file system that nobody can change.
pub(crate) fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
    })
}

/// Security settings of every pod; the image or the platform chooses the user.
pub(crate) fn pod_security() -> Value {
    json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})
}

/// `imagePullSecrets` of a pod.
pub(crate) fn pull_secrets(cluster: &Cluster) -> Value {
    json!(cluster.spec.image_pull_secrets)
}
