//! Names, labels and annotations of everything that belongs to one CollabCluster. In: its name. Out: strings.
//! CONTRACT: the names are public; an object of such a name that is not ours is never touched.

use serde_json::{Value, json};

use crate::kinds::Kind;

/// Field manager of children, and value of `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "collab-operator";
/// Field manager of the status.
pub const STATUS_MANAGER: &str = "collab-operator-status";
/// Label of a CollabCluster that only operators of that class look after.
pub const CLASS_LABEL: &str = "collabcluster.io/class";
/// Label of gateway pods: the Service selects `"true"`.
pub const SERVING_LABEL: &str = "collabcluster.io/serving";
/// Annotation on children: hash of what was applied last.
pub const APPLIED_HASH: &str = "collabcluster.io/applied-hash";
/// Annotation on pod templates: hash of the files that a server reads only at start.
pub const CONFIG_HASH: &str = "collabcluster.io/config-hash";
/// User of the gateways in Redis.
pub const REDIS_USER: &str = "gateway";
/// Port of Redis.
pub const REDIS_PORT: u16 = 6379;
/// Port of the gateways' clients.
pub const GATEWAY_PORT: u16 = 3000;
/// Port of the gateways' probes and metrics.
pub const ADMIN_PORT: u16 = 9090;

/// The two kinds of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// Pods that browsers connect to.
    Gateway,
    /// Pods that hold documents.
    Redis,
}

/// What the children of one CollabCluster are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Name of the CollabCluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
}

impl Component {
    /// Value of `app.kubernetes.io/component`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Redis => "redis",
        }
    }
}

impl Names {
    /// `<name>-gateway`: Deployment, Service, PDB, ServiceAccount.
    pub fn gateway(&self) -> String {
        format!("{}-gateway", self.cluster)
    }

    /// `<name>-redis`: StatefulSet, headless Service, PDB, ServiceAccount, ConfigMap with redis.conf.
    pub fn redis(&self) -> String {
        format!("{}-redis", self.cluster)
    }

    /// `<name>-redis-auth`: Secret with `password` and `users.acl`.
    pub fn redis_auth(&self) -> String {
        format!("{}-redis-auth", self.cluster)
    }

    /// `<name>-gateway-key`: Secret with `key`, with which the gateways sign resume tickets.
    pub fn gateway_key(&self) -> String {
        format!("{}-gateway-key", self.cluster)
    }

    /// Secrets that the operator creates once and never reads.
    pub fn own_secrets(&self) -> [String; 2] {
        [self.redis_auth(), self.gateway_key()]
    }

    /// `<name>-config`: ConfigMap with `gateway.yaml`.
    pub fn config(&self) -> String {
        format!("{}-config", self.cluster)
    }

    /// Stable host name of the Redis pod with this ordinal.
    pub fn redis_host(&self, ordinal: u32) -> String {
        format!("{redis}-{ordinal}.{redis}.{}.svc", self.namespace, redis = self.redis())
    }

    /// Every child that is applied (the Secret is only created).
    pub fn applied(&self) -> Vec<(Kind, String)> {
        vec![
            (Kind::ServiceAccount, self.gateway()),
            (Kind::ServiceAccount, self.redis()),
            (Kind::ConfigMap, self.config()),
            (Kind::ConfigMap, self.redis()),
            (Kind::Service, self.redis()),
            (Kind::PodDisruptionBudget, self.redis()),
            (Kind::StatefulSet, self.redis()),
            (Kind::Service, self.gateway()),
            (Kind::PodDisruptionBudget, self.gateway()),
            (Kind::Deployment, self.gateway()),
        ]
    }

    /// Labels that select a component's pods; they never change.
    pub fn selector(&self, component: Component) -> Value {
        json!({
            "app.kubernetes.io/name": "collabcluster",
            "app.kubernetes.io/instance": self.cluster,
            "app.kubernetes.io/component": component.label(),
        })
    }

    /// The same as text, for list calls and `status.gateway.selector`.
    pub fn selector_text(&self, component: Component) -> String {
        format!(
            "app.kubernetes.io/component={},app.kubernetes.io/instance={},app.kubernetes.io/name=collabcluster",
            component.label(),
            self.cluster
        )
    }

    /// Labels of pods and claims: those of the selector and who manages them; nothing that a new version changes.
    pub fn stable_labels(&self, component: Component) -> Value {
        let mut labels = self.selector(component);
        labels["app.kubernetes.io/managed-by"] = json!(MANAGER);
        labels
    }

    /// Labels of every other child.
    pub fn labels(&self, component: Component) -> Value {
        let mut labels = self.stable_labels(component);
        labels["app.kubernetes.io/version"] = json!(env!("CARGO_PKG_VERSION"));
        labels
    }
}
