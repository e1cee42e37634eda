//! `spec.autoscaling`: how many gateway pods there should be. Absent = fixed replicas.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{Duration, TimeZone, rule};

/// The policy that decides the number of gateway pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.minReplicas <= self.maxReplicas", "minReplicas must not be above maxReplicas: lower it, or raise maxReplicas"),
]))]
pub struct Autoscaling {
    /// Enforce = the operator sets the number of pods (not in this version yet); DryRun = it only says what it would do.
    #[schemars(extend("x-kubernetes-validations" = [
        rule("self != 'Enforce'", "Enforce is not in this version yet: write DryRun, or leave autoscaling out and set gateway.replicas"),
    ]))]
    pub mode: AutoscalingMode,
    /// Never fewer pods.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// Never more pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Set point: connections that a pod should carry.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_per_pod: i32,
    /// Room for a rush: accept rate × measured time to ready.
    pub surge: Surge,
    /// Times at which more pods are wanted.
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub schedules: Vec<Schedule>,
    /// Load expected from the same weekday and time.
    pub forecast: Forecast,
    /// How carefully pods are taken away.
    pub scale_down: ScaleDown,
    /// Moving connections from full pods to new ones.
    pub rebalance: Rebalance,
}

/// Who acts on the decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the field's description names them")]
pub enum AutoscalingMode {
    Enforce,
    // Enforce once it exists: a default must pass the rules.
    #[default]
    DryRun,
}

/// Room for a rush.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Surge {
    /// Whether a rush counts.
    pub enabled: bool,
    /// At most so many pods for it; null = up to maxReplicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_pods: Option<i32>,
}

/// A time at which more pods are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Name, for status and Events.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Cron expression with five fields.
    #[schemars(length(min = 9, max = 128))]
    pub start: String,
    /// For how long.
    pub duration: Duration,
    /// Time zone of `start`.
    #[serde(default = "utc")]
    pub time_zone: TimeZone,
    /// Pods wanted meanwhile.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
}

/// Load expected from history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Forecast {
    /// Off, DryRun (says what it would do) or Enforce.
    pub mode: ForecastMode,
    /// Share of past days that the forecast covers.
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = [
        rule("self.matches('^0[.][0-9]{1,6}$')", "must be a text between 0 and 1: write \"0.9\""),
    ]))]
    pub quantile: String,
}

/// Whether the forecast counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the field's description names them")]
pub enum ForecastMode {
    #[default]
    Off,
    DryRun,
    Enforce,
}

/// How carefully pods are taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScaleDown {
    /// For how long fewer pods must be enough.
    pub stabilization: Duration,
}

/// Moving connections from full pods to new ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Rebalance {
    /// Whether to move any.
    pub enabled: bool,
    /// How far above the mean a pod may be.
    #[schemars(range(min = 1, max = 1000))]
    pub max_imbalance_percent: i32,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Self {
            mode: AutoscalingMode::default(),
            min_replicas: 3,
            max_replicas: 40,
            connections_per_pod: 10_000,
            surge: Surge::default(),
            schedules: Vec::new(),
            forecast: Forecast::default(),
            scale_down: ScaleDown::default(),
            rebalance: Rebalance::default(),
        }
    }
}

impl Default for Surge {
    fn default() -> Self {
        Self { enabled: true, max_pods: None }
    }
}

impl Default for Forecast {
    fn default() -> Self {
        Self { mode: ForecastMode::default(), quantile: "0.9".to_owned() }
    }
}

impl Default for ScaleDown {
    fn default() -> Self {
        Self { stabilization: "10m".into() }
    }
}

impl Default for Rebalance {
    fn default() -> Self {
        Self { enabled: true, max_imbalance_percent: 20 }
    }
}

fn utc() -> TimeZone {
    TimeZone("UTC".to_owned())
}
