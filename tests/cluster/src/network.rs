//! The wire between the nodes: a bridge in a network namespace of its own, with one cable to the host and one to the
//! namespace of each node.
//!
//! In: nodes. Out: interfaces, routes and namespaces named `collab…`. The host reaches nodes and pods directly; no
//! packet is translated and no firewall rule is made on the host. The bridge is apart from the host because on a host
//! with Docker a firewall rule drops what passes a bridge.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process::run;

/// The host's address on the wire: API server and cluster DNS listen here.
pub(crate) const HOST: &str = "10.250.0.1";
/// Addresses of Services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The API server's Service.
pub(crate) const API_SERVICE: &str = "10.96.0.1";

const WIRE: &str = "collab-wire";
const BRIDGE: &str = "bridge";
/// The host's end of its cable.
const HOST_CABLE: &str = "collab0";

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// 1 or 2.
    pub(crate) number: u8,
}

/// The nodes of every cluster.
pub(crate) const NODES: [Node; 2] = [Node { number: 1 }, Node { number: 2 }];

impl Node {
    /// The node of a name such as `n2`.
    pub(crate) fn named(name: &str) -> Result<Self> {
        NODES
            .into_iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("no node {name}: there are n1 and n2"))
    }

    pub(crate) fn name(self) -> String {
        format!("n{}", self.number)
    }

    pub(crate) fn address(self) -> String {
        format!("10.250.0.1{}", self.number)
    }

    pub(crate) fn pods(self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    pub(crate) fn namespace(self) -> String {
        format!("collab-n{}", self.number)
    }

    pub(crate) fn namespace_file(self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.namespace())
    }

    fn cable(self) -> String {
        format!("cable{}", self.number)
    }
}

/// Makes the bridge and connects the host.
pub(crate) fn create_bridge() -> Result<()> {
    ip(&format!("netns add {WIRE}"))?;
    ip(&format!("-n {WIRE} link add {BRIDGE} type bridge"))?;
    ip(&format!("-n {WIRE} link set {BRIDGE} up"))?;
    ip(&format!("link add {HOST_CABLE} type veth peer name host netns {WIRE}"))?;
    ip(&format!("-n {WIRE} link set host master {BRIDGE} up"))?;
    ip(&format!("addr add {HOST}/24 dev {HOST_CABLE}"))?;
    ip(&format!("link set {HOST_CABLE} up"))
}

/// Makes a node's namespace and connects it.
pub(crate) fn connect(node: Node) -> Result<()> {
    let (namespace, cable) = (node.namespace(), node.cable());
    ip(&format!("netns add {namespace}"))?;
    ip(&format!("-n {WIRE} link add {cable} type veth peer name eth0 netns {namespace}"))?;
    ip(&format!("-n {WIRE} link set {cable} master {BRIDGE} up"))?;
    ip(&format!("-n {namespace} addr add {}/24 dev eth0", node.address()))?;
    ip(&format!("-n {namespace} link set eth0 up"))?;
    ip(&format!("-n {namespace} link set lo up"))?;
    ip(&format!("-n {namespace} route add default via {HOST}"))?;
    for other in NODES.into_iter().filter(|other| *other != node) {
        ip(&format!("-n {namespace} route add {} via {}", other.pods(), other.address()))?;
    }
    ip(&format!("route replace {} via {}", node.pods(), node.address()))?;
    let file = format!("--net={}", node.namespace_file().display());
    let settings = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet";
    run("nsenter", &[&file, "sh", "-c", settings])?;
    Ok(())
}

/// Takes a node's namespace away, and its cable and firewall rules with it. Fine when there is none.
pub(crate) fn disconnect(node: Node) {
    // Each may be missing: what matters is that none is left, which `leftovers` tells.
    let _ = ip(&format!("-n {WIRE} link del {}", node.cable()));
    let _ = ip(&format!("netns del {}", node.namespace()));
    let _ = ip(&format!("route del {}", node.pods()));
}

/// Takes the bridge away.
pub(crate) fn remove_bridge() {
    let _ = ip(&format!("link del {HOST_CABLE}"));
    let _ = ip(&format!("netns del {WIRE}"));
}

/// Pulls a node's cable, or plugs it in again.
pub(crate) fn set_cable(node: Node, is_up: bool) -> Result<()> {
    ip(&format!("-n {WIRE} link set {} {}", node.cable(), if is_up { "up" } else { "down" }))
}

/// Interfaces and namespaces of this project that exist.
pub(crate) fn leftovers() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (what, listing) in [("interface", run("ip", &["-o", "link"])?), ("namespace", run("ip", &["netns", "list"])?)] {
        for line in listing.lines().filter(|line| line.contains("collab")) {
            found.push(format!("{what}: {line}"));
        }
    }
    for line in run("ip", &["route"])?.lines().filter(|line| line.contains("10.244.") || line.contains("10.250.")) {
        found.push(format!("route: {line}"));
    }
    Ok(found)
}

fn ip(arguments: &str) -> Result<()> {
    let words: Vec<&str> = arguments.split(' ').collect();
    run("ip", &words).map(|_| ())
}
