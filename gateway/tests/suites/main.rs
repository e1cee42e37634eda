//! The official cases: Engine.IO and Socket.IO over WebSocket (in our words, `tests/js/suite`), and Autobahn's.
//!
//! In: Node with the modules of tests/js, and `kosoku` (tests/setup.sh installs both). Out: pass or fail; where a tool
//! is missing the test says so and passes, but not on CI.
#![allow(clippy::unwrap_used)]

mod echo;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::process::Command;

use crate::echo::{EngineEcho, SocketEcho, Suite, WebSocketEcho};

/// Cases of large messages, and those of compression, have tests of their own.
const WITHOUT: [&str; 3] = ["9.*", "12.*", "13.*"];
/// Of compression a choice: each payload of 12 and each offer of 13 with messages that are small and middling, some in
/// fragments. All 216 take minutes, see [`ON_DEMAND`].
const COMPRESSION_SIZES: [u8; 3] = [1, 4, 5];
const COMPRESSION_FRAGMENTS: [&str; 2] = ["12.3.12", "13.5.18"];
/// Cases to run in place of the choice: `AUTOBAHN_CASES='12.*,13.*' cargo test --test suites compression`.
const ON_DEMAND: &str = "AUTOBAHN_CASES";
/// What is run by default takes seconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// All of compression on a busy machine.
const PATIENCE_ON_DEMAND: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_engine_io_suite_passes() {
    run_suite(echo::serve(|pod| Box::new(EngineEcho(pod))).await, "engineio.suite.js").await;
}

#[tokio::test]
async fn the_socket_io_suite_passes() {
    run_suite(echo::serve(|pod| Box::new(SocketEcho(pod))).await, "socketio.suite.js").await;
}

#[tokio::test]
async fn autobahns_cases_pass() {
    run_autobahn(&WITHOUT.map(|case| ["-x", case]).concat(), 200, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn autobahns_cases_of_large_messages_pass() {
    run_autobahn(&["-i", "9.*"], 54, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn autobahns_cases_of_compression_pass() {
    let chosen = std::env::var(ON_DEMAND).ok();
    let groups = (1..=5).map(|payload| format!("12.{payload}")).chain((1..=7).map(|offer| format!("13.{offer}")));
    let cases = groups.flat_map(|group| COMPRESSION_SIZES.map(|size| format!("{group}.{size}")));
    let cases: Vec<String> = match &chosen {
        Some(cases) => cases.split(',').map(str::to_owned).collect(),
        None => cases.chain(COMPRESSION_FRAGMENTS.map(str::to_owned)).collect(),
    };
    let which: Vec<_> = cases.iter().flat_map(|case| ["-i", case]).collect();
    let (least, patience) = if chosen.is_some() { (1, PATIENCE_ON_DEMAND) } else { (38, PATIENCE) };
    run_autobahn(&which, least, patience).await;
}

async fn run_autobahn(which: &[&str], least: usize, patience: Duration) {
    let Some(kosoku) = kosoku() else { return skipped("kosoku: run tests/setup.sh") };
    let start = Instant::now();
    let suite = echo::serve(|pod| Box::new(WebSocketEcho(pod))).await;
    let reports = tempfile::tempdir().unwrap();
    let mut command = Command::new(kosoku);
    command.args(["-m", "fuzzingclient", "-p", "4", "-o"]).arg(reports.path()).args(which);
    let output =
        finish(command.arg(format!("ws://{}/socket.io/?EIO=4&transport=websocket", suite.address)), "kosoku", patience)
            .await;
    let index = std::fs::read_to_string(reports.path().join("index.json")).expect(&output);
    let index: Value = serde_json::from_str(&index).unwrap();
    let cases: Vec<(&String, &Value)> =
        index.as_object().unwrap().values().flat_map(|agent| agent.as_object().unwrap()).collect();
    assert!(cases.len() >= least, "only {} cases: {output}", cases.len());
    let passes = |value: &Value| matches!(value.as_str(), Some("OK" | "NON-STRICT" | "INFORMATIONAL"));
    let failed: Vec<_> =
        cases.iter().filter(|(_, case)| !passes(&case["behavior"]) || !passes(&case["behaviorClose"])).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    eprintln!("{} cases pass in {:?}", cases.len(), start.elapsed());
}

async fn run_suite(suite: Suite, file: &str) {
    let folder = repository().join("tests/js");
    if !folder.join("node_modules/ws").exists() {
        return skipped("the modules of tests/js: run tests/setup.sh");
    }
    let mut command = Command::new("node");
    command
        .args(["--test", "--test-reporter=tap"])
        .arg(folder.join("suite").join(file))
        .current_dir(&folder)
        .env("COLLAB_SUITE_URL", format!("http://{}", suite.address));
    let output = finish(&mut command, file, PATIENCE).await;
    assert!(output.contains("\n# fail 0\n") && !output.contains("\n# pass 0\n"), "{output}");
}

async fn finish(command: &mut Command, what: &str, patience: Duration) -> String {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(patience, running).await.expect(what).expect(what);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{what}:\n{text}");
    text
}

fn kosoku() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let cache = std::env::var_os("COLLAB_CACHE").map(PathBuf::from).or_else(|| Some(cache?.join("collabcluster")));
    cache.map(|cache| cache.join("kosoku/bin/kosoku")).filter(|path| path.exists())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn skipped(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "missing: {what}");
    eprintln!("skipped, missing: {what}");
}
