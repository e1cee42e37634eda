//! ConfigMap `<name>-config` with `gateway.yaml`: the settings that running gateways re-read, so that changing them (or
//! the number of pods) restarts none. Its keys are the gateway's flag names.

use serde_json::{Map, Value, json};

use crate::{
    build::metadata,
    kinds::{Kind, Object},
    names::Component,
    validate::Cluster,
};

/// Builds the ConfigMap.
pub fn build(cluster: &Cluster) -> Object {
    let rest = json!({"data": {"gateway.yaml": gateway_yaml(cluster)}});
    Object::new(Kind::ConfigMap, &metadata(cluster, Component::Gateway, &cluster.names.config()), rest)
}

fn gateway_yaml(cluster: &Cluster) -> String {
    let gateway = &cluster.spec.gateway;
    let mut settings = Map::new();
    settings.insert("accept-rate".to_owned(), json!(gateway.accept_rate_per_pod));
    settings.insert("drain-rate".to_owned(), json!(cluster.drain_rate_per_pod));
    settings.insert("log-level".to_owned(), json!(gateway.log_level));
    settings.insert("max-connections".to_owned(), json!(gateway.max_connections_per_pod));
    lines(&settings)
}

/// YAML of scalars only, in a fixed order and form: the text enters a hash.
fn lines(settings: &Map<String, Value>) -> String {
    settings.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}
