//! What edits and documents take in memory: formatting takes many times what it takes as JSON.
//!
//! In: components and pieces. Out: bytes, about; what the allocator rounds up is part of the numbers here.

use std::mem::size_of;

use serde_json::{Map, Value};

use crate::{Attributes, Delta, Op, delta::value_weight_bytes};

/// What the allocator adds to each of its blocks.
const BLOCK_BYTES: usize = 16;
/// A node of the standard library's ordered map: eleven keys and values, whether they are there or not.
const NODE_ENTRIES: usize = 11;
const NODE_BYTES: usize = NODE_ENTRIES * (size_of::<String>() + size_of::<Value>()) + BLOCK_BYTES;

impl Delta {
    /// About how many bytes it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        let ops = self.ops.capacity() * size_of::<Op>() + BLOCK_BYTES;
        let mut formatting = Formatting::default();
        ops + self.ops.iter().map(|op| beside_op(op) + formatting.memory_bytes(op.attributes())).sum::<usize>()
    }
}

/// What the content of a component has outside of itself.
fn beside_op(op: &Op) -> usize {
    match op {
        Op::Insert { text, .. } => text.capacity() + BLOCK_BYTES,
        Op::Embed { value, .. } => beside_value(value),
        Op::Retain { .. } | Op::Delete { .. } => 0,
    }
}

/// The formatting of neighbours, counted once where they share it.
#[derive(Debug, Default)]
pub(crate) struct Formatting<'a> {
    last: Option<&'a Attributes>,
}

impl<'a> Formatting<'a> {
    /// What the next one takes.
    pub(crate) fn memory_bytes(&mut self, next: Option<&'a Attributes>) -> usize {
        // The list, which has a pointer for each attribute, and these with their names.
        const EACH_BYTES: usize = size_of::<usize>() + size_of::<(usize, String, Value)>() + 2 * BLOCK_BYTES;
        let Some(next) = next else { return 0 };
        if self.last.replace(next).is_some_and(|last| last.is_shared_with(next)) {
            return 0;
        }
        let attributes = next.iter().map(|(name, value)| EACH_BYTES + name.len() + beside_value(value));
        2 * BLOCK_BYTES + attributes.sum::<usize>()
    }
}

/// What a value has outside of itself.
pub(crate) fn beside_value(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 0,
        // With many digits it is kept as text.
        Value::Number(_) => value_weight_bytes(value),
        Value::String(text) => text.capacity() + BLOCK_BYTES,
        Value::Array(values) => {
            values.capacity() * size_of::<Value>() + BLOCK_BYTES + values.iter().map(beside_value).sum::<usize>()
        }
        Value::Object(map) => beside_map(map),
    }
}

fn beside_map(map: &Map<String, Value>) -> usize {
    let nodes = map.len().div_ceil(NODE_ENTRIES) * NODE_BYTES;
    nodes + map.iter().map(|(key, value)| key.capacity() + BLOCK_BYTES + beside_value(value)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Rope;

    #[test]
    fn plain_text_takes_little_more_than_its_length() {
        let rope = Rope::from_delta(&Delta::new().insert(&"x".repeat(1 << 20), None)).expect("a document");
        let memory = rope.memory_bytes();
        assert!((1 << 20..1_400_000).contains(&memory), "{memory}");
    }

    #[test]
    fn formatting_that_neighbours_share_is_counted_once() {
        let long = json!({"comment": "x".repeat(4000)}).as_object().cloned().map(Attributes::from);
        let mut rope = Rope::from_delta(&Delta::new().insert(&"x".repeat(100), long)).expect("a document");
        let before = rope.memory_bytes();
        for at in (1..100).rev() {
            rope.apply(&Delta::new().retain(at, None).insert("-", None)).expect("it fits");
        }
        assert!(
            rope.bytes() > 100 * 4000 && rope.memory_bytes() < 20 * before,
            "{} of {}",
            rope.memory_bytes(),
            rope.bytes()
        );
    }

    #[test]
    fn formatting_takes_many_times_what_it_takes_as_json() {
        let attributes =
            |number: usize| json!({"color": format!("#{number:06x}")}).as_object().cloned().map(Attributes::from);
        let mut delta = Delta::new();
        for number in 0..10_000 {
            delta.push(Op::Insert { text: "x".into(), attributes: attributes(number) });
        }
        let rope = Rope::from_delta(&delta).expect("a document");
        assert!(rope.memory_bytes() > 4 * rope.bytes(), "{} of {}", rope.memory_bytes(), rope.bytes());
        assert!(delta.memory_bytes() > 4 * delta.weight_bytes(), "{}", delta.memory_bytes());
    }
}
