//! Building blocks of the schema: the value types that the resource's fields share, and small helpers that write what
//! the derive cannot. In: Rust types. Out: OpenAPI fragments with bounds and CEL rules that the API server enforces.
//!
//! Every string, list and map has a bound: without one the API server refuses a CRD for the estimated cost of its rules.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A length of time as people write it: `30s`, `8m`, `1h30m`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

/// An amount of memory, disk or CPU in Kubernetes' notation: `512Mi`, `2`, `250m`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quantity(pub Value);

/// A name from the IANA time zone database: `Europe/Berlin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimeZone(pub String);

/// What is handed to Kubernetes as it was written.
pub type PassThrough = serde_json::Map<String, Value>;

/// Labels, annotations: short strings by name.
pub type StringMap = BTreeMap<String, String>;

impl Duration {
    /// The length in milliseconds, or `None` where the text is not a duration or does not fit.
    pub fn milliseconds(&self) -> Option<u64> {
        let mut rest = self.0.as_str();
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let (number, tail) = rest.split_at(digits);
            let (unit_ms, unit_length) = match tail.as_bytes() {
                [b'm', b's', ..] => (1, 2),
                [b's', ..] => (1_000, 1),
                [b'm', ..] => (60_000, 1),
                [b'h', ..] => (3_600_000, 1),
                _ => return None,
            };
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit_ms)?)?;
            rest = &tail[unit_length..];
        }
        (!self.0.is_empty()).then_some(total)
    }

    /// The length in whole seconds, rounded up.
    pub fn seconds_rounded_up(&self) -> Option<u64> {
        self.milliseconds().map(|ms| ms.div_ceil(1_000))
    }
}

impl Quantity {
    /// The text that Kubernetes is given.
    pub fn text(&self) -> String {
        self.0.as_str().map_or_else(|| self.0.to_string(), str::to_owned)
    }
}

impl From<&str> for Duration {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(Value::from(text))
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [rule(
                "self.matches('^([0-9]+(ms|s|m|h))+$')",
                "must be a duration: write 30s, 8m or 1h30m",
            )],
        })
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "x-kubernetes-validations": [rule(
                "isQuantity(string(self))",
                "must be a quantity: write 512Mi, 10Gi or 250m",
            )],
        })
    }
}

impl JsonSchema for TimeZone {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TimeZone".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 64,
            "minLength": 1,
            "x-kubernetes-validations": [rule(
                // An unknown zone is a run-time error of the rule, which counts as a violation.
                "timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0",
                "must be an IANA time zone: write Europe/Berlin or UTC",
            )],
        })
    }
}

/// One CEL rule with the message that people read; the API server puts the field's path before it.
pub(crate) fn rule(expression: &str, message: &str) -> Value {
    json!({"rule": expression, "message": message})
}

/// One CEL rule whose message is itself an expression, with a fixed one for when that fails.
pub(crate) fn rule_saying(expression: &str, message: &str, message_expression: &str) -> Value {
    json!({"rule": expression, "message": message, "messageExpression": message_expression})
}

/// An object whose content Kubernetes judges, not this schema.
pub(crate) fn pass_through(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// The same where null is allowed: a schema function must say so itself.
pub(crate) fn pass_through_or_null(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true})
}

/// A bounded list of objects that Kubernetes judges.
pub(crate) fn pass_through_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

/// Annotations and the like.
pub(crate) fn string_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

/// Resource amounts by name (`cpu`, `memory`, `ephemeral-storage`, …).
pub(crate) fn quantity_map(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": Quantity::json_schema(generator),
    })
}
