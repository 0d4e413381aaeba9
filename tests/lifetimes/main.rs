//! Lifetimes with the backends `local` and `memory`, where clocks, disks and room are not as they should be. `tests/contract/lifetimes.rs` has what
//! every backend promises, `tests/clocks/lifetimes.rs` what holds with Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../faults/disk.rs"]
#[allow(dead_code, reason = "another test program uses all of it")]
mod disk;
#[path = "../clocks/wall.rs"]
#[allow(dead_code, reason = "another test program uses all of it")]
mod wall;

mod attached;
mod clock;
mod faults;
mod memory;
mod opening;
mod races;
mod restoring;
mod room;

use std::time::{SystemTime, UNIX_EPOCH};

use scaler_object_storage::{ObjectStore, Version};

const YEAR: i64 = 365 * 24 * 3600;

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A version of this moment, of another store.
pub fn version() -> Version {
    let other = ObjectStore::builder().memory().open().unwrap();
    other.put(b"id", b"", b"").unwrap();
    other.describe(b"id", false).unwrap().unwrap().version.unwrap()
}
