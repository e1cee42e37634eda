//! Formatting of inserts and retains.
//!
//! In: the attribute maps of two components. Out: the map of the component that comes of them, with the meaning that
//! quill-delta's `AttributeMap` gives: `null` removes an attribute, no map and an empty map are the same.

use serde_json::{Map, Value};

/// Formatting of an insert or a retain. `null` removes an attribute.
pub type Attributes = Map<String, Value>;

/// A map as components hold it: absent when empty, boxed because most components have none.
pub(crate) type Held = Option<Box<Attributes>>;

/// `a`, then `b`. `keep_null`: over a retain a removal must be remembered, over an insert it has been carried out.
pub(crate) fn compose(a: Option<&Attributes>, b: Option<&Attributes>, keep_null: bool) -> Held {
    let (a, b) = match (a, b) {
        (None, None) => return None,
        (Some(a), None) => return held(a.clone()),
        (None, Some(b)) if keep_null => return held(b.clone()),
        (a, Some(b)) => (a, b),
    };
    let mut out: Attributes =
        b.iter().filter(|(_, value)| keep_null || !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (key, value) in a.into_iter().flatten() {
        if !b.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
    held(out)
}

/// What is left of `b` after `a`: everything, or, where `a` wins, the keys that `a` does not set.
pub(crate) fn transform(a: Option<&Attributes>, b: Option<&Attributes>, a_wins: bool) -> Held {
    let b = b?;
    match a {
        Some(a) if a_wins => {
            held(b.iter().filter(|(key, _)| !a.contains_key(*key)).map(|(k, v)| (k.clone(), v.clone())).collect())
        }
        _ => held(b.clone()),
    }
}

/// What makes `to` of `from`: the keys that differ, `null` for those that are gone.
pub(crate) fn diff(from: Option<&Attributes>, to: Option<&Attributes>) -> Held {
    if from == to {
        return None;
    }
    let old = |key: &String| from.and_then(|from| from.get(key));
    let changed = to.into_iter().flatten().filter(|(key, value)| old(key) != Some(value));
    let gone = from.into_iter().flatten().filter(|(key, _)| !to.is_some_and(|to| to.contains_key(*key)));
    held(
        changed
            .map(|(key, value)| (key.clone(), value.clone()))
            .chain(gone.map(|(key, _)| (key.clone(), serde_json::Value::Null)))
            .collect(),
    )
}

/// What undoes `change` on something that had `base`.
pub(crate) fn invert(change: &Attributes, base: Option<&Attributes>) -> Held {
    let mut out = Attributes::new();
    for (key, value) in change {
        match base.and_then(|base| base.get(key)) {
            // Objects and arrays are never "the same" in JavaScript, so the oracle restores them every time.
            Some(old) if old == value && !old.is_object() && !old.is_array() => {}
            Some(old) => {
                out.insert(key.clone(), old.clone());
            }
            None => {
                out.insert(key.clone(), Value::Null);
            }
        }
    }
    held(out)
}

/// The held form: none for an empty map.
pub(crate) fn held(map: Attributes) -> Held {
    (!map.is_empty()).then(|| Box::new(map))
}
