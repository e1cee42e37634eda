//! A change that leads from one document to another.
//!
//! In: two documents. Out: a change; not the smallest one, but one that keeps a common beginning and end. What a client
//! shows after a join by content must not depend on how good this is.

use ot::{Attributes, Delta, Op};
use serde_json::Value;

#[derive(Clone, PartialEq)]
enum Unit {
    Character(char),
    Embed(Value),
}

type Place = (Unit, Option<Box<Attributes>>);

/// The change from `from` to `to`.
pub fn diff(from: &Delta, to: &Delta) -> Delta {
    let (from, to) = (places(from), places(to));
    let start = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let (before, from) = from.split_at(start);
    let (_, to) = to.split_at(start);
    let end = from.iter().rev().zip(to.iter().rev()).take_while(|(a, b)| a == b).count();
    let mut out = Delta::new().retain(length(before), None);
    for (unit, attributes) in to.iter().take(to.len() - end) {
        out.push(match unit {
            Unit::Character(character) => Op::Insert { text: character.to_string(), attributes: attributes.clone() },
            Unit::Embed(value) => Op::Embed { value: value.clone(), attributes: attributes.clone() },
        });
    }
    out.delete(length(from.get(..from.len() - end).unwrap_or_default())).chop()
}

fn length(places: &[Place]) -> usize {
    places
        .iter()
        .map(|(unit, _)| match unit {
            Unit::Character(character) => character.len_utf16(),
            Unit::Embed(_) => 1,
        })
        .sum()
}

fn places(document: &Delta) -> Vec<Place> {
    let mut out = Vec::new();
    for op in document.ops() {
        match op {
            Op::Insert { text, attributes } => {
                out.extend(text.chars().map(|character| (Unit::Character(character), attributes.clone())));
            }
            Op::Embed { value, attributes } => out.push((Unit::Embed(value.clone()), attributes.clone())),
            Op::Retain { .. } | Op::Delete { .. } => {}
        }
    }
    out
}
