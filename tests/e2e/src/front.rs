//! A loopback address in front of gateway pods.
//!
//! In: TCP connections. Out: each is carried by a port-forward of its own through the API server to one ready pod, so
//! that tests need no route to pods and run against any cluster.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Which of the ready pods, in the order of their names, gets the next connection.
#[derive(Debug, Clone)]
pub enum Choice {
    /// The one of this number while it is ready, else another.
    Prefer(usize),
    /// One after the other.
    InTurn,
}

/// The listening address; it closes when this is dropped.
pub struct Front {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Front {
    /// Listens on a free port of 127.0.0.1 for pods of `selector`, port `port`.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn open(client: Client, namespace: &str, selector: &str, port: u16, choice: Choice) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("opening a loopback port")?;
        let address = listener.local_addr()?;
        let backend = Arc::new(Backend {
            pods: Api::namespaced(client, namespace),
            selector: selector.to_owned(),
            port,
            choice,
            turn: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let backend = backend.clone();
                // Ends with its connection; the test's runtime ends what is left.
                tokio::spawn(async move {
                    if let Err(error) = backend.carry(stream).await {
                        eprintln!("front: {error:#}");
                    }
                });
            }
        });
        Ok(Self { address, accepting })
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Backend {
    pods: Api<Pod>,
    selector: String,
    port: u16,
    choice: Choice,
    turn: AtomicUsize,
}

impl Backend {
    async fn carry(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let pod = self.choose().await?;
        let mut forward = self.pods.portforward(&pod, &[self.port]).await.with_context(|| format!("pod {pod}"))?;
        let mut upstream = forward.take_stream(self.port).context("the port-forward has no stream")?;
        // Either side closing is an ordinary end: pods die here on purpose.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
        Ok(())
    }

    async fn choose(&self) -> Result<String> {
        let list = self.pods.list(&ListParams::default().labels(&self.selector)).await?;
        let mut ready: Vec<String> =
            list.items.iter().filter(|pod| is_ready(pod)).filter_map(|pod| pod.metadata.name.clone()).collect();
        ready.sort();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let wanted = match self.choice {
            Choice::Prefer(number) => number,
            Choice::InTurn => turn,
        };
        let count = ready.len().max(1);
        ready.into_iter().nth(wanted % count).context("no ready pod")
    }
}

/// Ready, and not on its way out.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}
