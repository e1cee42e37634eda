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
        ops + self.ops.iter().map(beside_op).sum::<usize>()
    }
}

/// What a component has outside of itself.
fn beside_op(op: &Op) -> usize {
    let content = match op {
        Op::Insert { text, .. } => text.capacity() + BLOCK_BYTES,
        Op::Embed { value, .. } => beside_value(value),
        Op::Retain { .. } | Op::Delete { .. } => 0,
    };
    content + op.attributes().map_or(0, attributes_memory_bytes)
}

/// A formatting, counted at each place that it stands at although copies share it: most have one.
pub(crate) fn attributes_memory_bytes(attributes: &Attributes) -> usize {
    // The list, which has a pointer for each attribute, and these with their names.
    const EACH_BYTES: usize = size_of::<usize>() + size_of::<(usize, String, Value)>() + 2 * BLOCK_BYTES;
    let attributes = attributes.iter().map(|(name, value)| EACH_BYTES + name.len() + beside_value(value));
    2 * BLOCK_BYTES + attributes.sum::<usize>()
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
