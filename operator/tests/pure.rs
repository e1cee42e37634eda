//! What needs no API server: the rules of the schema, the built objects against golden files, the generated files.
//!
//! In: YAML below `golden/`. Out: `<name>.expected.yaml` beside it, written anew with `UPDATE_GOLDEN=1`.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::{fs, path::PathBuf};

use collab_operator::{
    plan,
    validate::{Images, Surroundings},
};
use serde_json::{Value, json};

#[test]
fn the_least_a_person_can_write_becomes_a_whole_cluster() {
    golden("minimal");
}

#[test]
fn every_field_that_this_version_acts_on_reaches_its_object() {
    golden("everything");
}

#[test]
fn the_crd_in_the_repository_and_in_the_chart_is_the_generated_one() {
    let generated = plan::crd().unwrap();
    assert_eq!(file("crds/collabclusters.yaml"), generated, "run `make generate`");
    let chart = file("charts/collab-operator/files/crd.yaml");
    let own = |line: &&str| {
        !["  annotations:", "    collabcluster.io/version: ", "    helm.sh/resource-policy: keep"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let plain: Vec<&str> = chart.lines().filter(own).collect();
    let generated: Vec<&str> = generated.lines().collect();
    assert_eq!(plain, generated, "run `make generate`");
    assert!(
        chart.contains("helm.sh/resource-policy: keep"),
        "uninstalling the chart must not delete people's clusters"
    );
}

#[test]
fn the_crd_fits_into_an_annotation() {
    let json = serde_json::to_string(&collab_api::crd()).unwrap();
    assert!(json.len() < 256 * 1024, "kubectl apply keeps the object in an annotation: {} bytes", json.len());
}

#[test]
fn a_wrong_name_is_refused() {
    let long = "a".repeat(41);
    for name in ["Docs", "1docs", "docs-", "do_cs", long.as_str()] {
        refuses(&json!({"metadata": {"name": name}}), "metadata.name must be at most 40");
    }
    accepts(&json!({"metadata": {"name": "a".repeat(40)}}));
}

#[test]
fn a_wrong_field_is_refused_with_what_to_write_instead() {
    let gateway = |fields: Value| json!({"spec": {"gateway": fields}});
    let redis = |fields: Value| json!({"spec": {"redis": fields}});
    refuses(&gateway(json!({"drain": {"deadline": "eight"}})), "write 30s, 8m or 1h30m");
    refuses(&gateway(json!({"drain": {"deadline": "9m"}})), "write 8m or less");
    refuses(
        &gateway(json!({"resources": {"limits": {"memory": "1Gb"}}})),
        "spec.gateway.resources.limits.memory: must be a quantity",
    );
    accepts(&gateway(json!({"resources": {"limits": {"cpu": 2}}})));
    refuses(&redis(json!({"storage": {"size": "much"}})), "spec.redis.storage.size: must be a quantity");
    refuses(
        &redis(json!({"topology": "Replicated"})),
        "spec.redis.topology: Replicated and External are not in this version yet",
    );
    refuses(&redis(json!({"config": {"dir": "/tmp"}})), "belongs to the operator");
    accepts(&redis(json!({"config": {"appendfsync": "always", "maxclients": 10}})));
    let scaling = |fields: Value| json!({"spec": {"autoscaling": fields}});
    refuses(&scaling(json!({"mode": "Enforce"})), "Enforce is not in this version yet");
    refuses(&scaling(json!({"minReplicas": 50})), "minReplicas must not be above maxReplicas");
    refuses(&scaling(json!({"forecast": {"quantile": "90"}})), "write \"0.9\"");
    let schedule = |zone: &str| {
        let schedule =
            json!({"name": "a", "start": "45 8 * * MON-FRI", "duration": "45m", "timeZone": zone, "minReplicas": 20});
        scaling(json!({"schedules": [schedule]}))
    };
    // That an unknown zone is refused is seen only by a real API server: the local rules know no zones.
    accepts(&schedule("Europe/Berlin"));
    refuses(&json!({"spec": {"auth": {"jwt": {"secretRefs": []}}}}), "needs a key to verify tokens with");
    refuses(&json!({"spec": {"auth": {"jwt": {"jwksUrl": "example.com"}}}}), "must be a URL");
}

#[test]
fn what_cannot_change_does_not_change() {
    let redis = |fields: Value| json!({"spec": {"redis": fields}});
    let size = |size: &str| redis(json!({"storage": {"size": size}}));
    refuses_change(&size("10Gi"), &size("9Gi"), "can only grow");
    accepts_change(&size("10Gi"), &size("10240Mi"));
    accepts_change(&size("10Gi"), &size("11Gi"));
    let class = |class: Value| redis(json!({"storage": {"storageClassName": class}}));
    refuses_change(&class(json!("fast")), &class(json!("slow")), "storageClassName cannot change");
    refuses_change(&redis(json!({})), &class(json!("slow")), "storageClassName cannot change");
    let restore = redis(json!({"restoreFrom": {"s3": {"bucket": "b"}}}));
    refuses_change(&redis(json!({})), &restore, "only at creation");
    accepts_change(&restore, &restore);
    let enforce =
        |replicas: i32| json!({"spec": {"autoscaling": {"mode": "Enforce"}, "gateway": {"replicas": replicas}}});
    refuses_change(&enforce(3), &enforce(4), "belongs to the autoscaler");
}

#[test]
fn a_file_is_judged_without_a_cluster() {
    refuses_file("kind: Pod\napiVersion: v1\n", "kind Pod");
    refuses_file("", "no CollabCluster");
    let minimal = file("operator/tests/golden/minimal.yaml");
    refuses_file(&minimal.replace("  auth:", "  gatway: {}\n  auth:"), "spec.gatway: unknown field");
    refuses_file(&minimal.replace("  auth:", "  gateway: {replicas: many}\n  auth:"), "invalid type");
    let template = "  gateway: {podTemplate: {spec: {containers: [{image: x}]}}}\n  auth:";
    refuses_file(
        &minimal.replace("  auth:", template),
        "spec.gateway.podTemplate: every entry of spec.containers needs a name",
    );
    let template = "  gateway: {podTemplate: {spec: {hostNetwork: perhaps}}}\n  auth:";
    refuses_file(&minimal.replace("  auth:", template), "spec.gateway.podTemplate: is not a pod template");
}

#[test]
fn tokens_can_be_verified_by_public_keys_alone() {
    let minimal = file("operator/tests/golden/minimal.yaml");
    let secret = "secretRefs: [{name: paper-jwt, key: hmac}]";
    for (keys, flag) in [
        ("jwksUrl: https://keys.example", "--jwks-url=https://keys.example"),
        ("publicKeySecretRef: {name: issuer, key: pem}", "--jwt-public-key-file=/etc/collab/jwt-public/key"),
    ] {
        let clusters = plan::read(&minimal.replace(secret, keys), &images()).unwrap();
        let planned = plan::plan(&clusters[0]).unwrap();
        assert!(planned.contains(flag) && !planned.contains("--jwt-secret-file"), "{planned}");
    }
}

#[test]
fn fields_without_an_effect_are_named() {
    let minimal = file("operator/tests/golden/minimal.yaml");
    let text = minimal.replace("  auth:", "  gateway: {maxConnectionAge: 1h}\n  redis: {replicas: 4}\n  auth:");
    let clusters = plan::read(&text, &images()).unwrap();
    assert_eq!(clusters[0].ineffective, ["spec.gateway.maxConnectionAge", "spec.redis.replicas"]);
    assert_eq!(plan::read(&minimal, &images()).unwrap()[0].ineffective, [""; 0]);
}

#[test]
fn a_missing_secret_is_told_by_the_field_that_names_it() {
    let document: Value = serde_yaml::from_str(&file("operator/tests/golden/minimal.yaml")).unwrap();
    let resource = serde_json::from_value(document).unwrap();
    let surroundings = Surroundings { missing_secrets: ["paper-jwt".to_owned()].into(), ..Surroundings::default() };
    let platform = collab_operator::validate::Platform::Kubernetes;
    let problems = collab_operator::validate::validate(&resource, &images(), platform, &surroundings).unwrap_err();
    let text = problems[0].to_string();
    assert_eq!(text, "spec.auth.jwt.secretRefs[0]: Secret paper-jwt does not exist: create it, or name another one");
}

#[test]
fn a_gateway_has_as_many_threads_as_cpus() {
    let threads = |resources: &Value, env: &Value| {
        let text = resource(&json!({"spec": {"gateway": {"resources": resources, "env": env}}})).to_string();
        let clusters = plan::read(&text, &images()).unwrap();
        let objects: Vec<Value> = serde_yaml::Deserializer::from_str(&plan::plan(&clusters[0]).unwrap())
            .map(|object| serde::Deserialize::deserialize(object).unwrap())
            .collect();
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
        let value = |name: &str| {
            let named: Vec<&Value> =
                env.as_array().unwrap().iter().filter(|variable| variable["name"] == name).collect();
            assert!(named.len() < 2, "{named:?}");
            named.first().map(|variable| variable["value"].as_str().unwrap().to_owned())
        };
        ["TOKIO_WORKER_THREADS", "MALLOC_ARENA_MAX"].map(|name| value(name).unwrap_or_default())
    };
    let nothing = json!([]);
    assert_eq!(threads(&json!({"requests": {"cpu": "1"}}), &nothing), ["1", "1"]);
    assert_eq!(threads(&json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "2500m"}}), &nothing), ["3", "3"]);
    assert_eq!(threads(&json!({"requests": {"memory": "1Gi"}}), &nothing), ["", ""], "whatever the node has");
    let said = json!([{"name": "TOKIO_WORKER_THREADS", "value": "6"}]);
    assert_eq!(threads(&json!({"requests": {"cpu": "1"}}), &said), ["6", "1"]);
}

fn golden(name: &str) {
    let clusters = plan::read(&file(&format!("operator/tests/golden/{name}.yaml")), &images()).unwrap();
    let planned = plan::plan(&clusters[0]).unwrap();
    let path = root().join(format!("operator/tests/golden/{name}.expected.yaml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &planned).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    similar_asserts::assert_eq!(expected: expected, planned: planned, "UPDATE_GOLDEN=1 accepts the difference");
}

fn images() -> Images {
    Images { gateway: "example/gateway:7".to_owned(), redis: "example/valkey:8".to_owned() }
}

fn accepts(change: &Value) {
    assert_eq!(collab_api::check(&resource(change), None), Ok(()), "{change}");
}

fn refuses(change: &Value, expected: &str) {
    let lines = collab_api::check(&resource(change), None).expect_err(expected).join("\n");
    assert!(lines.contains(expected), "{change}: expected {expected:?} in {lines}");
}

fn accepts_change(old: &Value, new: &Value) {
    assert_eq!(collab_api::check(&resource(new), Some(&resource(old))), Ok(()), "{old} -> {new}");
}

fn refuses_change(old: &Value, new: &Value, expected: &str) {
    let lines = collab_api::check(&resource(new), Some(&resource(old))).expect_err(expected).join("\n");
    assert!(lines.contains(expected), "{old} -> {new}: expected {expected:?} in {lines}");
}

fn refuses_file(text: &str, expected: &str) {
    let error = plan::read(text, &images()).expect_err(expected).to_string();
    assert!(error.contains(expected), "expected {expected:?} in {error}");
}

/// The minimal resource with some fields changed.
fn resource(change: &Value) -> Value {
    let mut resource: Value = serde_yaml::from_str(&file("operator/tests/golden/minimal.yaml")).unwrap();
    merge(&mut resource, change);
    resource
}

fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (name, value) in change {
                merge(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn file(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
