//! What surrounds the pods: network policy, monitoring, upgrades, pauses, deletion.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{PassThrough, pass_through_list};

/// Who may talk to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Whether NetworkPolicies are made.
    pub enabled: bool,
    /// Open = pods may call out; Restricted = only what the cluster needs.
    pub egress: Egress,
    /// Where the API server is, for pods that call it.
    pub api_server: ApiServer,
    /// More ingress rules, as in a NetworkPolicy.
    #[schemars(schema_with = "pass_through_list")]
    pub extra_ingress: Vec<PassThrough>,
    /// More egress rules, as in a NetworkPolicy.
    #[schemars(schema_with = "pass_through_list")]
    pub extra_egress: Vec<PassThrough>,
}

/// Whether pods may call out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the field's description names them")]
pub enum Egress {
    #[default]
    Open,
    Restricted,
}

/// Where the API server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ApiServer {
    /// Its addresses; empty = any.
    #[schemars(length(max = 32), inner(length(max = 64)))]
    pub cidrs: Vec<String>,
    /// Its ports.
    #[schemars(length(max = 16), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
}

/// Objects for the Prometheus operator and Grafana.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Monitoring {
    /// PodMonitor.
    pub pod_monitor: Toggle,
    /// PrometheusRule.
    pub rules: Toggle,
    /// Dashboard.
    pub dashboard: Toggle,
}

/// Auto = where the kind exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Toggle {
    #[default]
    Auto,
    Enabled,
    Disabled,
}

/// What a new operator version may do to this cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Upgrade {
    /// Manual = images stay as they were at creation; Auto = they follow the operator's version.
    pub policy: UpgradePolicy,
}

/// Whether images follow the operator's version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the field's description names them")]
pub enum UpgradePolicy {
    #[default]
    Manual,
    Auto,
}

/// Something that the operator is to leave alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pause {
    /// All = everything; else one activity.
    pub what: PauseScope,
    /// When the pause ends; null = when the entry is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("format" = "date-time"))]
    pub until: Option<String>,
}

/// What is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub enum PauseScope {
    All,
    Autoscaling,
    Rollout,
    Failover,
}

/// What becomes of the data volumes when the CollabCluster is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            egress: Egress::default(),
            api_server: ApiServer::default(),
            extra_ingress: Vec::new(),
            extra_egress: Vec::new(),
        }
    }
}

impl Default for ApiServer {
    fn default() -> Self {
        Self { cidrs: Vec::new(), ports: vec![443, 6443] }
    }
}
