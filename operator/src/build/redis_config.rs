//! ConfigMap `<name>-redis` with `redis.conf`. The server reads it only at start, so its hash stands in the pod template.

use std::fmt::Write;

use serde_json::json;

use crate::{
    build::metadata,
    kinds::{Kind, Object},
    names::{Component, REDIS_PORT},
    quantity,
    validate::Cluster,
};

/// Share of the container's memory that data may take where only a limit is given: a fork for the append-only file's
/// rewrite copies the pages that change meanwhile, and buffers of clients come on top.
const MEMORY_SHARE_PERCENT: u128 = 60;

/// Builds the ConfigMap.
pub fn build(cluster: &Cluster) -> Object {
    let rest = json!({"data": {"redis.conf": redis_conf(cluster)}});
    Object::new(Kind::ConfigMap, &metadata(cluster, Component::Redis, &cluster.names.redis()), rest)
}

/// Text of the configuration file. The user's settings come last: of two lines the server takes the later.
pub fn redis_conf(cluster: &Cluster) -> String {
    let mut text = format!(
        "# Written by collab-operator from spec.redis; changes here are overwritten.\n\
         bind * -::*\n\
         port {REDIS_PORT}\n\
         protected-mode no\n\
         dir /data\n\
         aclfile /etc/collab/auth/users.acl\n\
         appendonly yes\n\
         appendfsync everysec\n\
         save \"\"\n\
         maxmemory-policy noeviction\n"
    );
    if let Some(bytes) = max_memory_bytes(cluster) {
        let _ = writeln!(text, "maxmemory {bytes}");
    }
    for (name, value) in &cluster.spec.redis.config {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

/// What was asked for, else a share of the container's limit, else no limit.
fn max_memory_bytes(cluster: &Cluster) -> Option<u128> {
    let redis = &cluster.spec.redis;
    let asked = redis.max_memory.as_ref().and_then(|quantity| quantity::whole(&quantity.text()));
    let limit = redis.resources.limits.get("memory").and_then(|limit| quantity::whole(&limit.text()));
    asked.or_else(|| limit.map(|bytes| bytes * MEMORY_SHARE_PERCENT / 100))
}
