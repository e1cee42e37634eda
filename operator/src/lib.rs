//! The CollabCluster operator. Each reconcile is five steps: fetch → validate → build → apply → status.
//!
//! `validate`, `build` and `status` are pure: no client, no clock. `fetch` and `apply` talk to the API server; `controller`
//! decides when a reconcile runs. In: CollabClusters. Out: their children, their status, Events.

pub mod apply;
pub mod build;
pub mod connections;
pub mod context;
pub mod controller;
pub mod differs;
pub mod events;
pub mod fetch;
pub mod health;
pub mod kinds;
pub mod names;
pub mod plan;
pub mod pods;
pub mod quantity;
pub mod reconcile;
pub mod status;
pub mod validate;
pub mod warnings;
