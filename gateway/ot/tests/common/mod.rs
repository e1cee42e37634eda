//! Random documents and changes, from a seed.
//!
//! In: a seed. Out: documents with words, pairs of surrogates, embeds and formatting, and changes that fit them.

#![allow(dead_code, reason = "each test file uses its part")]

use ot::{Attributes, Delta, Op};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// Whether inserts may carry `null` attributes. They mean nothing, but quill-delta keeps them, and so does this crate;
/// no inverse can bring them back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nulls {
    OnRetainsOnly,
    OnInsertsToo,
}

/// The seed of this run: `OT_SEED`, or a fixed one; printed so that a failure can be repeated.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("OT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_901);
    println!("OT_SEED={seed}");
    seed
}

pub(crate) fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub(crate) fn text(random: &mut StdRng, most: usize) -> String {
    let alphabet = ['a', 'b', 'é', '用', '😀', '\n'];
    (0..random.random_range(1..=most)).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect()
}

pub(crate) fn attributes(random: &mut StdRng, with_null: bool) -> Option<Attributes> {
    if random.random_bool(0.5) {
        return None;
    }
    let mut map = serde_json::Map::new();
    for name in ["bold", "color", "list"] {
        match random.random_range(0..6) {
            0 => map.insert(name.to_owned(), json!(true)),
            1 => map.insert(name.to_owned(), json!("red")),
            2 => map.insert(name.to_owned(), json!({ "nested": [1, 2] })),
            3 if with_null => map.insert(name.to_owned(), json!(null)),
            _ => None,
        };
    }
    Some(map.into())
}

fn push_insert(random: &mut StdRng, delta: Delta, nulls: Nulls) -> Delta {
    let attributes = attributes(random, nulls == Nulls::OnInsertsToo);
    if random.random_bool(0.2) {
        delta.embed(json!({ "image": random.random_range(0..3) }), attributes)
    } else {
        let words = text(random, 4);
        delta.insert(&words, attributes)
    }
}

pub(crate) fn document(random: &mut StdRng, most: usize) -> Delta {
    document_with(random, most, Nulls::OnRetainsOnly)
}

pub(crate) fn document_with(random: &mut StdRng, most: usize, nulls: Nulls) -> Delta {
    let inserts = random.random_range(0..=most);
    document_of(random, inserts, nulls)
}

/// A document of so many inserts, some of which become one.
pub(crate) fn document_of(random: &mut StdRng, inserts: usize, nulls: Nulls) -> Delta {
    (0..inserts).fold(Delta::new(), |delta, _| push_insert(random, delta, nulls))
}

/// A change that fits the document.
pub(crate) fn change(random: &mut StdRng, document: &Delta) -> Delta {
    change_with(random, document, Nulls::OnRetainsOnly)
}

pub(crate) fn change_with(random: &mut StdRng, document: &Delta, nulls: Nulls) -> Delta {
    let places = places(document);
    let mut delta = Delta::new();
    let mut at = 0;
    loop {
        if random.random_bool(0.4) {
            delta = push_insert(random, delta, nulls);
        }
        if at + 1 >= places.len() || random.random_bool(0.2) {
            return delta.chop();
        }
        let to = (at + random.random_range(1..=4)).min(places.len() - 1);
        let length = places[to] - places[at];
        at = to;
        delta = match random.random_range(0..4) {
            0 => delta.delete(length),
            1 => delta.retain(length, attributes(random, true)),
            _ => delta.retain(length, None),
        };
    }
}

/// The places between whole characters, both ends included.
pub(crate) fn places(document: &Delta) -> Vec<usize> {
    let mut at = 0;
    let mut out = vec![0];
    for op in document.ops() {
        match op {
            Op::Insert { text, .. } => {
                for character in text.chars() {
                    at += character.len_utf16();
                    out.push(at);
                }
            }
            Op::Embed { .. } | Op::Retain { .. } | Op::Delete { .. } => {
                at += op.length();
                out.push(at);
            }
        }
    }
    out
}

/// A delta as quill-delta writes it.
pub(crate) fn json(delta: &Delta) -> String {
    let ops = delta.ops().iter().map(|op| {
        let said = match op {
            Op::Insert { text, .. } => json!({ "insert": text }),
            Op::Embed { value, .. } => json!({ "insert": value }),
            Op::Retain { length, .. } => json!({ "retain": length }),
            Op::Delete { length } => json!({ "delete": length }),
        };
        match (said, op.attributes()) {
            (Value::Object(mut said), Some(attributes)) => {
                said.insert(
                    "attributes".to_owned(),
                    attributes.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect(),
                );
                Value::Object(said)
            }
            (said, _) => said,
        }
    });
    Value::Array(ops.collect()).to_string()
}

/// Reads what quill-delta wrote, which must be in normal form by our rule too.
pub(crate) fn delta_from_json(json: &Value) -> Delta {
    let ops = json.as_array().expect("a list").iter().map(op_from_json).collect();
    Delta::from_normal(ops).unwrap_or_else(|invalid| panic!("{invalid}: {json}"))
}

fn op_from_json(json: &Value) -> Op {
    let attributes: Option<Attributes> =
        json.get("attributes").map(|map| map.as_object().expect("a map").clone().into());
    match (json.get("insert"), json.get("retain"), json.get("delete")) {
        (Some(Value::String(text)), None, None) => Op::Insert { text: text.clone(), attributes },
        (Some(value), None, None) => Op::Embed { value: value.clone(), attributes },
        (None, Some(length), None) => Op::Retain { length: number(length), attributes },
        (None, None, Some(length)) => Op::Delete { length: number(length) },
        _ => panic!("{json}"),
    }
}

pub(crate) fn number(json: &Value) -> usize {
    json.as_u64().expect("a length") as usize
}
