//! Pods, volumes and harm on the cluster of this machine. Needs root; leaves the cluster up.
//!
//! In: a Valkey image, which has everything that a pod with a volume needs. Out: nothing in the cluster.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that goes wrong, in its helpers too")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use cluster::{Cluster, images};
use tokio::sync::{Mutex, MutexGuard};

/// Tests of one cluster take turns: one makes nodes fail.
static TURN: Mutex<()> = Mutex::const_new(());
const WITHIN: Duration = Duration::from_secs(90);

/// A namespace with one Valkey with a volume on a node; gone when the test ends well.
struct Valkey {
    cluster: Cluster,
    namespace: String,
    _turn: MutexGuard<'static, ()>,
}

impl Valkey {
    async fn start(what: &str, node: &str) -> Self {
        let turn = TURN.lock().await;
        let cluster = Cluster::get_or_up().await.unwrap();
        let namespace = format!("cluster-test-{what}-{}", std::process::id());
        let built = images::build(&["valkey".to_owned()]).unwrap();
        cluster.load_image(&built[0].archive).unwrap();
        let manifest = include_str!("valkey.yaml")
            .replace("{NAMESPACE}", &namespace)
            .replace("{NODE}", node)
            .replace("{IMAGE}", &built[0].name);
        let file = std::env::temp_dir().join(format!("{namespace}.yaml"));
        std::fs::write(&file, manifest).unwrap();
        cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]).unwrap();
        std::fs::remove_file(file).unwrap();
        let valkey = Self { cluster, namespace, _turn: turn };
        valkey.wait_until_ready();
        valkey
    }

    fn wait_until_ready(&self) {
        self.kubectl(&["rollout", "status", "statefulset/valkey", "--timeout=90s"]);
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[&["-n", self.namespace.as_str()], arguments].concat()).unwrap()
    }

    async fn ask(&self, command: &str) -> String {
        let forward = self.cluster.forward(&self.namespace, "valkey-0", 6379).await.unwrap();
        let address = forward.address();
        let command = format!("{command}\r\n");
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(WITHIN)).unwrap();
            stream.write_all(command.as_bytes()).unwrap();
            let mut answer = [0; 64];
            let read = stream.read(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..read]).trim().to_owned()
        })
        .await
        .unwrap()
    }

    fn end(self, wait: bool) {
        let wait = format!("--wait={wait}");
        self.cluster.kubectl(&["delete", "namespace", &self.namespace, "--timeout=90s", &wait]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_is_reached_and_its_log_is_read() {
    let valkey = Valkey::start("pod", "n1").await;
    assert_eq!(valkey.ask("PING").await, "+PONG");
    assert!(valkey.kubectl(&["logs", "valkey-0"]).contains("Ready to accept connections"));
    let nodes = valkey.cluster.nodes_of_pods(&valkey.namespace, "app=valkey").await.unwrap();
    assert_eq!(nodes, [("valkey-0".to_owned(), "n1".to_owned())]);
    let folder = std::env::temp_dir().join(format!("collab-logs-{}", std::process::id()));
    valkey.cluster.collect_logs(&folder).await.unwrap();
    let log = std::fs::read_to_string(folder.join(format!("{}-valkey-0.log", valkey.namespace))).unwrap();
    assert!(log.contains("Ready to accept connections"));
    std::fs::remove_dir_all(folder).unwrap();
    valkey.end(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_container_starts_again_with_its_volume() {
    let valkey = Valkey::start("kill", "n2").await;
    assert_eq!(valkey.ask("SET token kept").await, "+OK");
    valkey.cluster.kill_container(&valkey.namespace, "valkey-0", "valkey").await.unwrap();
    let deadline = Instant::now() + WITHIN;
    let restarts = ["get", "pod", "valkey-0", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"];
    while valkey.kubectl(&restarts) == "0" {
        assert!(Instant::now() < deadline, "the container was not started again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    valkey.wait_until_ready();
    assert_eq!(valkey.ask("GET token").await.lines().last(), Some("kept"));
    valkey.end(true);
    // The claim is gone with its namespace: the volume is offered again, and empty.
    let cluster = Cluster::get_or_up().await.unwrap();
    let phases = cluster.kubectl(&["get", "pv", "-o", "jsonpath={.items[*].status.phase}"]).unwrap();
    assert!(!phases.contains("Released") && !phases.contains("Failed"), "{phases}");
}

#[tokio::test(flavor = "multi_thread")]
async fn power_loss_makes_a_node_not_ready_until_it_is_back() {
    let valkey = Valkey::start("power", "n2").await;
    assert_eq!(valkey.ask("SET token kept").await, "+OK");
    valkey.cluster.kill_node("n2").unwrap();
    valkey.cluster.wait_for_node("n2", false).await.unwrap();
    valkey.cluster.start_node("n2").await.unwrap();
    // Its pods start again by themselves, from the disk that outlived the power.
    valkey.wait_until_ready();
    assert_eq!(valkey.ask("GET token").await.lines().last(), Some("kept"));

    valkey.cluster.partition_node("n2").unwrap();
    valkey.cluster.wait_for_node("n2", false).await.unwrap();
    valkey.cluster.heal_node("n2").unwrap();
    valkey.cluster.wait_for_node("n2", true).await.unwrap();
    assert_eq!(valkey.ask("PING").await, "+PONG");
    valkey.end(false);
}

#[tokio::test]
async fn nodes_of_a_foreign_cluster_are_left_alone() {
    let _turn = TURN.lock().await;
    let ours = Cluster::get_or_up().await.unwrap();
    let foreign = Cluster::foreign(ours.kubeconfig()).await.unwrap();
    for refused in [foreign.kill_node("n1"), foreign.partition_node("n1"), foreign.start_node("n1").await] {
        assert!(format!("{:#}", refused.unwrap_err()).starts_with("not available"));
    }
    assert!(foreign.kubectl(&["get", "nodes"]).unwrap().contains("n1"));
}
