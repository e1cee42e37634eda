//! What users type.
//!
//! In: what a client shows. Out: a change to it: words, deletions, replacements, formatting and embeds, at places between
//! whole characters. What is inserted, and every formatting, carries a token that no other edit has.

use ot::{Attributes, Delta, Op};
use serde_json::json;

use crate::random::Random;

/// The attribute whose value is the token of an edit that formats; everybody who may format at all may set it.
const TOKEN_ATTRIBUTE: &str = "comment-token";

/// The text that carries a token.
pub fn token_text(token: u32) -> String {
    format!("<{token}>")
}

/// A change to `shown`.
pub fn edit(random: &mut Random, shown: &Delta, token: u32) -> Delta {
    let places = places(shown);
    let at = random.below(places.len());
    let more = places.len() - 1 - at;
    let index = places.get(at).copied().unwrap_or(0);
    let span = |random: &mut Random| {
        let last = at + 1 + random.below(more.min(4));
        places.get(last).map_or(0, |end| end - index)
    };
    let start = Delta::new().retain(index, None);
    match random.below(10) {
        0..2 if more > 0 => {
            let length = span(random);
            start.delete(length)
        }
        2 if more > 0 => {
            let length = span(random);
            let drawn = attributes(random);
            let drawn = drawn.iter().flat_map(Attributes::iter).map(|(name, value)| (name.to_owned(), value.clone()));
            let token = (TOKEN_ATTRIBUTE.to_owned(), json!(token_text(token)));
            start.retain(length, Some(drawn.chain([token]).collect()))
        }
        3 if more > 0 => {
            let length = span(random);
            start.insert(&token_text(token), None).delete(length)
        }
        4 => start.embed(json!({ "image": token_text(token) }), None),
        5 => start.insert(
            &format!("{}😀", token_text(token)),
            attributes(random).filter(|map| !map.iter().any(|(_, value)| value.is_null())),
        ),
        _ => start.insert(&token_text(token), None),
    }
}

/// How often a token stands in what an edit inserts.
pub fn count_token(ops: &Delta, token: u32) -> usize {
    tokens_of(ops).filter(|found| *found == token).count()
}

/// The tokens in what an edit inserts, as often as they are in it.
pub fn tokens_of(ops: &Delta) -> impl Iterator<Item = u32> {
    ops.ops().iter().flat_map(|op| {
        let text = match op {
            Op::Insert { text, .. } => text.as_str(),
            Op::Embed { value, .. } => value.get("image").and_then(serde_json::Value::as_str).unwrap_or_default(),
            Op::Retain { .. } | Op::Delete { .. } => "",
        };
        tokens_in(text)
    })
}

/// The tokens of an edit, inserted or set.
pub(crate) fn marks_of(ops: &Delta) -> impl Iterator<Item = u32> {
    let set = ops.ops().iter().filter(|op| matches!(op, Op::Retain { .. })).flat_map(|op| {
        let value = op.attributes().and_then(|attributes| attributes.get(TOKEN_ATTRIBUTE));
        tokens_in(value.and_then(serde_json::Value::as_str).unwrap_or_default())
    });
    tokens_of(ops).chain(set)
}

fn tokens_in(text: &str) -> impl Iterator<Item = u32> {
    text.split('<').skip(1).filter_map(|rest| rest.split_once('>')?.0.parse().ok())
}

fn attributes(random: &mut Random) -> Option<Attributes> {
    let name = ["bold", "color", "comment-1"][random.below(3)];
    let value = [json!(true), json!("red"), json!(null)][random.below(3)].clone();
    Some([(name.to_owned(), value)].into_iter().collect())
}

/// The places between characters, in UTF-16 units, the end included.
fn places(document: &Delta) -> Vec<usize> {
    let mut index = 0;
    let mut out = vec![0];
    for op in document.ops() {
        match op {
            Op::Insert { text, .. } => out.extend(text.chars().map(|character| {
                index += character.len_utf16();
                index
            })),
            Op::Embed { .. } | Op::Retain { .. } | Op::Delete { .. } => {
                index += op.length();
                out.push(index);
            }
        }
    }
    out
}
