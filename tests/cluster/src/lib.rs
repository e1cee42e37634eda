//! A real Kubernetes for tests, on one machine and from package registries only.
//!
//! In: a Linux machine with root, Go and Debian packages, or `KUBECONFIG` and with it somebody else's cluster. Out: two
//! nodes of Kubernetes (each a network, mount and process namespace, so that a node can lose its power or be cut off),
//! or only an API server with its etcd; and what tests do to them.

mod apiserver;
pub mod background;
mod cgroup;
mod cluster;
mod control_plane;
pub mod forward;
pub mod image;
pub mod images;
pub mod local;
mod machine;
mod network;
mod node;
mod objects;
pub mod paths;
mod pki;
mod process;
pub mod programs;
mod progress;

pub use apiserver::ApiServer;
pub use cluster::{Cluster, foreign_kubeconfig};
