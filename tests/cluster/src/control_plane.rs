//! etcd and the components that are not on a node, as daemons of the host.
//!
//! In: the state folder and the built programs. Out: an API server at 10.250.0.1:6443, controllers, scheduler, DNS.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    network::{API_SERVICE, HOST, NODES, SERVICES},
    pki::{Authority, Subject},
    process::{Mark, marked, spawn_daemon, tail},
};

/// A cold disk and other work on the machine make the API server slow; 10 s are usual at worst.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Not the usual ports: another etcd may run on this machine.
const ETCD_CLIENT_PORT: u16 = 22379;
const ETCD_PEER_PORT: u16 = 22380;
/// The API server listens on the wire's address only, so that this port is free elsewhere.
const API_PORT: u16 = 6443;

/// Makes all certificates and kubeconfigs; `pki/admin.conf` is the person's.
pub(crate) fn make_certificates(state: &Path) -> Result<()> {
    let folder = state.join("pki");
    let authority = Authority::create(&folder)?;
    let address = |text: &str| text.parse::<IpAddr>().context("an address of the cluster");
    authority.issue(&Subject {
        file: "apiserver",
        user: "kube-apiserver",
        group: None,
        names: &[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
        ],
        addresses: &[address(API_SERVICE)?, address(HOST)?, address("127.0.0.1")?],
    })?;
    authority.issue(&Subject {
        file: "kubelet-client",
        user: "kube-apiserver",
        group: Some("system:masters"),
        names: &[],
        addresses: &[],
    })?;
    let server = format!("https://{HOST}:{API_PORT}");
    for (file, user, group) in [
        ("admin", "admin", Some("system:masters")),
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        ("proxy", "system:kube-proxy", None),
        ("coredns", "coredns", Some("system:masters")),
    ] {
        authority.kubeconfig(&server, file, user, group)?;
    }
    for node in NODES {
        let user = format!("system:node:{}", node.name());
        let name = node.name();
        authority.issue(&Subject {
            file: &name,
            user: &user,
            group: Some("system:nodes"),
            names: &[&name],
            addresses: &[address(&node.address())?],
        })?;
        authority.kubeconfig(&server, &name, &user, Some("system:nodes"))?;
    }
    Ok(())
}

/// Starts etcd and the API server.
pub(crate) fn start_api(state: &Path, programs: &Path) -> Result<()> {
    start(state, programs, "etcd", &etcd_arguments("etcd", ETCD_CLIENT_PORT, ETCD_PEER_PORT))?;
    let mut arguments = api_arguments("pki", ETCD_CLIENT_PORT, API_PORT);
    arguments.extend(
        [
            &format!("--advertise-address={HOST}"),
            &format!("--bind-address={HOST}"),
            "--kubelet-client-certificate=pki/kubelet-client.crt",
            "--kubelet-client-key=pki/kubelet-client.key",
            "--kubelet-certificate-authority=pki/ca.crt",
            // Otherwise logs and exec look the node's name up in DNS.
            "--kubelet-preferred-address-types=InternalIP",
        ]
        .map(str::to_owned),
    );
    start(state, programs, "kube-apiserver", &arguments)
}

/// Starts what needs the API server to be there.
pub(crate) fn start_controllers(state: &Path, programs: &Path) -> Result<()> {
    start(
        state,
        programs,
        "kube-controller-manager",
        &[
            "--kubeconfig=pki/controller-manager.conf",
            "--service-account-private-key-file=pki/sa.key",
            "--root-ca-file=pki/ca.crt",
            "--use-service-account-credentials",
            "--leader-elect=false",
            // Nobody asks for its metrics, and the port may be taken.
            "--secure-port=0",
            // Half of the default: tests wait for a dead node to be noticed.
            "--node-monitor-grace-period=20s",
        ]
        .map(str::to_owned),
    )?;
    start(
        state,
        programs,
        "kube-scheduler",
        &["--kubeconfig=pki/scheduler.conf", "--leader-elect=false", "--secure-port=0"].map(str::to_owned),
    )?;
    let corefile = include_str!("templates/Corefile").replace("{STATE}", &state.display().to_string());
    fs::write(state.join("Corefile"), corefile)?;
    let coredns = vec![programs.join("coredns").display().to_string(), "-conf".to_owned(), "Corefile".to_owned()];
    spawn_daemon(state, "coredns", &state.join("logs/coredns.log"), coredns)
}

/// etcd's arguments; test data need not survive a crash of the machine.
pub(crate) fn etcd_arguments(data: &str, client_port: u16, peer_port: u16) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    vec![
        format!("--data-dir={data}"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
    ]
}

/// The arguments that every API server here has.
pub(crate) fn api_arguments(pki: &str, etcd_port: u16, port: u16) -> Vec<String> {
    vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        format!("--secure-port={port}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={pki}/sa.pub"),
        format!("--service-account-signing-key-file={pki}/sa.key"),
        format!("--tls-cert-file={pki}/apiserver.crt"),
        format!("--tls-private-key-file={pki}/apiserver.key"),
        format!("--client-ca-file={pki}/ca.crt"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged".to_owned(),
    ]
}

/// Waits until the API server says that it is ready.
pub(crate) async fn wait_for_api(client: &kube::Client, is_alive: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let request = http_get("/readyz")?;
        match client.request_text(request).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                bail!("the API server is not ready after {} s: {error}", READY_WITHIN.as_secs())
            }
            Err(_) => is_alive()?,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Says why when a daemon has ended that should run.
pub(crate) fn check_alive(state: &Path, part: &str) -> Result<()> {
    if marked(&Mark::part(state, part)).is_empty() {
        bail!("{part} has ended; the end of its log:\n{}", tail(&state.join("logs").join(format!("{part}.log")), 15));
    }
    Ok(())
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

fn start(state: &Path, programs: &Path, part: &str, arguments: &[String]) -> Result<()> {
    let mut daemon = vec![programs.join("testkube").display().to_string(), part.to_owned()];
    daemon.extend_from_slice(arguments);
    spawn_daemon(state, part, &state.join("logs").join(format!("{part}.log")), daemon)
}
