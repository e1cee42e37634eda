//! ServiceAccounts of gateway and Redis pods. They have no rights, and no token is mounted.

use serde_json::json;

use crate::{
    build::metadata,
    kinds::{Kind, Object},
    names::Component,
    validate::Cluster,
};

/// Builds the ServiceAccount of a component.
pub fn build(cluster: &Cluster, component: Component) -> Object {
    let name = match component {
        Component::Gateway => cluster.names.gateway(),
        Component::Redis => cluster.names.redis(),
    };
    let rest = json!({"automountServiceAccountToken": false});
    Object::new(Kind::ServiceAccount, &metadata(cluster, component, &name), rest)
}
