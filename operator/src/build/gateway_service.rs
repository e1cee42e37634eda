//! Service `<name>-gateway`, which clients reach. It selects pods that serve; the Deployment does not look at that label,
//! so a pod can leave the Service and stay Ready while it drains.

use serde_json::json;

use crate::{
    build::metadata,
    kinds::{Kind, Object},
    names::{Component, SERVING_LABEL},
    validate::Cluster,
};

/// Builds the Service.
pub fn build(cluster: &Cluster) -> Object {
    let service = &cluster.spec.gateway.service;
    let mut selector = cluster.names.selector(Component::Gateway);
    selector[SERVING_LABEL] = json!("true");
    let mut metadata = metadata(cluster, Component::Gateway, &cluster.names.gateway());
    if !service.annotations.is_empty() {
        metadata["annotations"] = json!(service.annotations);
    }
    let rest = json!({"spec": {
        "type": service.kind,
        "ipFamilyPolicy": service.ip_family_policy,
        "selector": selector,
        "ports": [{"name": "http", "port": service.port, "targetPort": "http", "protocol": "TCP"}],
    }});
    Object::new(Kind::Service, &metadata, rest)
}
