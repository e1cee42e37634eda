//! Taking the cluster away, from every state that it can be in. Needs root; ends the cluster of this machine.
//!
//! In: this machine. Out: no cluster.

use std::process::Command;

use cluster::{Cluster, foreign_kubeconfig, local};

#[tokio::test]
async fn down_leaves_nothing_even_after_a_crash() {
    if foreign_kubeconfig().is_some() {
        eprintln!("not available with KUBECONFIG: somebody else's cluster is not taken away");
        return;
    }
    let cluster = Cluster::get_or_up().await.unwrap();
    assert!(local::up().await.unwrap(), "a second up finds the cluster up");
    cluster.kubectl(&["get", "nodes"]).unwrap();
    assert!(!local::leftovers().unwrap().is_empty(), "leftovers sees what is there");

    // A crash in the middle: the API server is gone and one node with it.
    let killed = Command::new("pkill")
        .args(["-9", "-f", "testkube kube-apiserver --etcd-servers=http://127.0.0.1:22379"])
        .status();
    assert!(killed.unwrap().success());
    cluster.kill_node("n2").unwrap();
    assert!(!local::up().await.unwrap(), "a broken cluster is started anew");
    Cluster::get_or_up().await.unwrap().kubectl(&["get", "nodes"]).unwrap();

    local::down().unwrap();
    assert_eq!(local::leftovers().unwrap(), Vec::<String>::new());
    local::down().unwrap();
}
