//! One node: its files, its first process, and its death.
//!
//! In: the cluster's state folder. Out: a process tree in its own network, mount and process namespaces.

use std::{fs, path::Path};

use anyhow::Result;

use crate::{
    cgroup,
    network::{self, Node},
    process::{Mark, kill_marked, run, spawn_daemon},
};

/// Volumes made on each node; tests that run together use a few each.
const VOLUMES: u8 = 16;

/// The names and folders of a node's volumes.
pub(crate) fn volumes(state: &Path, node: Node) -> Vec<(String, std::path::PathBuf)> {
    let folder = state.join(node.name()).join("volumes");
    (1..=VOLUMES).map(|number| (format!("{}-{number:02}", node.name()), folder.join(format!("{number:02}")))).collect()
}

/// Writes a node's configuration. Its disk (images, volumes) stays as it is.
pub(crate) fn configure(state: &Path, node: Node) -> Result<()> {
    let home = state.join(node.name());
    for folder in ["cni", "logs", "volume-plugins", "pod-logs"] {
        fs::create_dir_all(home.join(folder))?;
    }
    for (_, folder) in volumes(state, node) {
        fs::create_dir_all(folder)?;
    }
    for (file, template) in [
        ("containerd.toml", include_str!("templates/containerd.toml")),
        ("kubelet.yaml", include_str!("templates/kubelet.yaml")),
        ("cni/10-collab.conflist", include_str!("templates/cni.json")),
    ] {
        let text = template
            .replace("{STATE}", &state.display().to_string())
            .replace("{NODE}", &node.name())
            .replace("{PODS}", &node.pods());
        fs::write(home.join(file), text)?;
    }
    fs::write(home.join("node.sh"), include_str!("templates/node.sh"))?;
    Ok(())
}

/// Connects a node and starts it: at first, or after a power loss.
pub(crate) fn start(state: &Path, programs: &Path, node: Node) -> Result<()> {
    let home = state.join(node.name());
    // What a reboot forgets: running containers, and the addresses that were given to pods.
    let _ = fs::remove_dir_all(home.join("containerd/state"));
    let _ = fs::remove_dir_all(home.join("addresses"));
    let _ = fs::remove_file(home.join("containerd.sock"));
    network::disconnect(node);
    network::connect(node)?;
    // nsenter and not `ip netns exec`: the latter mounts a new /sys without the cgroups, which the kubelet needs.
    let daemon = vec![
        "env".to_owned(),
        format!("STATE={}", state.display()),
        format!("PROGRAMS={}", programs.display()),
        format!("NODE={}", node.name()),
        format!("NODE_ADDRESS={}", node.address()),
        "nsenter".to_owned(),
        format!("--net={}", node.namespace_file().display()),
        "unshare".to_owned(),
        "--mount".to_owned(),
        "--pid".to_owned(),
        "--fork".to_owned(),
        "--kill-child".to_owned(),
        "--mount-proc".to_owned(),
        "--propagation=private".to_owned(),
        "bash".to_owned(),
        home.join("node.sh").display().to_string(),
    ];
    spawn_daemon(state, &node.name(), &home.join("logs/node.log"), daemon)
}

/// Ends everything of a node at once, as when its power fails. Its disk stays.
pub(crate) fn kill(state: &Path, node: Node) -> Result<()> {
    kill_marked(&Mark::part(state, &node.name()))?;
    network::disconnect(node);
    cgroup::remove(&cgroup::containers(&state.join(node.name()).join("containerd/state")))
}

/// Runs containerd's client on a node.
pub(crate) fn ctr(state: &Path, programs: &Path, node: Node, arguments: &[&str]) -> Result<String> {
    let socket = state.join(node.name()).join("containerd.sock").display().to_string();
    let all = [&["-a", &socket, "-n", "k8s.io"], arguments].concat();
    run(programs.join("ctr"), &all)
}
