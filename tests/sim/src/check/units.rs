//! Where every unit of the document and every attribute of it comes from.
//!
//! In: the canonical forms. Out: whether the document is what they inserted and formatted and did not delete, by a model
//! that knows units alone. A token that no logged delete has touched is in the document, once and whole; an attribute is
//! there until another entry sets or removes it.

use std::collections::BTreeMap;

use ot::{Attributes, Delta, Op};
use serde_json::Value;

use super::fold::Folded;
use crate::{client::Broken, world::World};

#[derive(Debug, Clone, PartialEq)]
struct Unit {
    unit: u16,
    attributes: BTreeMap<String, Value>,
}

pub(super) fn check(world: &World, folded: &Folded) -> Result<(), Broken> {
    // Each unit with the version that it came with.
    let mut units: Vec<(Unit, usize)> = of(&world.store_root()).map(|unit| (unit, 0)).collect();
    let mut touched = vec![false; folded.canonical.len() + 1];
    for (index, ops) in folded.canonical.iter().enumerate() {
        let mut at = 0;
        for op in ops.ops() {
            match op {
                Op::Retain { length, .. } => {
                    let end = (at + length).min(units.len());
                    units[at.min(end)..end].iter_mut().for_each(|(unit, _)| unit.format(op));
                    at = end;
                }
                Op::Delete { length } => {
                    let end = (at + length).min(units.len());
                    units.drain(at.min(end)..end).for_each(|(_, from)| touched[from] = true);
                }
                Op::Insert { .. } | Op::Embed { .. } => {
                    let new: Vec<_> = of_op(op).map(|unit| (unit, index + 1)).collect();
                    let length = new.len();
                    units.splice(at..at, new);
                    at += length;
                }
            }
        }
    }
    if units.iter().map(|(unit, _)| unit.clone()).ne(of(&folded.newest())) {
        return Err(Broken(
            "units and their formats as the entries made them are not those of the document".to_owned(),
        ));
    }
    for (index, kept) in world.store.all.iter().enumerate() {
        let inserted = kept.payload.ops.ops().iter().flat_map(of_op).map(|unit| unit.unit);
        let left = units.iter().filter(|(_, from)| *from == index + 1).map(|(unit, _)| unit.unit);
        if !touched[index + 1] && left.ne(inserted) {
            return Err(Broken(format!("what version {} inserted is not whole, though nobody deleted it", index + 1)));
        }
    }
    Ok(())
}

impl Unit {
    fn format(&mut self, op: &Op) {
        for (name, value) in op.attributes().into_iter().flat_map(Attributes::iter) {
            if value.is_null() {
                self.attributes.remove(name);
            } else {
                self.attributes.insert(name.to_owned(), value.clone());
            }
        }
    }
}

fn of(document: &Delta) -> impl Iterator<Item = Unit> {
    document.ops().iter().flat_map(of_op)
}

fn of_op(op: &Op) -> impl Iterator<Item = Unit> {
    let units: Vec<u16> = match op {
        Op::Insert { text, .. } => text.encode_utf16().collect(),
        Op::Embed { .. } => vec![0xFFFC],
        Op::Retain { .. } | Op::Delete { .. } => Vec::new(),
    };
    units.into_iter().map(move |unit| {
        let mut unit = Unit { unit, attributes: BTreeMap::new() };
        unit.format(op);
        unit
    })
}
