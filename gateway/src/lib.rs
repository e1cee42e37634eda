//! The WebSocket gateway: sockets, sign-in, open documents, store and bus.
//!
//! `main.rs` is configure → bind → serve → drain; everything it uses is here. The rules of editing are not: they live in
//! the `document` crate, which this process drives.

pub mod admin;
pub mod admission;
pub mod auth;
pub mod budget;
pub mod bus;
mod changes;
mod clock;
pub mod config;
pub mod connection;
pub mod control;
pub mod demo;
pub mod directory;
mod document_io;
mod document_task;
pub mod documents;
pub mod drain;
pub mod encoded;
pub mod http_client;
pub mod lease;
pub mod live;
pub mod log;
mod looks;
pub mod meter;
pub mod metrics;
pub mod open_files;
pub mod outbox;
pub mod registry;
pub mod resting;
pub mod server;
pub mod sign_in;
pub mod start;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod tickets;
pub mod tls;
pub mod unheard;
pub mod upgrade;
