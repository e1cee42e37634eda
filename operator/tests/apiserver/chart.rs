//! The charts: they render, their resource is taken, and the operator's Role is enough for every reconcile and gives no
//! sight of Secrets.

use std::{path::PathBuf, process::Command};

use k8s_openapi::api::{
    core::v1::Secret,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::{World, condition, operator, server};

#[tokio::test]
async fn the_operators_role_is_enough_and_reads_no_secret() {
    let world = World::with_secret().await;
    let rendered = documents(&helm(&["template", "collab", "charts/collab-operator", "--namespace", "collab-system"]));
    let role = rendered.iter().find(|object| object["kind"] == "ClusterRole").expect("a ClusterRole");
    let mut role: ClusterRole = serde_json::from_value(role.clone()).unwrap();
    role.metadata.name = Some(world.namespace.clone());
    Api::all(world.client.clone()).create(&PostParams::default(), &role).await.unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": world.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": world.namespace},
        "subjects": [{"kind": "User", "name": "the-operator", "apiGroup": "rbac.authorization.k8s.io"}],
    }))
    .unwrap();
    Api::all(world.client.clone()).create(&PostParams::default(), &binding).await.unwrap();

    let limited = client_as("the-operator").await;
    let secrets: Api<Secret> = Api::namespaced(limited.clone(), &world.namespace);
    assert!(secrets.get("docs-jwt").await.is_err() && secrets.list(&ListParams::default()).await.is_err());
    world.apply(&crate::world::minimal()).await.unwrap();
    let operator = operator(limited, "1");
    let told = world.reconcile(&operator).await;
    assert_eq!(condition(&told, "Ready").1, "RedisNotReady");
    let writes = operator.metrics.writes_total();
    world.reconcile(&operator).await;
    assert_eq!(operator.metrics.writes_total(), writes);
}

#[tokio::test]
async fn the_clusters_chart_renders_what_the_api_server_takes() {
    let world = World::new().await;
    let secret = "spec.auth.jwt.secretRefs=[{\"name\":\"docs-jwt\",\"key\":\"secret\"}]";
    let rendered = documents(&helm(&["template", "docs", "charts/collab-cluster", "--set-json", secret]));
    let resource = rendered.iter().find(|object| object["kind"] == "CollabCluster").expect("a CollabCluster");
    assert_eq!(resource["spec"]["gateway"]["replicas"], Value::Null, "whoever scales owns the count");
    world.apply(resource).await.unwrap();
    helm(&["lint", "--strict", "charts/collab-cluster", "--set-json", secret]);
    helm(&["lint", "--strict", "charts/collab-operator"]);
}

/// Runs Helm from the top of the repository.
fn helm(arguments: &[&str]) -> String {
    let helm = cluster::programs::ensure().unwrap().join("helm");
    let output = Command::new(helm).args(arguments).current_dir(root()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "helm {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text).map(|one| Value::deserialize(one).unwrap()).collect()
}

async fn client_as(user: &str) -> Client {
    let mut kubeconfig = Kubeconfig::read_from(server().await.kubeconfig()).unwrap();
    for named in &mut kubeconfig.auth_infos {
        named.auth_info.get_or_insert_default().impersonate = Some(user.to_owned());
    }
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
