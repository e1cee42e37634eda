//! Laws about files: a head on each, none too long, none too big, nothing that ties the project to one machine.

use tidy::{File, files};

/// Longer files have a second subject that wants a file of its own.
const LINES_MAX: usize = 600;
/// A larger file is data that belongs elsewhere; lock files and checksums grow by themselves.
const BYTES_MAX: u64 = 512 * 1024;

fn is_source(path: &str) -> bool {
    [".rs", ".js", ".mjs", ".lua", ".go"].iter().any(|ending| path.ends_with(ending))
}

fn is_generated(file: &File) -> bool {
    let ends = [".lock", "package-lock.json", "go.sum", "go.mod", ".yaml", ".json", ".png"];
    ends.iter().any(|end| file.path.ends_with(end))
}

#[test]
fn every_source_file_opens_with_what_it_is_for() {
    for file in files().unwrap().iter().filter(|file| is_source(&file.path)) {
        let text = file.text.as_deref().expect("source is UTF-8");
        let first = text.lines().find(|line| !line.starts_with("#!")).unwrap_or_default();
        let is_head = ["//!", "//", "--", "/*"].iter().any(|mark| first.starts_with(mark));
        assert!(is_head, "{} needs a head: what it is for, what comes in, what goes out", file.path);
    }
}

#[test]
fn no_source_file_is_longer_than_a_reader_can_hold() {
    for file in files().unwrap().iter().filter(|file| is_source(&file.path)) {
        let lines = file.text.as_deref().unwrap_or_default().lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines; {LINES_MAX} are the limit", file.path);
    }
}

#[test]
fn no_file_is_too_big_for_a_repository() {
    for file in files().unwrap().iter().filter(|file| !is_generated(file)) {
        assert!(file.bytes <= BYTES_MAX, "{} has {} bytes; {BYTES_MAX} are the limit", file.path, file.bytes);
    }
}

#[test]
fn nothing_names_one_machine() {
    // Put together here so that this file does not name them itself.
    let words = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    for file in files().unwrap() {
        let Some(text) = &file.text else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in words {
                assert!(!line.contains(word), "{}:{}: names a machine's path {word}", file.path, number + 1);
            }
        }
    }
}

#[test]
fn no_test_sleeps_for_a_fixed_time_in_order_to_pass() {
    for file in files().unwrap().iter().filter(|file| file.path.ends_with(".rs") && file.path.contains("/tests/")) {
        let text = file.text.as_deref().unwrap_or_default();
        // Looking again after some milliseconds is how one waits on a condition; whole seconds are a guess.
        let guesses = text.contains(concat!("sleep(Duration::", "from_secs"));
        assert!(!guesses, "{}: wait on a condition with a deadline", file.path);
    }
}

#[test]
fn the_changelog_has_a_place_for_the_next_release() {
    let changelog = files().unwrap().into_iter().find(|file| file.path == "CHANGELOG.md").expect("a CHANGELOG.md");
    assert!(changelog.text.is_some_and(|text| text.contains("## Unreleased")));
}
