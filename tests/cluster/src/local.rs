//! The cluster on this machine: bring it up, tell how it is, take it away with everything that it left.
//!
//! In: the machine. Out: a running cluster below `/var/lib/collabcluster`, or none. Each function may be called in any
//! situation: `up` on a running cluster does nothing, on a half-dead one it starts anew; `down` ends whatever is there.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    cgroup, control_plane, images, machine, network,
    network::{NODES, Node},
    node, objects,
    paths::STATE,
    process::{Mark, kill_marked, marked, remove_proxies, run},
    programs,
    progress::Step,
};

/// Longest wait for both nodes once the API server is there.
const NODES_READY_WITHIN: Duration = Duration::from_secs(120);
/// A busy machine answers slowly, a dead API server never.
const API_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const LOCK: &str = "/run/collabcluster.lock";

/// The kubeconfig of the cluster on this machine.
pub fn kubeconfig() -> PathBuf {
    state().join("pki/admin.conf")
}

/// Lets a tool keep what it remembers of this cluster (caches, Helm's settings) with the cluster, where it goes with it.
pub fn isolate(tool: &mut Command) {
    remove_proxies(tool);
    tool.env("KUBECACHEDIR", state().join("tools/kubectl"));
    for name in ["CACHE", "CONFIG", "DATA"] {
        tool.env(format!("HELM_{name}_HOME"), state().join("tools/helm").join(name.to_lowercase()));
    }
}

/// The cluster's folder.
pub(crate) fn state() -> &'static Path {
    Path::new(STATE)
}

/// A client of the cluster that a kubeconfig names.
///
/// # Errors
/// When the file cannot be read or names no server.
pub(crate) async fn client_of(kubeconfig: &Path) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    if config.cluster_url.host().is_some_and(|host| host == network::HOST || host == "127.0.0.1") {
        // On this machine: see `remove_proxies`.
        config.proxy_url = None;
    }
    Ok(Client::try_from(config)?)
}

/// Brings the cluster up if it is not up; tells whether it was up before. Nodes that a test left without power or cut
/// off are given back; a cluster that lacks more than that is started anew.
///
/// # Errors
/// Says what this machine lacks, or which component did not start and the end of its log.
pub async fn up() -> Result<bool> {
    machine::prepare()?;
    let programs = programs::ensure()?;
    let _lock = lock()?;
    let pause = images::ensure_pause(&programs)?;
    if has_control_plane(&programs).await {
        let client = client_of(&kubeconfig()).await?;
        repair_nodes(&client, &programs).await?;
        objects::recycle_volumes(&client, state()).await?;
        return Ok(true);
    }
    take_away()?;
    let _step = Step::start("starting two nodes of Kubernetes");
    let started = start(&programs, &pause).await;
    if started.is_err() {
        let kept = PathBuf::from(format!("{STATE}.failed"));
        let _ = fs::remove_dir_all(&kept);
        copy_logs(&kept);
        take_away()?;
        return started
            .map(|()| false)
            .with_context(|| format!("the cluster did not start; logs are in {}", kept.display()));
    }
    Ok(false)
}

/// Takes the cluster away: processes, mounts, interfaces, namespaces, cgroups, files.
///
/// # Errors
/// When not root, or something does not go away.
pub fn down() -> Result<()> {
    machine::require_root()?;
    let _lock = lock()?;
    take_away()?;
    let left = leftovers()?;
    if !left.is_empty() {
        bail!("still there after taking the cluster away:\n{}", left.join("\n"));
    }
    Ok(())
}

/// What of a cluster is on this machine: nothing, after `down`.
///
/// # Errors
/// When the machine's interfaces cannot be listed.
pub fn leftovers() -> Result<Vec<String>> {
    let mut found = network::leftovers()?;
    found.extend(marked(&Mark::cluster(state())).iter().map(|process| format!("process: {process}")));
    let mounts = fs::read_to_string("/proc/mounts")?;
    found.extend(mounts.lines().filter(|line| line.contains("collab")).map(|line| format!("mount: {line}")));
    found.extend(cgroup::dead().iter().map(|group| format!("control group: {}", group.display())));
    if state().exists() {
        found.push(format!("folder: {STATE}"));
    }
    Ok(found)
}

/// Lines about the cluster for a person.
///
/// # Errors
/// When the cluster's files cannot be read.
pub async fn status() -> Result<Vec<String>> {
    let programs = programs::folder()?;
    if !state().exists() {
        return Ok(vec!["the cluster is down".to_owned()]);
    }
    let mut lines = Vec::new();
    for part in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns", "n1", "n2"] {
        let processes = marked(&Mark::part(state(), part)).len();
        lines.push(format!("{part}: {}", if processes == 0 { "not running" } else { "running" }));
    }
    let client = client_of(&kubeconfig()).await?;
    match tokio::time::timeout(API_ANSWERS_WITHIN, node_states(&client)).await {
        Ok(Ok(states)) => lines.extend(
            states
                .into_iter()
                .map(|(name, is_ready)| format!("node {name}: {}", if is_ready { "Ready" } else { "NotReady" })),
        ),
        Ok(Err(error)) => lines.push(format!("the API server does not answer: {error}")),
        Err(_) => lines.push("the API server does not answer".to_owned()),
    }
    lines.push(format!("kubeconfig: {}", kubeconfig().display()));
    if !is_current(&programs) {
        lines.push("it was started from other sources: the next `up` starts it anew".to_owned());
    }
    Ok(lines)
}

/// Each node and whether it is Ready.
pub(crate) async fn node_states(client: &Client) -> Result<Vec<(String, bool)>> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let listed = nodes.list(&ListParams::default()).await?;
    Ok(listed.into_iter().map(|node| (node.name_any(), is_ready(&node))).collect())
}

/// Makes an image archive known to every node that runs, and to those that start later. Tells whether an older image
/// of that name was there.
pub(crate) fn load_image(archive: &Path) -> Result<bool> {
    let programs = programs::folder()?;
    let name = archive.file_name().context("an image archive is a file")?;
    let kept = state().join("images").join(name);
    let wanted = fs::read(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    let had = fs::read(&kept).ok();
    if had.as_ref() == Some(&wanted) {
        return Ok(false);
    }
    fs::write(&kept, wanted).with_context(|| format!("cannot write {}", kept.display()))?;
    for node in NODES.into_iter().filter(|node| is_running(*node)) {
        node::ctr(state(), &programs, node, &["images", "import", &kept.display().to_string()])?;
    }
    Ok(had.is_some())
}

/// Whether a node has power.
pub(crate) fn is_running(node: Node) -> bool {
    !marked(&Mark::part(state(), &node.name())).is_empty()
}

/// Copies every component's log.
pub(crate) fn copy_logs(target: &Path) {
    let sources = ["logs", "n1/logs", "n2/logs", "n1/pod-logs", "n2/pod-logs"];
    for source in sources.iter().map(|name| (state().join(name), target.join(name.replace('/', "-")))) {
        if source.0.is_dir() && fs::create_dir_all(target).is_ok() {
            let _ = run("cp", &["-r", &source.0.display().to_string(), &source.1.display().to_string()]);
        }
    }
}

async fn start(programs: &Path, pause: &Path) -> Result<()> {
    for folder in ["logs", "images"] {
        fs::create_dir_all(state().join(folder))?;
    }
    fs::copy(pause, state().join("images/pause.tar"))?;
    control_plane::make_certificates(state())?;
    network::create_bridge()?;
    control_plane::start_api(state(), programs)?;
    for node in NODES {
        node::configure(state(), node)?;
    }
    let client = client_of(&kubeconfig()).await?;
    control_plane::wait_for_api(&client, || {
        control_plane::check_alive(state(), "etcd")?;
        control_plane::check_alive(state(), "kube-apiserver")
    })
    .await?;
    control_plane::start_controllers(state(), programs)?;
    for node in NODES {
        node::start(state(), programs, node)?;
    }
    objects::create(&client, state()).await?;
    wait_for_nodes(&client).await?;
    fs::write(state().join("programs"), programs.display().to_string())?;
    Ok(())
}

async fn wait_for_nodes(client: &Client) -> Result<()> {
    let deadline = Instant::now() + NODES_READY_WITHIN;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    loop {
        let states = node_states(client).await.unwrap_or_default();
        let ready = states.iter().filter(|(_, is_ready)| *is_ready).count();
        let dns = std::net::TcpStream::connect((network::HOST, 53)).is_ok();
        if ready == NODES.len() && dns && accounts.get_opt("default").await?.is_some() {
            return Ok(());
        }
        for part in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns"] {
            control_plane::check_alive(state(), part)?;
        }
        if Instant::now() > deadline {
            bail!("not ready after {} s: nodes {states:?}, DNS answers: {dns}", NODES_READY_WITHIN.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn has_control_plane(programs: &Path) -> bool {
    let parts = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns"];
    if !is_current(programs) || parts.iter().any(|part| marked(&Mark::part(state(), part)).is_empty()) {
        return false;
    }
    let Ok(client) = client_of(&kubeconfig()).await else { return false };
    matches!(tokio::time::timeout(API_ANSWERS_WITHIN, node_states(&client)).await, Ok(Ok(_)))
}

async fn repair_nodes(client: &Client, programs: &Path) -> Result<()> {
    for node in NODES {
        if !is_running(node) {
            node::start(state(), programs, node)?;
        }
        network::set_cable(node, true)?;
    }
    wait_for_nodes(client).await
}

fn is_current(programs: &Path) -> bool {
    fs::read_to_string(state().join("programs")).is_ok_and(|text| Path::new(&text) == programs)
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn lock() -> Result<File> {
    let lock = File::create(LOCK).with_context(|| format!("cannot make {LOCK}"))?;
    if lock.try_lock().is_err() {
        let _step = Step::start("waiting for another process that starts or ends the cluster");
        lock.lock()?;
    }
    Ok(lock)
}

fn take_away() -> Result<()> {
    // The nodes first: their containers are known while their files are there.
    for node in NODES {
        node::kill(state(), node)?;
    }
    kill_marked(&Mark::cluster(state()))?;
    network::remove_bridge();
    unmount();
    cgroup::sweep();
    if state().exists() {
        fs::remove_dir_all(state()).with_context(|| format!("cannot remove {STATE}"))?;
    }
    Ok(())
}

/// Mounts live in the nodes' own namespaces and go with them; this is for what a person mounted to look inside.
fn unmount() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for target in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(STATE))
    {
        let _ = Command::new("umount").args(["--lazy", target]).stderr(Stdio::null()).status();
    }
}
