//! Laws about crates: which way dependencies may point, and what pure crates cannot name.

use tidy::{dependencies, files};

/// Crates without I/O, clock or randomness, and everything that each of them may depend on.
const PURE: &[(&str, &str, &[&str])] = &[
    ("gateway/ot", "ot", &["serde_json", "thiserror"]),
    ("gateway/document", "document", &["ot", "serde_json", "thiserror"]),
    ("gateway/protocol", "protocol", &["document", "ot", "serde", "serde_json", "thiserror"]),
    ("gateway/websocket", "websocket", &["base64", "bytes", "flate2", "sha1", "thiserror"]),
    ("operator/api", "collab-api", &["k8s-openapi", "kube", "schemars", "serde", "serde_json", "thiserror"]),
];

#[test]
fn pure_crates_depend_only_on_what_is_listed() {
    let crates = dependencies().unwrap();
    for (_, name, allowed) in PURE {
        for dependency in &crates[*name] {
            assert!(allowed.contains(&dependency.as_str()), "{name} must stay pure but depends on {dependency}");
        }
    }
}

#[test]
fn gateway_and_operator_never_depend_on_each_other() {
    let crates = dependencies().unwrap();
    let gateway = ["collab-gateway", "document", "ot", "protocol", "websocket"];
    let operator = ["collab-operator", "collab-api"];
    for (name, dependencies) in &crates {
        let forbidden: &[&str] = match name.as_str() {
            name if gateway.contains(&name) => &operator,
            name if operator.contains(&name) => &gateway,
            _ => &[],
        };
        let wrong: Vec<_> = dependencies.iter().filter(|d| forbidden.contains(&d.as_str())).collect();
        assert!(wrong.is_empty(), "{name} depends on {wrong:?}");
    }
}

#[test]
fn pure_crates_read_no_clock_and_draw_no_numbers() {
    for file in files().unwrap() {
        let pure = PURE.iter().any(|(folder, ..)| file.path.starts_with(&format!("{folder}/src/")));
        // Tests of a pure crate may read golden files and their own switches.
        let Some(text) = file.text.filter(|_| pure && !file.path.ends_with("tests.rs")) else { continue };
        for word in ["SystemTime", "Instant::now", "std::fs", "std::net", "std::env::", "thread::sleep"] {
            assert!(!text.contains(word), "{} names {word}, but its crate is pure", file.path);
        }
    }
}
