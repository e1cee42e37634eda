//! The cluster with our images and the operator on it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use cluster::Cluster;
use kube::Client;

/// A cluster on which CollabClusters work.
pub struct Stack {
    /// The machine room: nodes, kubectl, helm.
    pub cluster: Cluster,
    /// An administrator's client.
    pub client: Client,
}

impl Stack {
    /// Brings the cluster up where it is not, loads the images, and installs or upgrades the operator with Helm.
    ///
    /// # Errors
    /// When a step fails; the message names it.
    pub async fn ready() -> Result<Self> {
        let cluster = Cluster::get_or_up().await.context("bringing the cluster up")?;
        for image in ["gateway", "operator", "valkey"] {
            let archive = cluster::images::archive(image)?;
            cluster.load_image(&archive).with_context(|| format!("loading {image} (`make images` builds it)"))?;
        }
        let chart = root().join("charts/collab-operator");
        let chart = chart.to_string_lossy();
        let arguments = ["upgrade", "--install", "collab", &chart, "--namespace=collab-system", "--create-namespace"];
        cluster.helm(&[&arguments[..], &["--wait", "--timeout=3m"]].concat()).context("installing the operator")?;
        let client = cluster.client();
        Ok(Self { cluster, client })
    }
}

/// The top of the checkout.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the checkout is there")
}
