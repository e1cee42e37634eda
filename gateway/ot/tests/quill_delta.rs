//! Everything equals npm `quill-delta`, on vectors that `generate.mjs` wrote with it.
//!
//! `OT_VECTORS=<file> cargo test -p ot --test quill_delta` reads a larger file.

mod common;

use common::{delta_from_json as delta, number};
use ot::{Bias, Side};
use serde_json::Value;

#[test]
fn every_operation_gives_what_quill_delta_gives() {
    let path = std::env::var("OT_VECTORS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/ot/quill-delta.json").to_owned());
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 500, "{} cases", cases.len());
    for (index, case) in cases.iter().enumerate() {
        let [base, a, b, c] = ["base", "a", "b", "c"].map(|name| delta(&case[name]));
        let position = number(&case["position"]);
        assert_eq!(base.compose(&a).unwrap(), delta(&case["after"]), "case {index}: base, a");
        assert_eq!(a.compose(&c).unwrap(), delta(&case["composed"]), "case {index}: a, c");
        assert_eq!(a.transform(&b, Side::This), delta(&case["thisFirst"]), "case {index}: a first");
        assert_eq!(a.transform(&b, Side::Other), delta(&case["otherFirst"]), "case {index}: b first");
        assert_eq!(a.invert(&base).unwrap(), delta(&case["inverse"]), "case {index}: inverse");
        assert_eq!(a.transform_position(position, Bias::Before), number(&case["before"]), "case {index}: before");
        assert_eq!(a.transform_position(position, Bias::After), number(&case["behind"]), "case {index}: behind");
        let mut rope = ot::Rope::from_delta(&base).unwrap();
        rope.apply(&a).unwrap();
        assert_eq!(rope.to_delta(), delta(&case["after"]), "case {index}: rope");
    }
}
