//! `spec.redis`: where documents live.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    common::{IssuerRef, Resources, S3, SecretKeyRef, SecretRef},
    schema::{PassThrough, Quantity, TimeZone, pass_through, rule, rule_saying},
};

/// The Redis (Valkey) that all gateway pods share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "has(self.restoreFrom) == has(oldSelf.restoreFrom) && (!has(self.restoreFrom) || self.restoreFrom == oldSelf.restoreFrom)",
        "restoreFrom can be set only at creation: create another CollabCluster to restore into",
    ),
]))]
pub struct Redis {
    /// Standalone = one pod with a volume. Replicated and External are not in this version yet. Immutable.
    #[schemars(extend("x-kubernetes-validations" = [
        rule("self == 'Standalone'", "Replicated and External are not in this version yet: write Standalone"),
        rule("self == oldSelf || (oldSelf == 'Standalone' && self == 'Replicated')", "can change only from Standalone to Replicated"),
    ]))]
    pub topology: Topology,
    /// Followers of a Replicated Redis: 2 means three pods. No effect while topology is Standalone.
    #[schemars(range(min = 0, max = 8))]
    pub replicas: i32,
    /// What an acknowledgement promises; null = Replicated where topology is Replicated and replicas >= 2, else Async.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "durability")]
    pub durability: Option<Durability>,
    /// Image of the server; null = the one of the operator that created the cluster. Changing it restarts the Redis pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// The volume of each pod.
    pub storage: Storage,
    /// The server's memory limit; null = from the container's memory limit, with room for a fork. Changing it restarts the
    /// Redis pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Quantity>,
    /// Resources of the server's container. Changing them restarts the Redis pods.
    pub resources: Resources,
    /// More lines of redis.conf, by name. Changing them restarts the Redis pods.
    #[schemars(schema_with = "settings")]
    pub config: BTreeMap<String, Value>,
    /// Merged into the pod template as server-side apply would merge it. Changing it restarts the Redis pods.
    #[schemars(schema_with = "pass_through")]
    pub pod_template: PassThrough,
    /// Encryption between gateways and Redis. Changing it restarts all pods.
    pub tls: Tls,
    /// A Redis that somebody else runs, for topology External.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// A backup to start from; only at creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
    /// Backups. Restarts no pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
}

/// How many Redis pods there are, and whose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the field's description names them")]
pub enum Topology {
    #[default]
    Standalone,
    Replicated,
    External,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the field's description names them")]
pub enum Durability {
    Async,
    Replicated,
    Synced,
}

/// The volume of a Redis pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        "storageClassName cannot change: create another CollabCluster and move the documents",
    ),
]))]
pub struct Storage {
    /// Size; grows only.
    #[schemars(extend("x-kubernetes-validations" = [
        rule("isQuantity(string(self))", "must be a quantity: write 10Gi"),
        rule_saying(
            "!isQuantity(string(self)) || !isQuantity(string(oldSelf)) || quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0",
            "can only grow",
            "'can only grow: write ' + string(oldSelf) + ' or more'",
        ),
    ]))]
    pub size: Quantity,
    /// StorageClass; null = the cluster's default. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// Encryption between gateways and Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Tls {
    /// Whether connections are encrypted.
    pub enabled: bool,
    /// Certificate: keys `tls.crt`, `tls.key`, `ca.crt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Issuer that makes the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// A Redis that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct External {
    /// Its URL, `redis://` or `rediss://`.
    pub url_secret_ref: SecretKeyRef,
    /// Its certificate authority, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// A backup to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFrom {
    /// Where backups are.
    pub s3: S3,
    /// One of them by name; null = the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub backup: Option<String>,
}

/// When and where backups are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Cron expression with five fields.
    #[schemars(length(min = 9, max = 128))]
    pub schedule: String,
    /// Time zone of `schedule`.
    #[serde(default = "utc")]
    pub time_zone: TimeZone,
    /// How long backups are kept.
    #[serde(default)]
    pub retention: Retention,
    /// Whether each backup is restored and compared.
    #[serde(default = "yes")]
    pub verify: bool,
    /// Where they go.
    pub s3: S3,
}

/// How long backups are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Retention {
    /// The newest so many.
    #[schemars(range(min = 1, max = 1000))]
    pub keep_last: i32,
}

/// Settings that would break what the operator relies on.
pub const RESERVED_SETTINGS: &[&str] = &[
    "aclfile",
    "bind",
    "cluster-enabled",
    "daemonize",
    "dir",
    "include",
    "loadmodule",
    "logfile",
    "masterauth",
    "masteruser",
    "maxmemory",
    "maxmemory-policy",
    "pidfile",
    "port",
    "protected-mode",
    "rename-command",
    "replicaof",
    "requirepass",
    "slaveof",
    "supervised",
    "unixsocket",
    "user",
];

impl Default for Redis {
    fn default() -> Self {
        Self {
            topology: Topology::default(),
            replicas: 2,
            durability: None,
            image: None,
            storage: Storage::default(),
            max_memory: None,
            resources: Resources::default(),
            config: BTreeMap::new(),
            pod_template: PassThrough::new(),
            tls: Tls::default(),
            external: None,
            restore_from: None,
            backup: None,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: "10Gi".into(), storage_class_name: None }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep_last: 14 }
    }
}

/// A rule, because the API server refuses null for an enum even where null is allowed.
fn durability(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "nullable": true,
        "maxLength": 16,
        "x-kubernetes-validations": [rule(
            "self in ['Async', 'Replicated', 'Synced']",
            "must be Async, Replicated or Synced; null = the topology's default",
        )],
    })
}

fn settings(_: &mut SchemaGenerator) -> Schema {
    let reserved = RESERVED_SETTINGS.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "maxLength": 1024, "pattern": "^[^\\r\\n]*$"},
        "x-kubernetes-validations": [rule(
            &format!("self.all(name, !(name in [{reserved}]))"),
            "names a setting that belongs to the operator (such as dir, port, aclfile, maxmemory): leave it out; spec.redis.maxMemory sets the memory",
        )],
    })
}

fn utc() -> TimeZone {
    TimeZone("UTC".to_owned())
}

fn yes() -> bool {
    true
}
