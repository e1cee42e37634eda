//! StatefulSet `<name>-redis`: one pod with a volume. `OnDelete`: only the operator (or a person) restarts a server.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    build::{container_security, metadata, pod_security, pod_template, pull_secrets, redis_config},
    kinds::{Kind, Object},
    names::{CONFIG_HASH, Component, REDIS_PORT},
    validate::{Cluster, Platform, Problem},
};

/// Time for the server to write what it holds before it is killed.
const GRACE_SECONDS: u32 = 60;
/// Group that owns the volume where the platform assigns none; the image's user need not be in it.
const GROUP: u32 = 65532;

/// Builds the StatefulSet.
///
/// # Errors
/// When `spec.redis.podTemplate` cannot be merged.
pub fn build(cluster: &Cluster) -> Result<Object, Vec<Problem>> {
    let redis = &cluster.spec.redis;
    let template = pod_template::merge("spec.redis.podTemplate", template(cluster), &redis.pod_template)?;
    let rest = json!({"spec": {
        "replicas": 1,
        "serviceName": cluster.names.redis(),
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": cluster.spec.deletion_policy, "whenScaled": "Retain"},
        "selector": {"matchLabels": cluster.names.selector(Component::Redis)},
        "template": template,
        "volumeClaimTemplates": [claim(cluster)],
    }});
    Ok(Object::new(Kind::StatefulSet, &metadata(cluster, Component::Redis, &cluster.names.redis()), rest))
}

fn claim(cluster: &Cluster) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": cluster.redis_storage}},
    });
    if let Some(class) = &cluster.spec.redis.storage.storage_class_name {
        spec["storageClassName"] = json!(class);
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "labels": cluster.names.stable_labels(Component::Redis)},
        "spec": spec,
    })
}

fn template(cluster: &Cluster) -> Value {
    let names = &cluster.names;
    let mut security = pod_security();
    if cluster.platform == Platform::Kubernetes {
        security["fsGroup"] = json!(GROUP);
        security["fsGroupChangePolicy"] = json!("OnRootMismatch");
    }
    json!({
        "metadata": {
            "labels": names.stable_labels(Component::Redis),
            "annotations": {CONFIG_HASH: config_hash(cluster)},
        },
        "spec": {
            "serviceAccountName": names.redis(),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "imagePullSecrets": pull_secrets(cluster),
            "securityContext": security,
            "containers": [container(cluster)],
            "volumes": [
                {"name": "config", "configMap": {"name": names.redis()}},
                {"name": "auth", "secret": {
                    "secretName": names.redis_auth(),
                    "items": [{"key": "users.acl", "path": "users.acl"}],
                }},
            ],
        },
    })
}

fn container(cluster: &Cluster) -> Value {
    json!({
        "name": "redis",
        "image": cluster.images.redis,
        "command": ["valkey-server", "/etc/collab/config/redis.conf"],
        "ports": [{"name": "redis", "containerPort": REDIS_PORT, "protocol": "TCP"}],
        "resources": cluster.spec.redis.resources,
        "securityContext": container_security(),
        "startupProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 1, "failureThreshold": 600},
        "readinessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 5, "timeoutSeconds": 3},
        "livenessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": "/etc/collab/config", "readOnly": true},
            {"name": "auth", "mountPath": "/etc/collab/auth", "readOnly": true},
        ],
    })
}

/// A changed redis.conf must change the template, or nobody would know that the pod runs an old one.
fn config_hash(cluster: &Cluster) -> String {
    let digest = Sha256::digest(redis_config::redis_conf(cluster).as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
