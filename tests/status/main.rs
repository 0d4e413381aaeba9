//! What a server shows over HTTP: metrics, health, and the status page in a browser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod browser;
#[path = "../server/client.rs"]
mod client;
mod health;
mod hostile;
mod http;
mod metrics;
mod page;
mod rig;
