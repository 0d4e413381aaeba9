//! Who decides that an object is safe in Redis, and who may wait for whom.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

#[path = "../faults/disk.rs"]
#[allow(dead_code, reason = "the tests of faults use all of it")]
mod disk;
mod emptied;
mod health;
mod log;
mod once;
mod pushing;
mod reconnecting;
mod set_aside;
mod settling;
mod world;
