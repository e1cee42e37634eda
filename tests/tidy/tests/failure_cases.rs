//! The list of failures names tests that exist, for every case.
//!
//! In: `tests/failure-cases.md`, rows of a case, what happens, and `file` names of tests; the files. Out: nothing, or what
//! is missing.

use std::fs;

/// Cases of the list; one may be added, none taken away.
const CASES: usize = 28;

#[test]
fn every_failure_has_a_test_that_exists() {
    let root = tidy::root();
    let list = fs::read_to_string(root.join("tests/failure-cases.md")).unwrap();
    let rows: Vec<Vec<&str>> = list
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| case"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), CASES, "cases in the list");
    for (index, row) in rows.iter().enumerate() {
        let [_, case, _, shown_by, _] = row[..] else { panic!("not three columns: {row:?}") };
        assert_eq!(case, (index + 1).to_string(), "cases are numbered");
        for file in shown_by.split(';') {
            let (path, tests) = file.trim().trim_start_matches('`').split_once('`').expect("`file` tests");
            let text =
                fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("case {case}: {path}: {error}"));
            for test in tests.split(',').map(str::trim) {
                assert!(text.contains(&format!("fn {test}(")), "case {case}: {path} has no test {test}");
            }
        }
    }
}
