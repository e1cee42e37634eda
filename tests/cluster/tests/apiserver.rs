//! Only API servers: several at a time, gone without a trace.
//!
//! In: the built programs. Out: nothing.

use cluster::ApiServer;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn api_servers_run_in_parallel_and_know_nothing_of_each_other() {
    let (first, second) = tokio::join!(ApiServer::start(), ApiServer::start());
    let (first, second) = (first.unwrap(), second.unwrap());
    let maps = |client| Api::<ConfigMap>::namespaced(client, "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "mine"}})).unwrap();
    maps(first.client().await.unwrap()).create(&PostParams::default(), &map).await.unwrap();
    let listed = maps(second.client().await.unwrap()).list(&ListParams::default()).await.unwrap();
    assert!(listed.items.iter().all(|found| found.metadata.name.as_deref() != Some("mine")));

    let folder = first.kubeconfig().ancestors().nth(2).unwrap().to_owned();
    assert!(folder.is_dir());
    drop(first);
    assert!(!folder.exists());
    // The other one is unharmed.
    maps(second.client().await.unwrap()).list(&ListParams::default()).await.unwrap();
}
