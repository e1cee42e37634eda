//! Deployment `<name>-gateway`. What changes live (limits, rates, log level) is not in its template: those come from
//! the ConfigMap, so that changing them, or the number of pods, restarts none.

use serde_json::{Value, json};

use crate::{
    build::{container_security, metadata, pod_security, pod_template, pull_secrets},
    kinds::{Kind, Object},
    names::{ADMIN_PORT, Component, GATEWAY_PORT, REDIS_PORT, REDIS_USER, SERVING_LABEL},
    quantity,
    validate::{Cluster, Problem, key_sources},
};
use collab_api::{gateway::Gateway, policy::PauseScope};

/// Where the Secrets and the ConfigMap are mounted: whole directories, because a file mounted by `subPath` never changes.
const MOUNTS: &str = "/etc/collab";
/// What the file of a token key is called, whatever its key in the Secret is.
const KEY_FILE: &str = "key";
/// The variable that tells a gateway its namespace.
const NAMESPACE: &str = "POD_NAMESPACE";
/// The variables that tell a gateway on how many threads it serves, and the C library's allocator how many heaps to keep:
/// one for each of them. By itself it makes more for threads that come now and then, and what is free in them stays there.
const THREADS: [&str; 2] = ["TOKIO_WORKER_THREADS", "MALLOC_ARENA_MAX"];
/// Seconds between two probes of readiness: how late a pod joins or leaves the Service.
const READINESS_PERIOD_SECONDS: u32 = 3;

/// Builds the Deployment.
///
/// # Errors
/// When `spec.gateway.podTemplate` cannot be merged.
pub fn build(cluster: &Cluster) -> Result<Object, Vec<Problem>> {
    let gateway = &cluster.spec.gateway;
    let template = pod_template::merge("spec.gateway.podTemplate", template(cluster), &gateway.pod_template)?;
    let rest = json!({"spec": {
        "replicas": gateway.replicas,
        "paused": cluster.spec.paused.iter().any(|pause| pause.what == PauseScope::Rollout),
        "revisionHistoryLimit": 5,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
        "selector": {"matchLabels": cluster.names.selector(Component::Gateway)},
        "template": template,
    }});
    Ok(Object::new(Kind::Deployment, &metadata(cluster, Component::Gateway, &cluster.names.gateway()), rest))
}

fn template(cluster: &Cluster) -> Value {
    let names = &cluster.names;
    let mut labels = names.stable_labels(Component::Gateway);
    labels[SERVING_LABEL] = json!("true");
    json!({
        "metadata": {"labels": labels},
        "spec": {
            "serviceAccountName": names.gateway(),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": cluster.gateway_grace_seconds,
            "imagePullSecrets": pull_secrets(cluster),
            "securityContext": pod_security(),
            "topologySpreadConstraints": [
                spread(cluster, "kubernetes.io/hostname"),
                spread(cluster, "topology.kubernetes.io/zone"),
            ],
            "initContainers": sidecars(cluster),
            "containers": [container(cluster)],
            "volumes": volumes(cluster),
        },
    })
}

/// Pods of one revision side by side, so that a rollout does not count the old ones.
fn spread(cluster: &Cluster, topology_key: &str) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": topology_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": cluster.names.selector(Component::Gateway)},
        "matchLabelKeys": ["pod-template-hash"],
    })
}

/// Native sidecars start before the gateway and stop after it.
fn sidecars(cluster: &Cluster) -> Value {
    let sidecars = cluster.spec.gateway.sidecars.iter().map(|sidecar| {
        let mut sidecar = Value::Object(sidecar.clone());
        sidecar["restartPolicy"] = json!("Always");
        sidecar
    });
    Value::Array(sidecars.collect())
}

fn container(cluster: &Cluster) -> Value {
    let gateway = &cluster.spec.gateway;
    let mut mounts = vec![
        json!({"name": "config", "mountPath": format!("{MOUNTS}/config"), "readOnly": true}),
        json!({"name": "redis-auth", "mountPath": format!("{MOUNTS}/redis-auth"), "readOnly": true}),
        json!({"name": "gateway-key", "mountPath": format!("{MOUNTS}/gateway-key"), "readOnly": true}),
    ];
    mounts.extend(key_sources(&cluster.spec).into_iter().map(|source| {
        let path = format!("{MOUNTS}/{}", source.volume);
        json!({"name": source.volume, "mountPath": path, "readOnly": true})
    }));
    json!({
        "name": "gateway",
        "image": gateway_image(cluster),
        "args": arguments(cluster),
        "env": environment(gateway),
        "ports": [
            {"name": "http", "containerPort": GATEWAY_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "resources": gateway.resources,
        "securityContext": container_security(),
        "startupProbe": {"httpGet": {"path": "/livez", "port": "admin"}, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "admin"},
            "periodSeconds": READINESS_PERIOD_SECONDS,
            "timeoutSeconds": 3,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": "admin"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "volumeMounts": mounts,
    })
}

/// The namespace, for traces, threads and heaps, unless the cluster says others; and what else the cluster says.
fn environment(gateway: &Gateway) -> Vec<Value> {
    let namespace = json!({"name": NAMESPACE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}});
    let threads = threads(gateway).into_iter().flat_map(|threads| {
        let value = threads.to_string();
        THREADS.map(|name| json!({"name": name, "value": value}))
    });
    let is_said = |own: &Value| gateway.env.iter().any(|variable| own["name"] == *variable.name);
    let own = std::iter::once(namespace).chain(threads).filter(|own| !is_said(own));
    own.chain(gateway.env.iter().map(|variable| json!(variable))).collect()
}

/// As many as it has CPUs: on a large node it would take one for each of the node's, and they would spend their time
/// waking each other.
fn threads(gateway: &Gateway) -> Option<u128> {
    let resources = &gateway.resources;
    let cpu = resources.limits.get("cpu").or_else(|| resources.requests.get("cpu"))?;
    quantity::thousandths(&cpu.text()).map(|cpu| cpu.div_ceil(1_000).max(1))
}

fn gateway_image(cluster: &Cluster) -> &str {
    &cluster.images.gateway
}

/// Only what the gateway reads once, at start.
fn arguments(cluster: &Cluster) -> Vec<String> {
    let names = &cluster.names;
    let gateway = &cluster.spec.gateway;
    let auth = &cluster.spec.auth;
    let mut flags = vec![
        ("listen", format!("[::]:{GATEWAY_PORT}")),
        ("admin-listen", format!("[::]:{ADMIN_PORT}")),
        ("config", format!("{MOUNTS}/config/gateway.yaml")),
        ("redis-url", format!("redis://{}:{REDIS_PORT}", names.redis_host(0))),
        ("redis-username", REDIS_USER.to_owned()),
        ("redis-password-file", format!("{MOUNTS}/redis-auth/password")),
        ("resume-key-file", format!("{MOUNTS}/gateway-key/key")),
        ("drain-deadline", gateway.drain.deadline.0.clone()),
    ];
    let keys = key_sources(&cluster.spec).into_iter();
    flags.extend(keys.map(|source| (source.flag, format!("{MOUNTS}/{}/{}", source.volume, KEY_FILE))));
    flags.extend(auth.jwt.jwks_url.iter().map(|url| ("jwks-url", url.clone())));
    flags.extend(auth.jwt.issuer.iter().map(|issuer| ("jwt-issuer", issuer.clone())));
    flags.extend(auth.jwt.audience.iter().map(|audience| ("jwt-audience", audience.clone())));
    flags.extend(auth.users.directory_url.iter().map(|url| ("user-directory-url", url.clone())));
    flags.extend(auth.access.url.iter().map(|url| ("access-url", url.clone())));
    if !gateway.allowed_origins.is_empty() {
        flags.push(("allowed-origins", gateway.allowed_origins.join(",")));
    }
    let mut arguments: Vec<String> = flags.into_iter().map(|(name, value)| format!("--{name}={value}")).collect();
    for (given, flag) in [(auth.users.from_claims, "users-from-claims"), (gateway.compression, "compression")] {
        if given {
            arguments.push(format!("--{flag}"));
        }
    }
    arguments
}

fn volumes(cluster: &Cluster) -> Value {
    let names = &cluster.names;
    let mut volumes = vec![
        json!({"name": "config", "configMap": {"name": names.config()}}),
        json!({"name": "redis-auth", "secret": {
            "secretName": names.redis_auth(),
            "items": [{"key": "password", "path": "password"}],
        }}),
        json!({"name": "gateway-key", "secret": {"secretName": names.gateway_key()}}),
    ];
    volumes.extend(key_sources(&cluster.spec).into_iter().map(|source| {
        json!({"name": source.volume, "secret": {
            "secretName": source.secret.name,
            "items": [{"key": source.secret.key, "path": KEY_FILE}],
        }})
    }));
    Value::Array(volumes)
}
