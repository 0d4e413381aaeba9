//! What the local store keeps to where something fails, is damaged, forks, or ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod children;
mod clearing;
mod collisions;
#[path = "../common/mod.rs"]
mod common;
mod damaged;
#[allow(dead_code, reason = "one test program uses all of it")]
#[path = "../faults/disk.rs"]
mod disk;
mod forks;
mod hidden;
mod numbers;
mod power;
mod process;
mod syncing;
mod writers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scaler_object_storage::{Durability, ObjectStoreBuilder, Underlying};

use disk::FaultyDisk;

pub fn builder(directory: &Path, max_size_mb: u64) -> ObjectStoreBuilder {
    scaler_object_storage::ObjectStore::builder().local(directory).max_size_mb(max_size_mb)
}

pub fn builder_on(directory: &Path, max_size_mb: u64, durability: Durability, disk: &FaultyDisk) -> ObjectStoreBuilder {
    let under = Underlying { disk: Arc::new(disk.clone()), ..Underlying::default() };
    builder(directory, max_size_mb).durability(durability).under(under)
}

/// The segment files with one of these endings.
pub fn segments(directory: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let has_ending = |path: &PathBuf| path.extension().is_some_and(|it| endings.iter().any(|ending| it == *ending));
    let mut paths: Vec<_> = entries.filter(has_ending).collect();
    paths.sort();
    paths
}
