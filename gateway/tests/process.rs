//! The program itself: what it says of a bad configuration, and how it ends.
//!
//! In: the binary with flags. Out: exit codes and the lines of CONTRACT section 3.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn gateway(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collab-gateway"));
    command.args(flags).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("COLLAB_")) {
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
        let mut child = gateway(&["--demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let lines = lines_of(&mut child);
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains("ready for connections")) {
            said.push(lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only this was said: {said:?}")));
        }
        assert!(said.iter().any(|line| line.contains("runs alone")), "{said:?}");
        // Nobody watches a pipe: one JSON object a line.
        assert!(said.iter().all(|line| line.starts_with('{') && line.ends_with('}')), "{said:?}");
        let killed = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
        // The end of its output is the end of the process.
        while lines.recv_timeout(PATIENCE).is_ok() {}
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "after SIG{signal}");
    }
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
