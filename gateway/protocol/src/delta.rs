//! Quill Deltas as JSON: an array of components.
//!
//! In: JSON text of a client or of the store. Out: a [`Delta`] in normal form, or a sentence that says which component
//! is wrong and what to write instead. Nothing is repaired: two sides that repair differently would part ways.

use std::{borrow::Cow, fmt};

use ot::{Attributes, Delta, Invalid, MAX_COMPONENTS, Op};
use serde::{
    Serialize, Serializer,
    de::{Deserializer, IgnoredAny, MapAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::{Value, value::RawValue};

/// Attribute names that JavaScript objects have by birth: quill-delta takes them for set ones and loses them.
const BORN_NAMES: [&str; 12] = [
    "__proto__",
    "__defineGetter__",
    "__defineSetter__",
    "__lookupGetter__",
    "__lookupSetter__",
    "constructor",
    "hasOwnProperty",
    "isPrototypeOf",
    "propertyIsEnumerable",
    "toLocaleString",
    "toString",
    "valueOf",
];

/// A client's `ops`.
///
/// # Errors
/// What is wrong, with the index of the component.
pub fn parse(json: &str) -> Result<Delta, String> {
    let ops = components(json, MAX_COMPONENTS)?;
    Delta::from_normal(ops.clone()).map_err(|invalid| locate(&ops, invalid))
}

/// A Delta of the store, whose limits were checked before it was written.
///
/// # Errors
/// What is wrong: such an entry is damaged.
pub fn decode(json: &str) -> Result<Delta, String> {
    let ops = components(json, usize::MAX)?;
    Delta::from_stored(ops).map_err(|invalid| invalid.to_string())
}

/// Serialises a Delta as clients and the store know it.
#[derive(Debug, Clone, Copy)]
pub struct DeltaJson<'a>(pub &'a Delta);

impl Serialize for DeltaJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.ops().len()))?;
        for op in self.0.ops() {
            list.serialize_element(&OpJson(op))?;
        }
        list.end()
    }
}

struct OpJson<'a>(&'a Op);

impl Serialize for OpJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let attributes = self.0.attributes();
        let mut map = serializer.serialize_map(Some(1 + usize::from(attributes.is_some())))?;
        match self.0 {
            Op::Insert { text, .. } => map.serialize_entry("insert", text)?,
            Op::Embed { value, .. } => map.serialize_entry("insert", value)?,
            Op::Retain { length, .. } => map.serialize_entry("retain", length)?,
            Op::Delete { length } => map.serialize_entry("delete", length)?,
        }
        if let Some(attributes) = attributes {
            map.serialize_entry("attributes", &AttributesJson(attributes))?;
        }
        map.end()
    }
}

struct AttributesJson<'a>(&'a Attributes);

impl Serialize for AttributesJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

fn components(json: &str, most: usize) -> Result<Vec<Op>, String> {
    let raw: Vec<&RawValue> =
        serde_json::from_str(json).map_err(|_| "ops must be an array of Delta components".to_owned())?;
    if raw.len() > most {
        return Err(format!("ops has {} components; at most {most} are allowed", raw.len()));
    }
    raw.into_iter()
        .enumerate()
        .map(|(index, raw)| component(raw.get()).map_err(|what| format!("ops[{index}]: {what}")))
        .collect()
}

/// The keys of one component, before it is known which of them belong together.
#[derive(Default)]
struct Keys<'a> {
    insert: Option<&'a RawValue>,
    retain: Option<&'a RawValue>,
    delete: Option<&'a RawValue>,
    attributes: Option<&'a RawValue>,
    unknown: Option<String>,
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a Delta component")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys<'de>, A::Error> {
        let mut keys = Keys::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "insert" => keys.insert = Some(map.next_value()?),
                "retain" => keys.retain = Some(map.next_value()?),
                "delete" => keys.delete = Some(map.next_value()?),
                "attributes" => keys.attributes = Some(map.next_value()?),
                other => {
                    keys.unknown = Some(other.chars().take(40).collect());
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(keys)
    }
}

fn component(json: &str) -> Result<Op, String> {
    const KINDS: &str = "a component is {insert}, {retain} or {delete}, with attributes where it formats";
    let keys = serde_json::Deserializer::from_str(json).deserialize_map(KeysVisitor).map_err(|_| KINDS.to_owned())?;
    if let Some(unknown) = keys.unknown {
        return Err(format!("unknown key {unknown:?}; {KINDS}"));
    }
    let attributes = keys.attributes.map(attributes).transpose()?;
    match (keys.insert, keys.retain, keys.delete) {
        (Some(insert), None, None) => inserted(insert.get(), attributes),
        (None, Some(retain), None) => Ok(Op::Retain { length: length("retain", retain.get())?, attributes }),
        (None, None, Some(delete)) if attributes.is_none() => {
            Ok(Op::Delete { length: length("delete", delete.get())? })
        }
        (None, None, Some(_)) => Err("a delete has no attributes".to_owned()),
        _ => Err(KINDS.to_owned()),
    }
}

fn inserted(json: &str, attributes: Option<Attributes>) -> Result<Op, String> {
    match json.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<String>(json) {
            Ok(text) if text.is_empty() => Err("insert must not be empty".to_owned()),
            Ok(text) => Ok(Op::Insert { text, attributes }),
            Err(error) => Err(broken_text(&error)),
        },
        Some(b'{') => Ok(Op::Embed { value: value(json)?, attributes }),
        _ => Err("insert must be text or an embed object".to_owned()),
    }
}

fn length(name: &str, json: &str) -> Result<usize, String> {
    let wrong = || format!("{name} must be a whole number from 1 to {}", ot::MAX_LENGTH);
    let length: usize = serde_json::from_str(json).map_err(|_| wrong())?;
    if (1..=ot::MAX_LENGTH).contains(&length) { Ok(length) } else { Err(wrong()) }
}

fn attributes(raw: &RawValue) -> Result<Attributes, String> {
    let Value::Object(map) = value(raw.get())? else { return Err("attributes must be an object".to_owned()) };
    if map.is_empty() {
        return Err(Invalid::EmptyAttributes.to_string());
    }
    match map.keys().find(|name| BORN_NAMES.contains(&name.as_str())) {
        Some(name) => Err(format!("the attribute name {name:?} cannot be used: every JavaScript object has it")),
        None => Ok(map.into()),
    }
}

fn value(json: &str) -> Result<Value, String> {
    serde_json::from_str(json).map_err(|error| broken_text(&error))
}

fn broken_text(error: &serde_json::Error) -> String {
    let what = error.to_string();
    if what.contains("surrogate") || what.contains("hex escape") {
        "a lone surrogate; send whole characters".to_owned()
    } else {
        format!("a value cannot be read: {}", what.split(" at line ").next().unwrap_or_default())
    }
}

/// Says where an invalid list is invalid, if one or two components show it.
fn locate(ops: &[Op], invalid: Invalid) -> String {
    if invalid == Invalid::TrailingRetain {
        return format!("ops[{}]: {invalid}", ops.len().saturating_sub(1));
    }
    let at = (0..ops.len()).find(|index| {
        let pair = ops[index.saturating_sub(1)..=*index].to_vec();
        Delta::from_normal(pair) == Err(invalid)
    });
    at.map_or_else(|| invalid.to_string(), |index| format!("ops[{index}]: {invalid}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn round(json: &str) -> String {
        serde_json::to_string(&DeltaJson(&parse(json).unwrap())).unwrap()
    }

    #[test]
    fn normal_forms_come_back_as_they_were() {
        for json in [
            "[]",
            r#"[{"insert":"héllo 😀\n"}]"#,
            r#"[{"retain":3},{"insert":"x","attributes":{"bold":true}},{"delete":2}]"#,
            r#"[{"retain":1,"attributes":{"bold":null}}]"#,
            r#"[{"insert":{"image":"a.png"}},{"insert":{"image":"b.png"}}]"#,
            r#"[{"insert":"a","attributes":{"size":0.1,"x":{"y":[1,2]}}}]"#,
        ] {
            assert_eq!(round(json), json);
        }
        assert_eq!(
            round(r#"[ {"attributes":{"a":1.0}, "insert":"\ud83d\ude00"} ]"#),
            r#"[{"insert":"😀","attributes":{"a":1}}]"#
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_component() {
        for (json, part) in [
            ("{}", "must be an array"),
            ("[1]", "ops[0]"),
            ("[{}]", "ops[0]"),
            (r#"[{"retain":0}]"#, "ops[0]: retain must be a whole number from 1"),
            (r#"[{"retain":1.5,"attributes":{"a":1}}]"#, "whole number"),
            (r#"[{"delete":-1}]"#, "whole number"),
            (r#"[{"delete":"1"}]"#, "whole number"),
            (r#"[{"delete":1e99}]"#, "whole number"),
            (r#"[{"delete":99999999999999999999}]"#, "whole number"),
            (r#"[{"insert":""}]"#, "must not be empty"),
            (r#"[{"insert":3}]"#, "text or an embed"),
            (r#"[{"insert":null}]"#, "text or an embed"),
            (r#"[{"insert":"a"},{"insert":"\ud800"}]"#, "ops[1]: a lone surrogate"),
            (r#"[{"insert":"\udc00a"}]"#, "lone surrogate"),
            (r#"[{"insert":{"a":"\ud800"}}]"#, "lone surrogate"),
            (r#"[{"insert":"a","attributes":{"b":"\ud800x"}}]"#, "lone surrogate"),
            (r#"[{"insert":"a","retain":1}]"#, "a component is"),
            (r#"[{"insert":"a","extra":1}]"#, "unknown key \"extra\""),
            (r#"[{"delete":1,"attributes":{"a":1}}]"#, "no attributes"),
            (r#"[{"insert":"a","attributes":{}}]"#, "must not be empty"),
            (r#"[{"insert":"a","attributes":[]}]"#, "must be an object"),
            (r#"[{"insert":"a","attributes":{"__proto__":1}}]"#, "cannot be used"),
            (r#"[{"insert":"a","attributes":{"a":1e999}}]"#, "cannot be read"),
            (r#"[{"insert":"a"},{"insert":"b"}]"#, "ops[1]"),
            (r#"[{"delete":1},{"insert":"b"}]"#, "ops[1]: an insert must stand before"),
            (r#"[{"insert":"a"},{"delete":1},{"delete":1}]"#, "ops[2]"),
            (r#"[{"insert":"a"},{"retain":1}]"#, "ops[1]: the last component"),
            (r#"[{"retain":9007199254740991,"attributes":{"a":1}},{"delete":9007199254740991}]"#, "too large"),
        ] {
            let message = parse(json).unwrap_err();
            assert!(message.contains(part), "{json} gives {message:?}");
        }
    }

    #[test]
    fn formatting_weighs_what_it_takes_as_json() {
        for name in ["bold", "q\"\n\u{1}", "用😀"] {
            for value in [json!("a\\b\u{7f}\u{1f}\t"), json!([1.5, null, {"x\r": "\u{0}"}]), json!(true)] {
                let attributes: Attributes = [(name.to_owned(), value.clone())].into_iter().collect();
                let delta = Delta::new().retain(1000, Some(attributes));
                let written = serde_json::to_string(&DeltaJson(&delta)).unwrap();
                // But for a comma here and there.
                let more = delta.weight_bytes().checked_sub(written.len());
                assert!(more.is_some_and(|more| more < 8), "{} for {written}", delta.weight_bytes());
            }
        }
    }

    #[test]
    fn limits_hold_for_clients_and_not_for_the_store() {
        let many: Vec<String> = (0..MAX_COMPONENTS + 1)
            .map(|n| if n % 2 == 0 { r#"{"insert":"a"}"#.to_owned() } else { r#"{"insert":{"x":1}}"#.to_owned() })
            .collect();
        let json = format!("[{}]", many.join(","));
        assert!(parse(&json).unwrap_err().contains("at most 10000"));
        assert_eq!(decode(&json).unwrap().ops().len(), MAX_COMPONENTS + 1);
        let wide: Vec<String> = (0..5).map(|n| format!(r#""{n}":"{}""#, "x".repeat(4_000))).collect();
        let json = format!(r#"[{{"insert":"b"}},{{"insert":"a","attributes":{{{}}}}}]"#, wide.join(","));
        let message = parse(&json).unwrap_err();
        assert_eq!(message, "ops[1]: the attributes of one component are larger than 16384 bytes");
        assert!(decode(&json).is_ok(), "in a document the attributes of many edits come together");
        let deep = format!(r#"[{{"insert":"a","attributes":{{"x":{}1{}}}}}]"#, "[".repeat(8), "]".repeat(8));
        assert!(parse(&deep).unwrap_err().starts_with("ops[0]: "));
        let deeper =
            format!(r#"[{{"insert":"a","attributes":{{"x":{}1{}}}}}]"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&deeper).is_err());
    }
}
