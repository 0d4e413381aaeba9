//! Several nodes that share objects through one Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod capacity;
mod expiry;
mod nodes;
mod races;
mod sharing;
mod slots;
mod waiting;
