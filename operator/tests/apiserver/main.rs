//! The resource and the reconciler against a real API server with its etcd (and no controllers).
//!
//! In: the test cluster's API server, one for this whole program; every test has a namespace of its own. Out: what the API
//! server says and holds.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod chart;
mod reconciling;
mod resource;
mod world;
