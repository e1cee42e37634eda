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

/// A local address that leads to one pod, until it is dropped.
#[derive(Debug)]
pub struct PodForward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl PodForward {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(client: Client, namespace: &str, pod: &str, port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let pod = pod.to_owned();
        let task = tokio::spawn(accept(listener, move |stream| {
            let (pods, pod) = (pods.clone(), pod.clone());
            async move { carry(&pods, &pod, port, stream).await }
        }));
        Ok(Self { address, task })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PodForward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Which pods a forwarder leads to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pods' namespace.
    pub namespace: String,
    /// Their labels, such as `app=gateway`.
    pub selector: String,
    /// The port inside the pod.
    pub port: u16,
}

/// Leads each new connection of a local address to a ready pod, one after the other; does not end by itself.
///
/// # Errors
/// When it cannot listen there.
pub async fn serve(client: Client, listen: SocketAddr, target: Target) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let turn = Arc::new(AtomicUsize::new(0));
    let pods: Api<Pod> = Api::namespaced(client, &target.namespace);
    accept(listener, move |stream| {
        let (pods, turn, target) = (pods.clone(), turn.clone(), target.clone());
        async move {
            let mut names = ready_pods(&pods, &target.selector).await?;
            names.sort();
            let at = turn.fetch_add(1, Ordering::Relaxed).checked_rem(names.len()).context("no pod is ready")?;
            carry(&pods, &names[at], target.port, stream).await
        }
    })
    .await;
    Ok(())
}

async fn accept<F, R>(listener: TcpListener, handle: F)
where
    F: Fn(TcpStream) -> R,
    R: Future<Output = Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Connections end with the forwarder.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handled = handle(stream);
                connections.spawn(async move {
                    if let Err(error) = handled.await {
                        eprintln!("cluster: forward: {error:#}");
                    }
                    drop(place);
                });
            }
            Err(error) => eprintln!("cluster: forward: {error}"),
        }
    }
}

async fn carry(pods: &Api<Pod>, pod: &str, port: u16, mut local: TcpStream) -> Result<()> {
    let mut forwarder = pods.portforward(pod, &[port]).await.with_context(|| format!("pod {pod}"))?;
    let mut remote = forwarder.take_stream(port).context("the port-forward has no stream")?;
    local.set_nodelay(true)?;
    // A cut on either side is how connections end when pods die: nothing to report.
    let _ = copy_bidirectional(&mut local, &mut remote).await;
    forwarder.abort();
    Ok(())
}

async fn ready_pods(pods: &Api<Pod>, selector: &str) -> Result<Vec<String>> {
    let listed = pods.list(&ListParams::default().labels(selector)).await?;
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        pod.metadata.deletion_timestamp.is_none()
            && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    Ok(listed.items.iter().filter(|pod| is_ready(pod)).map(ResourceExt::name_any).collect())
}
