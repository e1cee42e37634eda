//! Formatting of inserts and retains.
//!
//! In: names and values; the formattings of two components. Out: the formatting of the component that comes of them,
//! with the meaning that quill-delta's `AttributeMap` gives: `null` removes an attribute, none and empty are the same.
//!
//! One formatting comes to stand in any number of places: whatever splits text repeats that of the text, and a retain
//! that is carried over inserts is repeated between them. So it is shared, and each attribute is shared by the formattings
//! that are made of others: a repetition costs a pointer, a combination a pointer for each attribute.

use std::{cmp::Ordering, fmt, sync::Arc};

use serde_json::{Map, Number, Value};

use crate::delta::{escape_bytes, text_escape_bytes, value_weight_bytes};

/// Formatting of an insert or a retain. `null` removes an attribute. A clone shares everything; numbers are in one form
/// (`1.0` is `1`, as in JavaScript).
#[derive(Clone, PartialEq, Eq)]
pub struct Attributes(Arc<Shared>);

/// A formatting as components hold it: absent when empty.
pub(crate) type Held = Option<Attributes>;

#[derive(PartialEq, Eq)]
struct Shared {
    weight_bytes: usize,
    /// Sorted by name, each name once.
    list: Box<[Arc<Attribute>]>,
}

#[derive(PartialEq, Eq)]
struct Attribute {
    weight_bytes: usize,
    name: String,
    value: Value,
}

impl Attributes {
    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.list().iter().map(|attribute| (attribute.name.as_str(), &attribute.value))
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let index = self.list().binary_search_by(|attribute| attribute.name.as_str().cmp(name)).ok()?;
        self.list().get(index).map(|attribute| &attribute.value)
    }

    /// Whether there are none, which is the same as no formatting.
    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// Whether both are one in memory.
    pub fn is_shared_with(&self, other: &Attributes) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Bytes that it takes in JSON.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.0.weight_bytes
    }

    fn list(&self) -> &[Arc<Attribute>] {
        &self.0.list
    }

    fn of(list: Vec<Arc<Attribute>>) -> Self {
        // `"attributes":{}`
        const FRAME_BYTES: usize = 15;
        let weight_bytes = FRAME_BYTES + list.iter().map(|attribute| attribute.weight_bytes).sum::<usize>();
        Self(Arc::new(Shared { weight_bytes, list: list.into() }))
    }
}

impl FromIterator<(String, Value)> for Attributes {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(pairs: T) -> Self {
        Self::from(pairs.into_iter().collect::<Map<String, Value>>())
    }
}

impl From<Map<String, Value>> for Attributes {
    fn from(map: Map<String, Value>) -> Self {
        let mut list: Vec<_> = map.into_iter().map(|(name, value)| Arc::new(Attribute::new(name, value))).collect();
        // Maps are sorted, unless a feature of serde_json is on.
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Self::of(list)
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

impl Attribute {
    fn new(name: String, mut value: Value) -> Self {
        unify_numbers(&mut value);
        // It may be written any number of times, so escapes count, and the quotes, colon and comma.
        let escapes = text_escape_bytes(&name) + escape_bytes(&value);
        Self { weight_bytes: name.len() + 4 + value_weight_bytes(&value) + escapes, name, value }
    }
}

/// `a`, then `b`. `keep_null`: over a retain a removal must be remembered, over an insert it has been carried out.
pub(crate) fn compose(a: Option<&Attributes>, b: Option<&Attributes>, keep_null: bool) -> Held {
    let is_kept = |attribute: &Arc<Attribute>| keep_null || !attribute.value.is_null();
    let (a, b) = match (a, b) {
        (a, None) => return a.cloned(),
        (None, Some(b)) if b.list().iter().all(is_kept) => return Some(b.clone()),
        (a, Some(b)) => (a.map_or(&[][..], Attributes::list), b.list()),
    };
    let mut list = Vec::with_capacity(a.len() + b.len());
    list.extend(
        beside(a, b)
            .map(|side| match side {
                Beside::One(old) => (old, true),
                Beside::Other(new) | Beside::Both(_, new) => (new, is_kept(new)),
            })
            .filter(|(_, is_kept)| *is_kept)
            .map(|(attribute, _)| attribute.clone()),
    );
    held(Attributes::of(list))
}

/// What is left of `b` after `a`: everything, or, where `a` wins, the names that `a` does not set.
pub(crate) fn transform(a: Option<&Attributes>, b: &Attributes, a_wins: bool) -> Held {
    match a {
        Some(a) if a_wins => {
            let left: Vec<_> = beside(a.list(), b.list())
                .filter_map(|side| if let Beside::Other(left) = side { Some(left.clone()) } else { None })
                .collect();
            if left.len() == b.list().len() { Some(b.clone()) } else { held(Attributes::of(left)) }
        }
        _ => Some(b.clone()),
    }
}

/// What makes `to` of `from`: the names that differ, `null` for those that are gone.
pub(crate) fn diff(from: Option<&Attributes>, to: Option<&Attributes>) -> Held {
    if from == to {
        return None;
    }
    let (from, to) = (from.map_or(&[][..], Attributes::list), to.map_or(&[][..], Attributes::list));
    let changed = beside(from, to).filter_map(|side| match side {
        Beside::One(gone) => Some(null(gone)),
        Beside::Other(new) => Some(new.clone()),
        Beside::Both(old, new) => (old != new).then(|| new.clone()),
    });
    held(Attributes::of(changed.collect()))
}

/// What undoes `change` on something that had `base`.
pub(crate) fn invert(change: &Attributes, base: Option<&Attributes>) -> Held {
    let base = base.map_or(&[][..], Attributes::list);
    let undone = beside(base, change.list()).filter_map(|side| match side {
        Beside::One(_) => None,
        Beside::Other(new) => Some(null(new)),
        // Objects and arrays are never "the same" in JavaScript, so the oracle restores them every time.
        Beside::Both(old, new) => (old != new || old.value.is_object() || old.value.is_array()).then(|| old.clone()),
    });
    held(Attributes::of(undone.collect()))
}

/// The held form: none where there are no attributes.
pub(crate) fn held(attributes: Attributes) -> Held {
    (!attributes.is_empty()).then_some(attributes)
}

fn null(attribute: &Attribute) -> Arc<Attribute> {
    Arc::new(Attribute::new(attribute.name.clone(), Value::Null))
}

/// A name of two sorted lists.
enum Beside<'a> {
    One(&'a Arc<Attribute>),
    Other(&'a Arc<Attribute>),
    Both(&'a Arc<Attribute>, &'a Arc<Attribute>),
}

fn beside<'a>(one: &'a [Arc<Attribute>], other: &'a [Arc<Attribute>]) -> impl Iterator<Item = Beside<'a>> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (one.peek(), other.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.name.cmp(&b.name),
        };
        match order {
            Ordering::Less => one.next().map(Beside::One),
            Ordering::Greater => other.next().map(Beside::Other),
            Ordering::Equal => one.next().zip(other.next()).map(|(a, b)| Beside::Both(a, b)),
        }
    })
}

/// JavaScript has one kind of number; equality of attributes must not depend on how one was written.
pub(crate) fn unify_numbers(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_991.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= EXACT) {
                // Exact by the bound above.
                *number = Number::from(float as i64);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(unify_numbers),
        Value::Object(map) => map.values_mut().for_each(unify_numbers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
