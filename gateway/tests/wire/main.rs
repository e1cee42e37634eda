//! The gateway's public port, spoken to by a WebSocket client that is not ours: what clients may send, and what they
//! get. The server runs in the test's process on a free port, over the embedded store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for what it asked for")]

mod access;
mod admin;
mod admission;
mod codes;
mod compression;
mod demo;
mod document_memory;
mod drain;
mod editing;
mod harness;
mod hostile;
mod limits;
mod memory;
mod public_keys;
mod refusals;
#[path = "../signers/mod.rs"]
mod signers;
mod slow;
mod stored;
mod tls;
mod upgrade;
#[path = "../web/mod.rs"]
mod web;
mod webhook_trouble;
mod webhooks;
