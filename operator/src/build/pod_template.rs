//! Merges a user's `podTemplate` into ours as server-side apply would: objects field by field, keyed lists entry by entry,
//! other lists and scalars replaced. Works on JSON, so fields newer than this operator pass through.

use collab_api::schema::PassThrough;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use crate::validate::Problem;

/// Keys of the lists in a pod template that server-side apply merges by entry.
const KEYED_LISTS: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("volumes", &["name"]),
    ("env", &["name"]),
    ("ports", &["containerPort", "protocol"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("imagePullSecrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("resourceClaims", &["name"]),
    ("schedulingGates", &["name"]),
];

/// Our template with the user's on top.
///
/// # Errors
/// When the result is no pod template; `field` is named in the problem.
pub fn merge(field: &str, ours: Value, users: &PassThrough) -> Result<Value, Vec<Problem>> {
    let mut merged = ours;
    merge_value("", &mut merged, &Value::Object(users.clone()));
    serde_json::from_value::<PodTemplateSpec>(merged.clone())
        .map(|_| merged)
        .map_err(|error| vec![Problem { field: field.to_owned(), message: format!("is not a pod template: {error}") }])
}

fn merge_value(name: &str, ours: &mut Value, users: &Value) {
    match (ours, users) {
        (Value::Object(ours), Value::Object(users)) => {
            for (name, value) in users {
                merge_value(name, ours.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(ours), Value::Array(users)) if keys_of(name).is_some() => {
            let keys = keys_of(name).unwrap_or_default();
            for entry in users {
                match ours.iter_mut().find(|one| same_entry(keys, one, entry)) {
                    Some(one) => merge_value("", one, entry),
                    None => ours.push(entry.clone()),
                }
            }
        }
        (ours, users) => *ours = users.clone(),
    }
}

fn keys_of(list: &str) -> Option<&'static [&'static str]> {
    KEYED_LISTS.iter().find(|(name, _)| *name == list).map(|(_, keys)| *keys)
}

/// A missing protocol is TCP, as in Kubernetes' own defaults.
fn same_entry(keys: &[&str], one: &Value, other: &Value) -> bool {
    let key_of = |value: &Value, key: &str| match (&value[key], key) {
        (Value::Null, "protocol") => Value::from("TCP"),
        (found, _) => found.clone(),
    };
    keys.iter().all(|key| key_of(one, key) == key_of(other, key))
}
