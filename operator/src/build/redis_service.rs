//! Headless Service `<name>-redis`: a stable host name for each Redis pod, also while it is not ready, because gateways
//! find the primary themselves.

use serde_json::json;

use crate::{
    build::metadata,
    kinds::{Kind, Object},
    names::{Component, REDIS_PORT},
    validate::Cluster,
};

/// Builds the Service.
pub fn build(cluster: &Cluster) -> Object {
    let rest = json!({"spec": {
        "clusterIP": "None",
        "ipFamilyPolicy": cluster.spec.gateway.service.ip_family_policy,
        "publishNotReadyAddresses": true,
        "selector": cluster.names.selector(Component::Redis),
        "ports": [{"name": "redis", "port": REDIS_PORT, "targetPort": "redis", "protocol": "TCP"}],
    }});
    Object::new(Kind::Service, &metadata(cluster, Component::Redis, &cluster.names.redis()), rest)
}
