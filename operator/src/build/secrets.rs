//! Secrets that a cluster needs and nobody chooses: `<name>-redis-auth` (`password` for the gateways, `users.acl` for the
//! server) and `<name>-gateway-key` (`key`, with which gateways sign resume tickets for each other). Created once and
//! never read back: the operator may create Secrets, not see them. Randomness comes in as an argument.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    build::metadata,
    kinds::{Kind, Object},
    names::{Component, REDIS_USER},
    validate::Cluster,
};

/// Every Secret of a cluster, each around a fresh random text of letters and digits.
pub fn all(cluster: &Cluster, mut fresh: impl FnMut() -> String) -> [Object; 2] {
    [redis_auth(cluster, &fresh()), gateway_key(cluster, &fresh())]
}

fn gateway_key(cluster: &Cluster, key: &str) -> Object {
    let metadata = metadata(cluster, Component::Gateway, &cluster.names.gateway_key());
    Object::new(Kind::Secret, &metadata, json!({"type": "Opaque", "stringData": {"key": key}}))
}

fn redis_auth(cluster: &Cluster, password: &str) -> Object {
    let metadata = metadata(cluster, Component::Redis, &cluster.names.redis_auth());
    let rest = json!({
        "type": "Opaque",
        "stringData": {"password": password, "users.acl": users_acl(password)},
    });
    Object::new(Kind::Secret, &metadata, rest)
}

/// Only the gateways' user may sign in. It sees all keys and channels, and no command that could end or re-configure the
/// server; `info` and `role` tell it whether it talks to the primary. The file holds a hash, not the password.
fn users_acl(password: &str) -> String {
    format!(
        "user default off resetkeys resetchannels -@all\n\
         user {REDIS_USER} on #{} ~* &* +@all -@admin -@dangerous +info +role\n",
        hex(&Sha256::digest(password.as_bytes()))
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
