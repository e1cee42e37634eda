//! What a test does to a cluster: the one on this machine, or the one that `KUBECONFIG` names.
//!
//! In: names of nodes, pods and files. Out: clients, outputs of commands, and failures made on purpose. Nodes can only
//! be harmed where they are ours: elsewhere those functions say that they are not available.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, api::ListParams};

use crate::{
    forward::{Forward, Pods, Target},
    image, local,
    network::{self, Node},
    node,
    process::run_command,
    programs,
};

/// A node notices at once that it is back; the API server hears of it with the next heartbeat.
const NODE_WITHIN: Duration = Duration::from_secs(120);

/// A running cluster.
#[derive(Clone)]
pub struct Cluster {
    kubeconfig: PathBuf,
    is_ours: bool,
    client: Client,
}

/// The kubeconfig of somebody else's cluster, when `KUBECONFIG` is set to one.
pub fn foreign_kubeconfig() -> Option<PathBuf> {
    let set = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from)?;
    (set != local::kubeconfig()).then_some(set)
}

impl Cluster {
    /// The cluster that `KUBECONFIG` names; without it the one on this machine, which is started if it does not run.
    /// The client belongs to the async runtime of the caller: get a `Cluster` in each test.
    ///
    /// # Errors
    /// When the cluster cannot be reached, or this machine cannot carry one.
    pub async fn get_or_up() -> Result<Self> {
        let (kubeconfig, is_ours) = match foreign_kubeconfig() {
            Some(kubeconfig) => (kubeconfig, false),
            None => {
                local::up().await?;
                (local::kubeconfig(), true)
            }
        };
        let client = local::client_of(&kubeconfig).await?;
        Ok(Self { kubeconfig, is_ours, client })
    }

    /// The same, but the one on this machine is left as it is: not started, and its nodes not repaired.
    ///
    /// # Errors
    /// When there is none, or it cannot be reached.
    pub async fn get() -> Result<Self> {
        match foreign_kubeconfig() {
            Some(kubeconfig) => Self::foreign(&kubeconfig).await,
            None => {
                let kubeconfig = local::kubeconfig();
                if !kubeconfig.exists() {
                    bail!("the cluster is down; `cluster up` starts it");
                }
                let client = local::client_of(&kubeconfig).await?;
                Ok(Self { kubeconfig, is_ours: true, client })
            }
        }
    }

    /// Somebody else's cluster.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn foreign(kubeconfig: &Path) -> Result<Self> {
        let client = local::client_of(kubeconfig).await?;
        Ok(Self { kubeconfig: kubeconfig.to_owned(), is_ours: false, client })
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The kubeconfig's path.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Whether nodes may be harmed.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Runs kubectl and returns its output.
    ///
    /// # Errors
    /// When it ends with an error; the message holds what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.tool("kubectl", arguments)
    }

    /// Runs Helm and returns its output.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.tool("helm", arguments)
    }

    /// Makes an image archive known to all nodes. Pods that run an older image of that name are deleted, so that their
    /// controllers start the new one. On somebody else's cluster it does nothing: there images come from a registry, or
    /// were loaded before (`kind load image-archive`).
    ///
    /// # Errors
    /// When a node refuses the archive.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        if !self.is_ours || !local::load_image(archive)? {
            return Ok(());
        }
        let name = image::name_in(archive)?;
        let short = name.trim_start_matches("docker.io/");
        let template =
            "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} {.spec.containers[*].image}\n{end}";
        for line in self.kubectl(&["get", "pods", "-A", "-o", template])?.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if words.len() > 2 && words[2..].iter().any(|image| image.trim_start_matches("docker.io/") == short) {
                self.kubectl(&["delete", "pod", "-n", words[0], words[1], "--wait=false", "--ignore-not-found"])?;
            }
        }
        Ok(())
    }

    /// Power loss: every process of the node ends at once, its address is gone, its disk stays.
    ///
    /// # Errors
    /// "not available" on somebody else's cluster.
    pub fn kill_node(&self, name: &str) -> Result<()> {
        node::kill(local::state(), self.own_node(name)?)
    }

    /// Gives a node its power back and waits until it is Ready.
    ///
    /// # Errors
    /// As [`Self::kill_node`], and when it is not Ready after 120 s.
    pub async fn start_node(&self, name: &str) -> Result<()> {
        let node = self.own_node(name)?;
        if !local::is_running(node) {
            node::start(local::state(), &programs::folder()?, node)?;
        }
        self.wait_for_node(name, true).await
    }

    /// Pulls the node's cable: it goes on running and hears and says nothing.
    ///
    /// # Errors
    /// As [`Self::kill_node`].
    pub fn partition_node(&self, name: &str) -> Result<()> {
        network::set_cable(self.own_node(name)?, false)
    }

    /// Plugs the cable in again.
    ///
    /// # Errors
    /// As [`Self::kill_node`].
    pub fn heal_node(&self, name: &str) -> Result<()> {
        network::set_cable(self.own_node(name)?, true)
    }

    /// Waits until a node is Ready, or is not.
    ///
    /// # Errors
    /// When that is not so after 120 s.
    pub async fn wait_for_node(&self, name: &str, is_ready: bool) -> Result<()> {
        let deadline = Instant::now() + NODE_WITHIN;
        loop {
            let states = local::node_states(&self.client).await?;
            if states.iter().any(|(node, state)| node == name && *state == is_ready) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("after {} s the nodes (name, is Ready) are {states:?}", NODE_WITHIN.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Kills a container's main process with SIGKILL, as when it crashes or runs out of memory.
    ///
    /// # Errors
    /// "not available" on somebody else's cluster; when the container does not run.
    pub async fn kill_container(&self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        let found = Api::<Pod>::namespaced(self.client(), namespace).get(pod).await?;
        let node = found.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("the pod has no node yet")?;
        let node = self.own_node(&node)?;
        let status = found.status.unwrap_or_default();
        let all = status.container_statuses.iter().chain(status.init_container_statuses.iter()).flatten();
        let id = all
            .filter(|state| state.name == container)
            .find_map(|state| state.container_id.as_deref()?.strip_prefix("containerd://"))
            .with_context(|| format!("pod {pod} has no running container {container}"))?;
        let arguments = ["tasks", "kill", "--signal", "SIGKILL", id];
        node::ctr(local::state(), &programs::folder()?, node, &arguments).map(|_| ())
    }

    /// A local address whose every new connection goes to a pod's port by a port-forward of its own.
    ///
    /// # Errors
    /// When no local port can be had.
    pub async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Forward> {
        let target = Target { namespace: namespace.to_owned(), pods: Pods::Named(pod.to_owned()), port };
        Forward::open(self.client(), target).await
    }

    /// The node that each pod of a label selector is on.
    ///
    /// # Errors
    /// When the pods cannot be listed.
    pub async fn nodes_of_pods(&self, namespace: &str, selector: &str) -> Result<Vec<(String, String)>> {
        let pods =
            Api::<Pod>::namespaced(self.client(), namespace).list(&ListParams::default().labels(selector)).await?;
        Ok(pods
            .into_iter()
            .filter_map(|pod| {
                let name = pod.name_any();
                Some((name, pod.spec?.node_name?))
            })
            .collect())
    }

    /// Writes what helps to find out why a test failed: objects, events, logs of pods and components. What cannot be
    /// had is left out.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub async fn collect_logs(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let listings: [(&str, &[&str]); 3] = [
            ("objects.txt", &["get", "nodes,pods,services,pvc,pv,deployments,statefulsets,pdb", "-A", "-o", "wide"]),
            ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"]),
            ("pods.yaml", &["get", "pods", "-A", "-o", "yaml"]),
        ];
        for (file, arguments) in listings {
            let text = self.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}"));
            std::fs::write(folder.join(file), text)?;
        }
        for pod in Api::<Pod>::all(self.client()).list(&ListParams::default()).await? {
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            for (ending, previous) in [("log", false), ("previous.log", true)] {
                let flag = format!("--previous={previous}");
                let arguments = ["logs", "-n", &namespace, &name, "--all-containers", "--prefix", &flag];
                if let Ok(text) = self.kubectl(&arguments) {
                    std::fs::write(folder.join(format!("{namespace}-{name}.{ending}")), text)?;
                }
            }
        }
        if self.is_ours {
            local::copy_logs(folder);
        }
        Ok(())
    }

    fn own_node(&self, name: &str) -> Result<Node> {
        if !self.is_ours {
            bail!(
                "not available: the cluster that KUBECONFIG names is not this project's, so its nodes are left alone"
            );
        }
        Node::named(name)
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let built = programs::folder()?.join(name);
        // With somebody else's cluster a person has these tools, and building them takes minutes.
        let program = if self.is_ours || built.exists() { built } else { PathBuf::from(name) };
        let mut command = Command::new(program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig);
        if self.is_ours {
            local::isolate(&mut command);
        }
        run_command(command)
    }
}
