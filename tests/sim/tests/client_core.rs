//! The simulation's clients against the product's client core, which is JavaScript.
//!
//! What clients of random runs do and hear is written down with their state after each step; the core plays it and
//! compares. `tests/vectors/client/runs.jsonl` is a small part of it that the core's own tests play;
//! `SIM_WRITE_VECTORS=1 cargo test -p sim --test client_core` writes it anew.

use std::{fs, path::Path, process::Command};

use sim::{Fault, Options, Schedule, run};

const RUNS: u64 = 300;
/// Runs in the repository.
const KEPT: [u64; 3] = [3, 11, 12];
const KEPT_EVENTS: usize = 160;

#[test]
fn the_product_s_client_core_does_the_same() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join("client-runs.jsonl");
    let runs: Vec<_> = (1..=RUNS).map(|seed| record(&schedule(seed))).collect();
    fs::write(&file, runs.join("\n\n")).expect("a file for the vectors");
    let player = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gateway/client/test/twin_player.js");
    let output = Command::new("node").arg(player).arg(&file).output().expect("node; `make setup` says what is needed");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_vectors_in_the_repository_are_what_the_twin_does() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/client/runs.jsonl");
    let runs: Vec<_> = KEPT
        .iter()
        .map(|seed| {
            let mut schedule = schedule(*seed).without_newer();
            schedule.events.truncate(KEPT_EVENTS);
            record(&schedule)
        })
        .collect();
    let text = runs.join("\n\n") + "\n";
    if std::env::var_os("SIM_WRITE_VECTORS").is_some() {
        fs::write(&file, &text).expect("the vectors");
    }
    let kept = fs::read_to_string(&file).expect("tests/vectors/client/runs.jsonl");
    assert!(kept == text, "the twin does something else now; if that is right, write the vectors anew");
}

/// Without what no client of ours does: to make edits that fit nothing.
fn schedule(seed: u64) -> Schedule {
    let schedule = Schedule::of(seed).without(Fault::Garbage);
    if seed.is_multiple_of(2) { schedule } else { schedule.without(Fault::Plain) }
}

fn record(schedule: &Schedule) -> String {
    let outcome = run(schedule, &Options { record: true, ..Options::default() });
    outcome.expect("a run that passes").record.join("\n")
}
