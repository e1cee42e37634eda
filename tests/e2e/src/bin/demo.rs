//! `make demo`: the cluster, the operator by Helm, a CollabCluster, and a loopback address for a browser.
//!
//! In: images that `make images` built. Out: a running cluster, and on the terminal where to look and what to try.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::Stack;

/// Where the page answers; the forwarder behind it lives until `make cluster-down`.
const LISTEN: &str = "127.0.0.1:8080";

#[tokio::main]
async fn main() -> Result<()> {
    say("cluster, images, operator");
    let stack = Stack::ready().await?;
    let kubectl = |arguments: &[&str]| stack.cluster.kubectl(arguments);

    say("a CollabCluster with two gateways");
    if kubectl(&["get", "namespace", "collab"]).is_err() {
        kubectl(&["create", "namespace", "collab"])?;
    }
    if kubectl(&["-n", "collab", "get", "secret", "docs-jwt"]).is_err() {
        let key = format!("--from-literal=key={:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        kubectl(&["-n", "collab", "create", "secret", "generic", "docs-jwt", &key])?;
    }
    let started = Instant::now();
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/demo.yaml");
    kubectl(&["apply", "-f", manifest])?;
    kubectl(&["-n", "collab", "wait", "--for=condition=Ready", "ccl/docs", "--timeout=180s"])
        .context("the CollabCluster did not become Ready; `kubectl describe ccl docs -n collab` says why")?;
    say(&format!("Ready {} after apply", seconds(started.elapsed())));

    forward()?;
    let table = kubectl(&["-n", "collab", "get", "ccl"])?;
    let kubeconfig = stack.cluster.kubeconfig().display().to_string();
    let kubectl_path = cluster::programs::folder()?.join("kubectl").display().to_string();
    print(&format!(
        "\n{table}\n\
         Open http://{LISTEN}/ and type: the two panes are connected to two different pods.\n\n\
         What to try next (export KUBECONFIG={kubeconfig}; alias kubectl={kubectl_path}):\n  \
         kubectl -n collab get pods -o wide\n  \
         kubectl -n collab delete pod -l app.kubernetes.io/component=gateway   # both panes come back, nothing is lost\n  \
         kubectl -n collab scale ccl docs --replicas=3\n  \
         kubectl -n collab describe ccl docs\n  \
         make cluster-down                                                     # takes everything away\n"
    ));
    Ok(())
}

/// Leaves the forwarder behind that `cluster down` ends.
fn forward() -> Result<()> {
    let selector = "app.kubernetes.io/component=gateway";
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package=cluster", "--", "forward", "--background", "--namespace=collab"])
        .args(["--selector", selector, "--port=3000", "--listen", LISTEN])
        .status()?;
    ensure!(status.success(), "the forwarder did not start");
    Ok(())
}

fn say(what: &str) {
    print(&format!("==> demo: {what}"));
}

#[allow(clippy::print_stdout, reason = "this program's output is its purpose")]
fn print(text: &str) {
    println!("{text}");
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
