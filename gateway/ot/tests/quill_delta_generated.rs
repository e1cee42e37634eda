//! Everything equals npm `quill-delta`, on cases that are made here and checked by a Node process.
//!
//! `OT_CASES=<n>` and `OT_SEED=<n>` ask for more, or other ones; `make ot-million` for a million of a fresh seed.
//! Needs `npm ci` in gateway/client; without it the test is skipped, unless `CI` is `true`.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod common;

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use common::{Nulls, change_with, delta_from_json, document_with, json, random, seed};
use ot::{Bias, Delta, Op, Side};
use rand::Rng;
use serde_json::Value;

/// What takes some seconds.
const CASES: u64 = 100_000;

#[test]
fn generated_cases_equal_quill_delta() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !folder.join("../client/node_modules/quill-delta").exists() {
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "run npm ci in gateway/client first");
        println!("SKIPPED: no quill-delta; run npm ci in gateway/client");
        return;
    }
    let seed = seed();
    let cases = env::var("OT_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let mut node = Command::new("node")
        .arg(folder.join("tests/oracle.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let mut input = BufWriter::with_capacity(1 << 16, node.stdin.take().expect("piped"));
    let output = BufReader::new(node.stdout.take().expect("piped"));
    let writer = thread::spawn(move || {
        for case in 0..cases {
            input.write_all(Case::new(seed, case).line(case).as_bytes()).expect("node reads");
        }
    });
    let mut told = Vec::new();
    for line in output.lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).expect("whole characters only");
        match line.get("diff") {
            Some(diff) => {
                let case = Case::new(seed, line["case"].as_u64().unwrap());
                let led = case.base.compose(&delta_from_json(diff)).unwrap();
                // What quill-delta retains it cannot give a `null`; that means nothing, so it is left out here.
                assert_eq!(without_nulls(&led), without_nulls(&case.target()), "quill-delta's difference: {line}");
            }
            None => told.push(line),
        }
    }
    writer.join().unwrap();
    assert!(node.wait().unwrap().success());
    println!("{cases} cases compared with quill-delta");
    let last = told.pop().expect("a summary");
    assert_eq!(
        (last["cases"].as_u64(), last["differences"].as_u64()),
        (Some(cases), Some(0)),
        "OT_SEED={seed} {told:#?}"
    );
}

/// A document, two changes of it, a third one after the first, and a position.
struct Case {
    base: Delta,
    a: Delta,
    b: Delta,
    c: Delta,
    position: usize,
}

impl Case {
    fn new(seed: u64, case: u64) -> Self {
        let mut random = random(seed.wrapping_add(case));
        let base = document_with(&mut random, 4, Nulls::OnInsertsToo);
        let a = change_with(&mut random, &base, Nulls::OnInsertsToo);
        let b = change_with(&mut random, &base, Nulls::OnInsertsToo);
        let c = change_with(&mut random, &base.compose(&a).unwrap(), Nulls::OnInsertsToo);
        let position = random.random_range(0..base.length() + 2);
        Self { base, a, b, c, position }
    }

    /// What the difference leads to.
    fn target(&self) -> Delta {
        self.base.compose(&self.a).unwrap().compose(&self.c).unwrap()
    }

    fn line(&self, case: u64) -> String {
        let Self { base, a, b, c, position } = self;
        let after = {
            let mut rope = ot::Rope::from_delta(base).unwrap();
            rope.apply(a).unwrap();
            rope.to_delta()
        };
        assert_eq!(base.compose(a).as_ref(), Ok(&after), "case {case}: composing and applying");
        let target = self.target();
        let deltas = HashMap::from([
            ("base", base.clone()),
            ("a", a.clone()),
            ("b", b.clone()),
            ("c", c.clone()),
            ("after", after),
            ("composed", a.compose(c).unwrap()),
            ("thisFirst", a.transform(b, Side::This)),
            ("otherFirst", a.transform(b, Side::Other)),
            ("inverse", a.invert(base).unwrap()),
            ("difference", base.diff(&target).unwrap()),
            ("led", target),
        ]);
        let mut line = format!("{{\"case\":{case},\"position\":{position}");
        for (name, bias) in [("before", Bias::Before), ("behind", Bias::After)] {
            line += &format!(",\"{name}\":{}", a.transform_position(*position, bias));
        }
        for (name, delta) in deltas {
            line += &format!(",\"{name}\":{}", json(&delta));
        }
        line + "}\n"
    }
}

fn without_nulls(document: &Delta) -> Delta {
    document.ops().iter().fold(Delta::new(), |out, op| {
        let attributes = op.attributes().map(|map| {
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .collect()
        });
        match op {
            Op::Insert { text, .. } => out.insert(text, attributes),
            Op::Embed { value, .. } => out.embed(value.clone(), attributes),
            Op::Retain { .. } | Op::Delete { .. } => panic!("a document has inserts only"),
        }
    })
}
