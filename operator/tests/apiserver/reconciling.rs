//! The reconciler: what it makes, what it leaves alone, what it tells.

use std::sync::Arc;

use collab_api::CollabCluster;
use collab_operator::controller;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::world::{World, condition, minimal, wait_for, with_spec};

#[tokio::test]
async fn a_cluster_is_made_whole_and_then_left_alone() {
    let world = World::with_secret().await;
    world.apply(&minimal()).await.unwrap();
    let operator = world.operator("1");
    let told = world.reconcile(&operator).await;

    let deployment = world.api::<Deployment>().get("docs-gateway").await.unwrap();
    let owner = &deployment.owner_references()[0];
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("CollabCluster", told.uid().as_ref()));
    assert!(deployment.finalizers().is_empty() && told.finalizers().is_empty());
    assert!(world.api::<Secret>().get("docs-redis-auth").await.unwrap().data.unwrap().contains_key("users.acl"));
    world.api::<StatefulSet>().get("docs-redis").await.unwrap();
    for name in ["docs-gateway", "docs-redis"] {
        world.api::<Service>().get(name).await.unwrap();
        world.api::<ServiceAccount>().get(name).await.unwrap();
        world.api::<PodDisruptionBudget>().get(name).await.unwrap();
    }
    world.api::<ConfigMap>().get("docs-config").await.unwrap();
    let (status, reason, _) = condition(&told, "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "RedisNotReady"));

    let writes = operator.metrics.writes_total();
    let again = world.reconcile(&operator).await;
    assert_eq!(operator.metrics.writes_total(), writes, "a steady cluster costs no write");
    assert_eq!(again.resource_version(), told.resource_version());

    let restarted = world.operator("1");
    world.reconcile(&restarted).await;
    assert_eq!(restarted.metrics.writes_total(), 0, "a new operator finds everything as it should be");
}

#[tokio::test]
async fn what_somebody_changed_is_put_back() {
    let world = World::with_secret().await;
    world.apply(&minimal()).await.unwrap();
    let operator = world.operator("1");
    world.reconcile(&operator).await;
    let deployments: Api<Deployment> = world.api();
    let change = json!({"spec": {"replicas": 9}, "metadata": {"labels": {"theirs": "stays"}}});
    deployments.patch("docs-gateway", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    world.api::<Service>().delete("docs-gateway", &DeleteParams::default()).await.unwrap();
    world.reconcile(&operator).await;
    let deployment = deployments.get("docs-gateway").await.unwrap();
    assert_eq!(deployment.spec.replicas, Some(3));
    assert_eq!(deployment.labels().get("theirs").map(String::as_str), Some("stays"), "other people's labels stay");
    world.api::<Service>().get("docs-gateway").await.unwrap();
}

#[tokio::test]
async fn scaling_and_limits_reach_the_gateways_without_a_restart() {
    let world = World::with_secret().await;
    world.apply(&minimal()).await.unwrap();
    let operator = world.operator("1");
    world.reconcile(&operator).await;
    let deployments: Api<Deployment> = world.api();
    let before = deployments.get("docs-gateway").await.unwrap().spec;
    let live =
        json!({"gateway": {"replicas": 8, "maxConnectionsPerPod": 77, "logLevel": "debug", "acceptRatePerPod": 9}});
    world.apply(&with_spec(&live)).await.unwrap();
    world.reconcile(&operator).await;
    let after = deployments.get("docs-gateway").await.unwrap().spec;
    assert_eq!(after.replicas, Some(8));
    assert_eq!(before.template, after.template, "no pod restarts");
    let settings = world.api::<ConfigMap>().get("docs-config").await.unwrap().data.unwrap();
    let expected = "accept-rate: 9\ndrain-rate: 25\nlog-level: \"debug\"\nmax-connections: 77\n";
    assert_eq!(settings["gateway.yaml"], expected);
}

#[tokio::test]
async fn an_object_of_our_name_that_is_not_ours_is_not_touched() {
    let world = World::with_secret().await;
    let theirs = json!({"metadata": {"name": "docs-gateway"}, "spec": {"ports": [{"port": 1234}]}});
    let theirs: Service = serde_json::from_value(theirs).unwrap();
    let services: Api<Service> = world.api();
    let created = services.create(&PostParams::default(), &theirs).await.unwrap();
    world.apply(&minimal()).await.unwrap();
    let operator = world.operator("1");
    let told = world.reconcile(&operator).await;
    let (status, reason, message) = condition(&told, "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NameTaken"));
    assert!(message.contains("Service docs-gateway"), "{message}");
    assert_eq!(services.get("docs-gateway").await.unwrap().resource_version(), created.resource_version());
    assert!(world.api::<Deployment>().get_opt("docs-gateway").await.unwrap().is_none(), "nothing else is made either");

    services.delete("docs-gateway", &DeleteParams::default()).await.unwrap();
    let told = world.reconcile(&operator).await;
    assert_eq!(condition(&told, "Ready").1, "RedisNotReady");
}

#[tokio::test]
async fn a_missing_secret_is_told_and_the_last_good_state_stays() {
    let world = World::with_secret().await;
    world.apply(&minimal()).await.unwrap();
    let operator = world.operator("1");
    world.reconcile(&operator).await;
    let before = world.api::<Deployment>().get("docs-gateway").await.unwrap();
    let refs = json!({"auth": {"jwt": {"secretRefs": [{"name": "docs-jwt", "key": "secret"}, {"name": "next", "key": "secret"}]}}});
    world.apply(&with_spec(&refs)).await.unwrap();
    let told = world.reconcile(&operator).await;
    let (status, reason, message) = condition(&told, "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SpecInvalid"));
    assert!(message.starts_with("spec.auth.jwt.secretRefs[1]: Secret next does not exist"), "{message}");
    let after = world.api::<Deployment>().get("docs-gateway").await.unwrap();
    assert_eq!(before.metadata.generation, after.metadata.generation);

    world.create_secret("next").await;
    let told = world.reconcile(&operator).await;
    assert_ne!(condition(&told, "Ready").1, "SpecInvalid");
    let after = world.api::<Deployment>().get("docs-gateway").await.unwrap();
    assert_ne!(before.metadata.generation, after.metadata.generation);
}

#[tokio::test]
async fn a_pod_template_that_the_api_server_refuses_changes_nothing() {
    let world = World::with_secret().await;
    world.apply(&minimal()).await.unwrap();
    let operator = world.operator("1");
    world.reconcile(&operator).await;
    let deployments: Api<Deployment> = world.api();
    let before = deployments.get("docs-gateway").await.unwrap();
    let check = async |template: Value, expected: &str| {
        world.apply(&with_spec(&json!({"gateway": {"podTemplate": template}}))).await.unwrap();
        let told = world.reconcile(&operator).await;
        let (_, reason, message) = condition(&told, "Ready");
        assert_eq!(reason, "SpecInvalid");
        assert!(message.contains(expected), "expected {expected:?} in {message}");
        let after = deployments.get("docs-gateway").await.unwrap();
        assert_eq!(before.metadata.generation, after.metadata.generation);
    };
    check(json!({"spec": {"priorityClassNam": "high"}}), "priorityClassNam").await;
    check(json!({"spec": {"containers": [{"name": "beside"}]}}), "image").await;
    check(json!({"spec": {"hostNetwork": "yes"}}), "spec.gateway.podTemplate").await;
}

#[tokio::test]
async fn a_password_that_is_there_is_kept() {
    let world = World::with_secret().await;
    world.create_secret("docs-redis-auth").await;
    let before = world.api::<Secret>().get("docs-redis-auth").await.unwrap();
    world.apply(&minimal()).await.unwrap();
    let told = world.reconcile(&world.operator("1")).await;
    assert_eq!(condition(&told, "Ready").1, "RedisNotReady");
    assert_eq!(world.api::<Secret>().get("docs-redis-auth").await.unwrap(), before);
}

#[tokio::test]
async fn a_new_operator_version_restarts_no_pod_unless_it_may() {
    let world = World::with_secret().await;
    world.apply(&minimal()).await.unwrap();
    world.reconcile(&world.operator("1")).await;
    let deployments: Api<Deployment> = world.api();
    let image = async || {
        let template = deployments.get("docs-gateway").await.unwrap().spec.template;
        template.spec.unwrap().containers[0].image.clone().unwrap()
    };
    let newer = world.operator("2");
    world.reconcile(&newer).await;
    assert_eq!(newer.metrics.writes_total(), 0);
    assert_eq!(image().await, "example/gateway:1");
    world.apply(&with_spec(&json!({"upgrade": {"policy": "Auto"}}))).await.unwrap();
    let told = world.reconcile(&newer).await;
    assert_eq!(image().await, "example/gateway:2");
    assert_eq!(told.status.unwrap().gateway.unwrap().image, "example/gateway:2");
}

#[tokio::test]
async fn fields_without_an_effect_raise_a_warning() {
    let world = World::with_secret().await;
    world.apply(&with_spec(&json!({"gateway": {"maxConnectionAge": "1h"}}))).await.unwrap();
    let told = world.reconcile(&world.operator("1")).await;
    let (status, _, message) = condition(&told, "ConfigurationWarning");
    assert_eq!(status, "True");
    assert!(message.ends_with("spec.gateway.maxConnectionAge"), "{message}");
}

#[tokio::test]
async fn a_redis_pod_with_an_old_template_is_evicted() {
    let world = World::with_secret().await;
    world.apply(&minimal()).await.unwrap();
    let operator = world.operator("1");
    world.reconcile(&operator).await;
    let sets: Api<StatefulSet> = world.api();
    let set = sets.get("docs-redis").await.unwrap();
    let status =
        json!({"status": {"observedGeneration": set.metadata.generation, "replicas": 1, "updateRevision": "new"}});
    sets.patch_status("docs-redis", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let mut labels = set.spec.selector.match_labels.unwrap();
    let pods: Api<Pod> = world.api();
    let create = async |name: &str, labels: &std::collections::BTreeMap<String, String>| {
        let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        pods.create(&PostParams::default(), &pod).await.unwrap();
    };
    labels.insert("controller-revision-hash".to_owned(), "new".to_owned());
    create("docs-redis-1", &labels).await;
    labels.insert("controller-revision-hash".to_owned(), "old".to_owned());
    create("docs-redis-0", &labels).await;
    world.reconcile(&operator).await;
    let left: Vec<String> = pods.list(&Default::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
    assert_eq!(left, ["docs-redis-1"]);
}

#[tokio::test]
async fn a_paused_cluster_is_left_as_it_is() {
    let world = World::with_secret().await;
    world.apply(&with_spec(&json!({"paused": [{"what": "All"}]}))).await.unwrap();
    let operator = world.operator("1");
    let told = world.reconcile(&operator).await;
    assert_eq!(condition(&told, "Paused").0, "True");
    assert!(world.api::<Deployment>().get_opt("docs-gateway").await.unwrap().is_none());
    let ended = json!({"paused": [{"what": "All", "until": "2020-01-01T00:00:00Z"}]});
    world.apply(&with_spec(&ended)).await.unwrap();
    world.reconcile(&operator).await;
    assert!(world.api::<Deployment>().get_opt("docs-gateway").await.unwrap().is_some());
}

#[tokio::test]
async fn the_running_operator_follows_changes_and_stops_when_told() {
    let world = World::with_secret().await;
    let operator = world.operator("1");
    let (stop, stopped) = watch::channel(false);
    let namespaces = vec![world.namespace.clone()];
    let running = {
        let operator: Arc<_> = operator.clone();
        tokio::spawn(async move { controller::run(operator, &namespaces, stopped).await })
    };
    world.apply(&minimal()).await.unwrap();
    let replicas = async || {
        let deployment = world.api::<Deployment>().get_opt("docs-gateway").await.unwrap();
        deployment.and_then(|deployment| deployment.spec.replicas)
    };
    wait_for("the Deployment", async || replicas().await == Some(3)).await;
    world.apply(&with_spec(&json!({"gateway": {"replicas": 4}}))).await.unwrap();
    wait_for("the new count", async || replicas().await == Some(4)).await;
    world.api::<Deployment>().delete("docs-gateway", &DeleteParams::default()).await.unwrap();
    wait_for("the deleted Deployment to come back", async || replicas().await == Some(4)).await;
    let told = async || {
        let resource = world.api::<CollabCluster>().get("docs").await.unwrap();
        let generation = resource.metadata.generation;
        resource.status.is_some_and(|status| status.observed_generation == generation)
    };
    wait_for("the status", told).await;
    let (reconciles, writes) = (operator.metrics.reconciles_total(), operator.metrics.writes_total());
    wait_for("two more reconciles", async || operator.metrics.reconciles_total() >= reconciles + 2).await;
    assert_eq!(operator.metrics.writes_total(), writes, "nothing changed, nothing written");
    stop.send_replace(true);
    running.await.unwrap();
}
