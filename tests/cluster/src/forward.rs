//! Ways into pods by the API server's port-forward, opened anew for every connection.
//!
//! In: local TCP connections. Out: the same bytes to and from a pod. This works for every cluster that a kubeconfig
//! reaches, whatever its network; and a connection that a dying pod cuts is cut here too.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, api::ListParams};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};

/// Connections at a time: each is a WebSocket to the API server and a stream to a kubelet.
const CONNECTIONS_MAX: usize = 256;

/// Which pods a forwarder leads to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pods' namespace.
    pub namespace: String,
    /// Who gets a connection.
    pub pods: Pods,
    /// The port inside the pod.
    pub port: u16,
}

/// Who gets the next connection.
#[derive(Clone, Debug)]
pub enum Pods {
    /// This one, ready or not.
    Named(String),
    /// The ready pods with these labels (such as `app=gateway`), one after the other by name.
    InTurn(String),
    /// Of the ready pods with these labels the one with this number by name; with fewer pods, another one.
    Preferred(String, usize),
}

/// A local address that leads to pods, until it is dropped.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn open(client: Client, target: Target) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(accept(listener, Way::new(client, target))) })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Leads each new connection of a local address to a pod; does not end by itself.
///
/// # Errors
/// When it cannot listen there.
pub async fn serve(client: Client, listen: SocketAddr, target: Target) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    accept(listener, Way::new(client, target)).await;
    Ok(())
}

/// Whether a pod is ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn accept(listener: TcpListener, way: Way) {
    let way = Arc::new(way);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Connections end with the forwarder.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let way = way.clone();
                connections.spawn(async move {
                    if let Err(error) = way.carry(stream).await {
                        eprintln!("cluster: forward: {error:#}");
                    }
                    drop(place);
                });
            }
            Err(error) => eprintln!("cluster: forward: {error}"),
        }
    }
}

struct Way {
    api: Api<Pod>,
    target: Target,
    turn: AtomicUsize,
}

impl Way {
    fn new(client: Client, target: Target) -> Self {
        Self { api: Api::namespaced(client, &target.namespace), target, turn: AtomicUsize::new(0) }
    }

    async fn carry(&self, mut local: TcpStream) -> Result<()> {
        let pod = self.choose().await?;
        let port = self.target.port;
        let mut forwarder = self.api.portforward(&pod, &[port]).await.with_context(|| format!("pod {pod}"))?;
        let mut remote = forwarder.take_stream(port).context("the port-forward has no stream")?;
        local.set_nodelay(true)?;
        // A cut on either side is how connections end when pods die: nothing to report.
        let _ = copy_bidirectional(&mut local, &mut remote).await;
        forwarder.abort();
        Ok(())
    }

    async fn choose(&self) -> Result<String> {
        let (selector, wanted) = match &self.target.pods {
            Pods::Named(name) => return Ok(name.clone()),
            Pods::InTurn(selector) => (selector, self.turn.fetch_add(1, Ordering::Relaxed)),
            Pods::Preferred(selector, number) => (selector, *number),
        };
        let listed = self.api.list(&ListParams::default().labels(selector)).await?;
        let mut names: Vec<_> = listed.items.iter().filter(|pod| is_ready(pod)).map(ResourceExt::name_any).collect();
        names.sort();
        let at = wanted.checked_rem(names.len()).context("no pod is ready")?;
        Ok(names.swap_remove(at))
    }
}
