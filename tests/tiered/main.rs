//! Several nodes that share objects through one Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod capacity;
#[path = "../faults/disk.rs"]
#[allow(dead_code, reason = "the tests of faults use all of it")]
mod disk;
mod expiry;
mod failing;
mod nodes;
mod races;
mod room;
mod sharing;
mod stats;
mod suspects;
mod waiting;
