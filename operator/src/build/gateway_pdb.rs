//! PodDisruptionBudget `<name>-gateway`: node drains take a tenth of the pods at a time, at least one.

use serde_json::json;

use crate::{
    build::metadata,
    kinds::{Kind, Object},
    names::Component,
    validate::Cluster,
};

/// Builds the PodDisruptionBudget; Kubernetes rounds the share up.
pub fn build(cluster: &Cluster) -> Object {
    let rest = json!({"spec": {
        "maxUnavailable": "10%",
        "selector": {"matchLabels": cluster.names.selector(Component::Gateway)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }});
    Object::new(Kind::PodDisruptionBudget, &metadata(cluster, Component::Gateway, &cluster.names.gateway()), rest)
}
