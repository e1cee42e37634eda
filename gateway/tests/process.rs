//! The program itself: what it says of a bad configuration, and how it ends.
//!
//! In: the binary with flags. Out: exit codes and the lines of CONTRACT section 3.

#[allow(dead_code, clippy::unwrap_used, reason = "not everything is for this file, and a test may fail")]
#[path = "wire/harness.rs"]
mod harness;
mod signers;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use harness::Client;
use serde_json::{Value, json};
use signers::{FAR, hs256};

const PATIENCE: Duration = Duration::from_secs(60);

fn gateway(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collab-gateway"));
    command.args(flags).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("COLLAB_") || name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("it runs")
}

#[test]
fn a_bad_configuration_is_one_line_and_exit_code_2() {
    for (flags, name) in [
        (&["--listen", "nowhere"][..], "--listen"),
        (&["--demo", "--redis-url", "http://x"], "--redis-url"),
        (&["--demo", "--tls-cert-file", "x"], "--tls-key-file"),
        (&["--demo", "--tls-key-file", "x"], "--tls-cert-file"),
        (&["--demo", "--tls-cert-file", "/does/not/exist", "--tls-key-file", "x"], "--tls-cert-file"),
        (&["--jwt-secret-file", "/does/not/exist"], "--jwt-secret-file"),
        (&["--demo", "--shout"], "--shout"),
        (&["--demo", "--jwt-secret-file", "Cargo.toml", "--redis-url", "redis://fd00::1"], "--redis-url"),
    ] {
        let output = run(&mut gateway(flags));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.lines().count() == 1 && said.contains(name), "{flags:?}: {said}");
    }
    let output = run(gateway(&[]).env("COLLAB_DEMO", "true").env("COLLAB_PING_INTERVAL", "never"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("--ping-interval"), "{said}");
}

#[test]
fn a_port_in_use_is_exit_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = run(&mut gateway(&["--demo", "--listen", &address, "--admin-listen", "127.0.0.1:0"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--listen"), "{said}");
}

#[test]
fn help_lists_the_flags_and_succeeds() {
    let output = run(&mut gateway(&["--help"]));
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    for flag in ["--listen", "--redis-url", "--jwt-secret-file", "--drain-deadline", "--demo"] {
        assert!(text.contains(flag), "{flag} is missing in {text}");
    }
}

#[test]
fn a_signal_ends_it_with_exit_code_0() {
    for signal in ["TERM", "INT"] {
        let (mut child, lines, said) = started(&mut gateway(&["--demo"]));
        assert!(said.iter().any(|line| line.contains("runs alone")), "{said:?}");
        // Nobody watches a pipe: one JSON object a line.
        assert!(said.iter().all(|line| line.starts_with('{') && line.ends_with('}')), "{said:?}");
        assert_eq!(end(&mut child, &lines, signal), Some(0), "after SIG{signal}");
    }
}

/// A process on ports of its own that takes connections, what it says from then on, and what it has said.
fn started(command: &mut Command) -> (Child, mpsc::Receiver<String>, Vec<String>) {
    let command = command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let lines = lines_of(&mut child);
    let said = until(&lines, "ready for connections");
    (child, lines, said)
}

/// What is said up to a line that holds this.
fn until(lines: &mpsc::Receiver<String>, words: &str) -> Vec<String> {
    let mut said = Vec::new();
    while !said.last().is_some_and(|line: &String| line.contains(words)) {
        said.push(lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only this was said: {said:?}")));
    }
    said
}

/// Where the process listens that said this at last.
fn address(said: &[String]) -> SocketAddr {
    let ready: Value = serde_json::from_str(said.last().expect("a line")).expect("JSON");
    ready["listen"].as_str().expect("an address").parse().expect("an address")
}

fn end(child: &mut Child, lines: &mpsc::Receiver<String>, signal: &str) -> Option<i32> {
    let killed = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    // The end of its output is the end of the process.
    while lines.recv_timeout(PATIENCE).is_ok() {}
    child.wait().expect("it ends").code()
}

#[test]
fn that_it_runs_alone_is_said_at_the_level_warn_too() {
    let command = &mut gateway(&["--demo", "--log-level", "warn"]);
    let command = command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let lines = lines_of(&mut child);
    let said = until(&lines, "runs alone");
    assert!(said.last().is_some_and(|line| line.contains("only users of the demo sign in")), "{said:?}");
    end(&mut child, &lines, "KILL");
}

#[test]
fn a_collector_that_the_environment_names_wrongly_is_no_reason_not_to_serve() {
    let wrong = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
    let (mut child, lines, said) = started(gateway(&["--demo"]).env(wrong.0, wrong.1));
    let is_told = |line: &&String| line.contains("there will be no traces") && line.contains(wrong.0);
    assert_eq!(said.iter().filter(is_told).count(), 1, "{said:?}");
    assert_eq!(end(&mut child, &lines, "TERM"), Some(0));
    let output = run(gateway(&["--demo"]).env("COLLAB_OTLP_ENDPOINT", wrong.1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("--otlp-endpoint"), "{said}");
}

#[test]
fn the_level_of_the_log_follows_the_file_and_goes_back_when_it_is_not_named_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.yaml");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write("max-connections: 9\n");
    let (mut child, lines, said) = started(gateway(&["--demo", "--config"]).arg(&file));
    let address = address(&said);
    // Whether what is logged at debug only is: a request that is none. How often, after a change, nobody knows.
    let is_debugging = || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(b"this is no HTTP\r\n\r\n").expect("written");
        // It may be cut off in the middle of the answer.
        let _ = stream.read_to_end(&mut Vec::new());
        lines.try_iter().any(|line| line.contains("a request failed"))
    };
    let eventually = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "did not come true: {what}");
        }
    };
    assert!(!is_debugging());
    write("max-connections: 9\nlog-level: debug\n");
    eventually("it debugs", &is_debugging);
    write("max-connections: 9\n");
    eventually("it does not debug any more", &|| !is_debugging() && !is_debugging());
    end(&mut child, &lines, "KILL");
}

#[tokio::test]
async fn lists_in_the_environment_are_cut_at_commas() {
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = ["one secret", "another secret"];
    let files = secrets.map(|secret| {
        let file = folder.path().join(secret.replace(' ', "-"));
        std::fs::write(&file, secret).expect("written");
        file.to_str().expect("text").to_owned()
    });
    let mut command = gateway(&[]);
    command.env("COLLAB_JWT_SECRET_FILE", files.join(","));
    command.env("COLLAB_ALLOWED_ORIGINS", "https://one.example,https://two.example");
    let (mut child, lines, said) = started(&mut command);
    let address = address(&said);
    for (secret, answer) in [(secrets[0], "40{\"sid\""), (secrets[1], "40{\"sid\""), ("a third one", "44{")] {
        let token = hs256(secret.as_bytes(), &json!({"sub": "ann", "exp": FAR}));
        let mut client = Client::at(address, "").await;
        client.send(&format!("40{}", json!({"token": token}))).await;
        let said = client.text().await;
        assert!(said.starts_with(answer), "{secret}: {said}");
    }
    for (origin, status) in
        [("https://one.example", "101"), ("https://two.example", "101"), ("https://x.example", "403")]
    {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Origin: {origin}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("written");
        let mut line = [0; "HTTP/1.1 101".len()];
        stream.read_exact(&mut line).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&line), format!("HTTP/1.1 {status}"), "{origin}");
    }
    end(&mut child, &lines, "KILL");
}

fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let reader = BufReader::new(child.stderr.take().expect("piped"));
    std::thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
