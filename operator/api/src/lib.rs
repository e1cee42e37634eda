//! The CollabCluster resource: its fields, defaults, bounds and rules, and the CRD made from them. No client, no clock.
//!
//! In: nothing. Out: [`CollabCluster`] for the operator, [`crd`] for `crds/collabclusters.yaml`, and [`check`], which runs
//! schema defaults and CEL rules locally, as the API server would.
//!
//! One file per part of the spec; `schema` holds what they share. Defaults stand in each part's `Default`.

pub mod auth;
pub mod autoscaling;
pub mod common;
pub mod gateway;
pub mod policy;
pub mod reason;
pub mod redis;
pub mod schema;
pub mod status;

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt, core::cel};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::schema::rule;

/// A real-time collaborative editing cluster: gateway pods and the Redis that they share.
#[allow(clippy::duplicated_attributes, reason = "each printed column has a name and a type of its own")]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "collabcluster.io",
    version = "v1alpha1",
    kind = "CollabCluster",
    plural = "collabclusters",
    shortname = "ccl",
    namespaced,
    status = "status::Status",
    derive = "PartialEq",
    doc = "A real-time collaborative editing cluster: gateway pods and the Redis that they share.",
    scale(
        spec_replicas_path = ".spec.gateway.replicas",
        status_replicas_path = ".status.gateway.replicas",
        label_selector_path = ".status.gateway.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Gateways", type_ = "string", json_path = ".status.gateway.summary"),
    printcolumn(name = "Connections", type_ = "integer", json_path = ".status.gateway.connections"),
    printcolumn(name = "Redis", type_ = "string", json_path = ".status.redis.summary"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Autoscaler", type_ = "string", json_path = ".status.autoscaling.message", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.gateway.image", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "!has(self.autoscaling) || self.autoscaling.mode != 'Enforce' || !has(oldSelf.autoscaling) || oldSelf.autoscaling.mode != 'Enforce' || self.gateway.replicas == oldSelf.gateway.replicas",
        "gateway.replicas belongs to the autoscaler while autoscaling.mode is Enforce: change autoscaling.minReplicas, or set the mode to DryRun first",
    ),
]))]
pub struct CollabClusterSpec {
    /// The pods that browsers connect to.
    #[serde(default)]
    pub gateway: gateway::Gateway,
    /// The sidecar of gateway and Redis pods.
    #[serde(default)]
    pub agent: gateway::Agent,
    /// How many gateway pods there should be; absent = gateway.replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<autoscaling::Autoscaling>,
    /// Where documents live.
    #[serde(default)]
    pub redis: redis::Redis,
    /// Who may connect, who they are, and what they may edit.
    pub auth: auth::Auth,
    /// Secrets to pull images with. Changing them restarts pods.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub image_pull_secrets: Vec<common::SecretRef>,
    /// Who may talk to whom. Restarts no pod.
    #[serde(default)]
    pub network_policy: policy::NetworkPolicy,
    /// Objects for the Prometheus operator and Grafana. Restarts no pod.
    #[serde(default)]
    pub monitoring: policy::Monitoring,
    /// What a new operator version may do to this cluster.
    #[serde(default)]
    pub upgrade: policy::Upgrade,
    /// What the operator is to leave alone. Restarts no pod.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["what"]))]
    pub paused: Vec<policy::Pause>,
    /// What becomes of the data volumes when the CollabCluster is deleted. Restarts no pod.
    #[serde(default)]
    pub deletion_policy: policy::DeletionPolicy,
}

/// Longest name: the longest child's name, `<name>-redis-<ordinal>` with the controller's revision, must stay a label.
pub const NAME_LENGTH_MAX: usize = 40;

/// The CRD, with the rule for names, which concerns the root and not the spec.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = CollabCluster::crd();
    let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    for root in schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()) {
        let rules = [name_rule()].map(|rule| serde_json::from_value(rule).ok()).into_iter().flatten();
        root.x_kubernetes_validations.get_or_insert_default().extend(rules);
    }
    crd
}

/// Runs the schema's defaults and CEL rules on a resource, and against its former state where there is one.
///
/// # Errors
/// What the API server would say: one line per violation, each with the path of the field.
pub fn check(resource: &Value, old: Option<&Value>) -> Result<(), Vec<String>> {
    let schema = &*SCHEMA;
    let resource = cel::apply_defaults(schema, resource);
    let old = old.map(|old| cel::apply_defaults(schema, old));
    cel::Validator::new()
        .validate(schema, &resource, old.as_ref())
        .map_err(|errors| errors.iter().map(|error| format!("{}: {}", error.field_path, error.message)).collect())
}

/// Paths of fields that the schema does not know: misspelt ones, or those of another version.
pub fn unknown_fields(resource: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in resource.as_object().into_iter().flatten() {
        match SCHEMA["properties"].get(name) {
            // The API server knows these by itself; the schema does not.
            _ if matches!(name.as_str(), "apiVersion" | "kind" | "metadata") => {}
            Some(schema) => find_unknown(name, value, schema, &mut found),
            None => found.push(name.clone()),
        }
    }
    found
}

/// The CRD's schema, made once: making it takes milliseconds, and every reconcile looks at it.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let crd = serde_json::to_value(crd()).unwrap_or_default();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default()
});

fn find_unknown(path: &str, value: &Value, schema: &Value, found: &mut Vec<String>) {
    let is_open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                match known {
                    Some(schema) => find_unknown(&path, value, schema, found),
                    None if is_open => {}
                    None => found.push(path),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_unknown(&format!("{path}[{index}]"), item, &schema["items"], found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn name_rule() -> Value {
    rule(
        "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be at most 40 lower-case letters, digits and '-', begin with a letter and not end with '-'",
    )
}
