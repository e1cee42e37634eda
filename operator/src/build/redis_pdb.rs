//! PodDisruptionBudget `<name>-redis`. With one pod it allows its eviction: refusing would block node drains for ever,
//! and gateways hold edits until the pod is back.

use serde_json::json;

use crate::{
    build::metadata,
    kinds::{Kind, Object},
    names::Component,
    validate::Cluster,
};

/// Builds the PodDisruptionBudget.
pub fn build(cluster: &Cluster) -> Object {
    let rest = json!({"spec": {
        "maxUnavailable": 1,
        "selector": {"matchLabels": cluster.names.selector(Component::Redis)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }});
    Object::new(Kind::PodDisruptionBudget, &metadata(cluster, Component::Redis, &cluster.names.redis()), rest)
}
