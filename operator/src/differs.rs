//! Whether a live object still is what was applied: every field that we set has our value. Fields that others or the API
//! server's defaults set do not matter. In: two JSON values. Out: the first path that differs.

use serde_json::Value;

use crate::quantity::thousandths;

/// Path of the first field of `desired` that `live` has otherwise, or `None`.
pub fn first_difference(desired: &Value, live: &Value) -> Option<String> {
    difference("", desired, live)
}

fn difference(path: &str, desired: &Value, live: &Value) -> Option<String> {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => desired.iter().find_map(|(name, value)| {
            let path = format!("{path}/{name}");
            match live.get(name) {
                Some(found) => difference(&path, value, found),
                None => (!is_empty(value)).then_some(path),
            }
        }),
        (Value::Array(desired), Value::Array(live)) => {
            let entries = desired.iter().enumerate();
            let first = entries.map(|(index, entry)| (index, entry, counterpart(index, entry, live)));
            first.into_iter().find_map(|(index, entry, found)| {
                let path = format!("{path}/{index}");
                match found {
                    Some(found) => difference(&path, entry, found),
                    None => Some(path),
                }
            })
        }
        _ => (!same_scalar(desired, live)).then(|| path.to_owned()),
    }
}

/// Entries with a name may stand at another place among those that others added.
fn counterpart<'a>(index: usize, entry: &Value, live: &'a [Value]) -> Option<&'a Value> {
    let by = |key: &str| entry.get(key).and_then(|name| live.iter().find(|one| one.get(key) == Some(name)));
    by("name").or_else(|| by("mountPath")).or_else(|| live.get(index))
}

/// The API server leaves out what is empty or false by default.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The API server writes quantities its own way (`1000m` becomes `1`).
fn same_scalar(desired: &Value, live: &Value) -> bool {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    desired == live
        || (thousandths(&text(desired)).is_some() && thousandths(&text(desired)) == thousandths(&text(live)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_other_peoples_fields_are_no_difference() {
        let desired = json!({"spec": {"replicas": 2, "cpu": "1000m", "volumes": [{"name": "b", "x": 1}], "env": []}});
        let live = json!({"spec": {"replicas": 2, "cpu": "1", "more": true, "volumes": [{"name": "a"}, {"name": "b", "x": 1}]}});
        assert_eq!(first_difference(&desired, &live), None);
    }

    #[test]
    fn a_changed_and_a_missing_field_are_found() {
        let desired = json!({"spec": {"replicas": 2, "volumes": [{"name": "b", "x": 1}]}});
        let changed = json!({"spec": {"replicas": 3, "volumes": [{"name": "b", "x": 1}]}});
        assert_eq!(first_difference(&desired, &changed).as_deref(), Some("/spec/replicas"));
        let missing = json!({"spec": {"replicas": 2, "volumes": []}});
        assert_eq!(first_difference(&desired, &missing).as_deref(), Some("/spec/volumes/0"));
    }
}
