//! The resource alone: what the API server takes, fills in and refuses.

use collab_api::{CollabCluster, CollabClusterSpec};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::world::{World, merge, minimal, with_spec};

#[tokio::test]
async fn the_public_example_is_taken_and_read_back() {
    let world = World::new().await;
    let example: Value = serde_yaml::from_str(include_str!("../golden/contract.yaml")).unwrap();
    world.apply(&example).await.unwrap();
    let mut status = json!({"apiVersion": example["apiVersion"], "kind": example["kind"]});
    status["status"] = example["status"].clone();
    let api: Api<CollabCluster> = world.api();
    api.patch_status("docs", &PatchParams::apply("test"), &Patch::Apply(&status)).await.unwrap();
    let stored = serde_json::to_value(api.get("docs").await.unwrap()).unwrap();
    assert_holds("spec", &example["spec"], &stored["spec"]);
    assert_holds("status", &example["status"], &stored["status"]);
}

#[tokio::test]
async fn a_resource_with_only_auth_gets_every_default() {
    let world = World::new().await;
    let stored = world.apply(&minimal()).await.unwrap();
    let known: CollabClusterSpec = serde_json::from_value(minimal()["spec"].clone()).unwrap();
    assert_eq!(stored.spec, known, "the schema's defaults are this program's");
    assert_eq!(stored.spec.gateway.replicas, 3);
    assert_eq!(stored.spec.redis.storage.size.text(), "10Gi");
    assert_eq!(stored.spec.autoscaling, None);
}

#[tokio::test]
async fn a_wrong_resource_is_refused_with_the_field_and_what_to_write() {
    let world = World::new().await;
    let check = async |change: Value, expected: &[&str]| {
        let message = world.refusal(&with_spec(&change)).await;
        for part in expected {
            assert!(message.contains(part), "{change}: expected {part:?} in {message}");
        }
    };
    check(
        json!({"redis": {"topology": "Replicated"}}),
        &["spec.redis.topology", "not in this version yet: write Standalone"],
    )
    .await;
    check(json!({"redis": {"topology": "External"}}), &["spec.redis.topology", "not in this version yet"]).await;
    check(json!({"redis": {"topology": "Sharded"}}), &["spec.redis.topology", "Standalone"]).await;
    check(json!({"autoscaling": {"mode": "Enforce"}}), &["spec.autoscaling.mode", "not in this version yet"]).await;
    check(
        json!({"gateway": {"drain": {"deadline": "soon"}}}),
        &["spec.gateway.drain.deadline", "write 30s, 8m or 1h30m"],
    )
    .await;
    check(json!({"gateway": {"drain": {"deadline": "1h"}}}), &["spec.gateway.drain.deadline", "write 8m or less"])
        .await;
    check(json!({"gateway": {"maxConnectionAge": "1d"}}), &["spec.gateway.maxConnectionAge", "write 30s"]).await;
    check(
        json!({"gateway": {"resources": {"limits": {"memory": "1Gb"}}}}),
        &["spec.gateway.resources.limits", "must be a quantity"],
    )
    .await;
    check(json!({"gateway": {"replicas": -1}}), &["spec.gateway.replicas", "greater than or equal to 0"]).await;
    check(json!({"redis": {"storage": {"size": "lots"}}}), &["spec.redis.storage.size", "write 10Gi"]).await;
    check(json!({"redis": {"maxMemory": "lots"}}), &["spec.redis.maxMemory", "must be a quantity"]).await;
    check(json!({"redis": {"config": {"dir": "/"}}}), &["spec.redis.config", "belongs to the operator"]).await;
    check(json!({"redis": {"config": {"save": "a\nport 1"}}}), &["spec.redis.config.save"]).await;
    check(json!({"auth": {"jwt": {"secretRefs": []}}}), &["spec.auth.jwt", "needs a key to verify tokens with"]).await;
    check(json!({"auth": {"users": {"directoryUrl": "x"}}}), &["spec.auth.users.directoryUrl", "must be a URL"]).await;
    let schedule =
        json!({"name": "a", "start": "45 8 * * *", "duration": "45m", "timeZone": "Europe/Berlyn", "minReplicas": 2});
    check(json!({"autoscaling": {"schedules": [schedule]}}), &["timeZone", "IANA time zone"]).await;
    check(json!({"gatway": {}}), &["gatway"]).await;
    let mut named = minimal();
    named["metadata"]["name"] = json!("a".repeat(41));
    assert!(world.refusal(&named).await.contains("metadata.name must be at most 40"));
}

#[tokio::test]
async fn what_cannot_change_is_refused_later() {
    let world = World::new().await;
    world.apply(&minimal()).await.unwrap();
    let check = async |change: Value, expected: &str| {
        let message = world.refusal(&with_spec(&change)).await;
        assert!(message.contains(expected), "{change}: expected {expected:?} in {message}");
    };
    check(json!({"redis": {"storage": {"size": "9Gi"}}}), "can only grow: write 10Gi or more").await;
    check(json!({"redis": {"storage": {"storageClassName": "other"}}}), "storageClassName cannot change").await;
    check(json!({"redis": {"restoreFrom": {"s3": {"bucket": "b"}}}}), "only at creation").await;
    world.apply(&with_spec(&json!({"redis": {"storage": {"size": "11Gi"}}}))).await.unwrap();
    world.apply(&with_spec(&json!({"redis": {"storage": {"size": "11Gi", "storageClassName": null}}}))).await.unwrap();
}

#[tokio::test]
async fn the_scale_subresource_reads_and_writes_replicas() {
    let world = World::new().await;
    world.apply(&minimal()).await.unwrap();
    let api: Api<CollabCluster> = world.api();
    assert_eq!(api.get_scale("docs").await.unwrap().spec.unwrap().replicas, Some(3));
    let scale = json!({"spec": {"replicas": 5}});
    api.patch_scale("docs", &PatchParams::default(), &Patch::Merge(&scale)).await.unwrap();
    assert_eq!(api.get("docs").await.unwrap().spec.gateway.replicas, 5);
}

/// Everything that was written is there; nulls may be left out.
fn assert_holds(path: &str, written: &Value, stored: &Value) {
    match (written, stored) {
        (Value::Object(written), Value::Object(stored)) => {
            for (name, value) in written {
                assert_holds(&format!("{path}.{name}"), value, stored.get(name).unwrap_or(&Value::Null));
            }
        }
        (written, stored) => assert_eq!(written, stored, "{path}"),
    }
}

#[test]
fn fields_are_merged_for_these_tests_as_written() {
    let mut target = json!({"a": {"b": 1, "c": 2}});
    merge(&mut target, &json!({"a": {"b": 3}}));
    assert_eq!(target, json!({"a": {"b": 3, "c": 2}}));
}
