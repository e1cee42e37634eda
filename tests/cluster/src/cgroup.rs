//! Control groups of containers: they outlive the processes in them and must be taken away.
//!
//! In: the runtime's state folders, which name the containers. Out: no group of theirs in any hierarchy. Groups of
//! other users of containerd on this machine have the same parent and are left alone.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// The parent of all containers' groups: containerd names it after the namespace that the kubelet uses.
const PARENT: &str = "k8s.io";
/// The kernel frees the groups of killed containers a little later.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The roots of the hierarchies that are mounted here: one of version 2, or several of version 1.
pub(crate) fn roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|fields| fields.len() > 2 && fields[2].starts_with("cgroup")).map(|fields| fields[1].into()).collect()
}

/// The containers that a node's runtime has tasks of.
pub(crate) fn containers(runtime_state: &Path) -> Vec<String> {
    let tasks = runtime_state.join("io.containerd.runtime.v2.task/k8s.io");
    let entries = fs::read_dir(tasks).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Removes the groups of dead containers.
///
/// # Errors
/// When processes are still in them after 10 s.
pub(crate) fn remove(containers: &[String]) -> Result<()> {
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let mut left = Vec::new();
        for parent in parents() {
            for group in containers.iter().map(|container| parent.join(container)) {
                remove_tree(&group);
                if group.exists() {
                    left.push(group);
                }
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("control groups are still in use: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Groups of containers that no process is in.
pub(crate) fn dead() -> Vec<PathBuf> {
    let groups = parents().into_iter().flat_map(|parent| fs::read_dir(parent).into_iter().flatten().flatten());
    groups.map(|entry| entry.path()).filter(|path| path.is_dir() && is_empty(path)).collect()
}

/// Removes groups that a crash left behind, whoever's they were: no process is in them.
pub(crate) fn sweep() {
    dead().iter().for_each(|group| remove_tree(group));
    for parent in parents() {
        let _ = fs::remove_dir(parent);
    }
}

fn parents() -> Vec<PathBuf> {
    roots().into_iter().map(|root| root.join(PARENT)).filter(|folder| folder.is_dir()).collect()
}

fn is_empty(group: &Path) -> bool {
    let below = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
        && below.filter(|path| path.is_dir()).all(|path| is_empty(&path))
}

fn remove_tree(group: &Path) {
    let below = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).for_each(|path| remove_tree(&path));
    let _ = fs::remove_dir(group);
}
