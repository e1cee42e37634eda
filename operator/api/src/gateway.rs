//! `spec.gateway` and `spec.agent`: the pods that browsers connect to.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{
    common::{EnvVar, IssuerRef, Resources},
    schema::{Duration, PassThrough, StringMap, pass_through, rule, string_map},
};

/// The gateway pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Gateway {
    /// Number of pods; the scale subresource writes it. Used unless autoscaling is in mode Enforce. Restarts no pod.
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Hard admission limit of one pod. Applies live.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections_per_pod: i32,
    /// New connections a second that one pod accepts. Applies live.
    #[schemars(range(min = 1, max = 100_000))]
    pub accept_rate_per_pod: i32,
    /// The disruption budget. Changing the deadline restarts the gateway pods; the rate applies live.
    pub drain: Drain,
    /// Age at which a connection is asked to move; null = never. Changing it restarts the gateway pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_age: Option<Duration>,
    /// Values of browsers' Origin header that may connect; empty = any. Changing it restarts the gateway pods.
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub allowed_origins: Vec<String>,
    /// permessage-deflate. Changing it restarts the gateway pods.
    pub compression: bool,
    /// How much the gateways log. Applies live.
    pub log_level: LogLevel,
    /// Resources of the gateway container. Changing them restarts the gateway pods.
    pub resources: Resources,
    /// The Service in front of the pods. Restarts no pod.
    pub service: Service,
    /// A Gateway API HTTPRoute. Restarts no pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// An Ingress. Restarts no pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// Image of the gateway; null = the one of the operator that created the cluster. Changing it restarts the gateway
    /// pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// More environment variables of the gateway container. Changing them restarts the gateway pods.
    #[schemars(length(max = 100))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Merged into the pod template as server-side apply would merge it: containers, volumes and variables by name.
    /// Changing it restarts the gateway pods.
    #[schemars(schema_with = "pass_through")]
    pub pod_template: PassThrough,
    /// More native sidecars, as containers of a pod. Changing them restarts the gateway pods.
    #[schemars(schema_with = "sidecars")]
    pub sidecars: Vec<PassThrough>,
}

/// The one disruption budget: scale-down, rollout, rebalance and planned switches share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Drain {
    /// How long a pod that is taken away may take to move its connections; at most 8m.
    #[schemars(extend("x-kubernetes-validations" = [
        rule("self.matches('^([0-9]+(ms|s|m|h))+$')", "must be a duration: write 30s, 8m or 1h30m"),
        rule(
            "!self.matches('^([0-9]+(ms|s|m|h))+$') || (duration(self) >= duration('1s') && duration(self) <= duration('8m'))",
            "must be between 1s and 8m, because a node that is scaled down kills its pods after 10m: write 8m or less",
        ),
    ]))]
    pub deadline: Duration,
    /// Connections that all pods together ask to move, a second.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_connections_moved_per_second: i32,
}

/// How much the gateways log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it, and descriptions of variants would only swell the schema")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// The Service in front of the gateway pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Service {
    /// Kind of Service.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// Its port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Annotations, for example a cloud's load balancer settings.
    #[schemars(schema_with = "string_map")]
    pub annotations: StringMap,
    /// IPv4, IPv6 or both.
    pub ip_family_policy: IpFamilyPolicy,
}

/// Kind of Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "Kubernetes' own names")]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

/// IPv4, IPv6 or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "Kubernetes' own names")]
pub enum IpFamilyPolicy {
    SingleStack,
    #[default]
    PreferDualStack,
    RequireDualStack,
}

/// A Gateway API HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The Gateways that it attaches to.
    #[schemars(length(min = 1, max = 16))]
    pub parent_refs: Vec<ParentRef>,
    /// Host names that it serves; empty = those of the Gateway.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub hostnames: Vec<String>,
}

/// A Gateway, or one listener of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Name of the Gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace; null = this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// One listener by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
    /// One listener by port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// An Ingress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// Host name.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// IngressClass; null = the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// Annotations, for example time-outs.
    #[serde(default)]
    #[schemars(schema_with = "string_map")]
    pub annotations: StringMap,
    /// Secret with the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
    /// Issuer that makes the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// The sidecar of gateway and Redis pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Agent {
    /// Image of the agent; null = the one of the operator that created the cluster. Changing it restarts pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// Resources of the agent's container. Changing them restarts pods.
    pub resources: Resources,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            replicas: 3,
            max_connections_per_pod: 15_000,
            accept_rate_per_pod: 500,
            drain: Drain::default(),
            max_connection_age: None,
            allowed_origins: Vec::new(),
            compression: false,
            log_level: LogLevel::default(),
            resources: Resources {
                requests: [("cpu".to_owned(), "1".into()), ("memory".to_owned(), "512Mi".into())].into(),
                limits: [("memory".to_owned(), "1Gi".into())].into(),
            },
            service: Service::default(),
            route: None,
            ingress: None,
            image: None,
            env: Vec::new(),
            pod_template: PassThrough::new(),
            sidecars: Vec::new(),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { deadline: "8m".into(), max_connections_moved_per_second: 200 }
    }
}

impl Default for Service {
    fn default() -> Self {
        Self {
            kind: ServiceType::default(),
            port: 80,
            annotations: StringMap::new(),
            ip_family_policy: IpFamilyPolicy::default(),
        }
    }
}

fn sidecars(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 63}},
            "x-kubernetes-preserve-unknown-fields": true,
        },
    })
}
