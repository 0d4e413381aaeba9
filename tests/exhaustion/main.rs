//! What the system refuses (descriptors, maps, room, reads and writes of any file of a store) is an error and nothing else: nothing
//! acknowledged is lost or stale, and when it is there again everything works again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod alone;
mod churn;
#[path = "../common/mod.rs"]
mod common;
mod descriptors;
#[path = "../faults/disk.rs"]
#[allow(dead_code, reason = "other suites use the rest")]
mod disk;
mod every_call;
mod full_disk;
mod model;
mod room;
mod system;
mod world;
