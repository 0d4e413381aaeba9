//! What replication has done since the store was opened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// Counted by the threads that wait for Redis.
#[derive(Default)]
pub(super) struct Counters {
    pub pushes: Count,
    pub pushed_bytes: Count,
    pub overtaken: Count,
    pub refusals: Count,
    pub connects: Count,
    pub connect_failures: Count,
    pub disconnects: Count,
    pub events: Count,
    pub fetches: Count,
    /// Gets of the store that were answered with what Redis had.
    pub fetched_gets: Count,
    pub fills: Count,
    pub last_event: Mutex<Option<Instant>>,
}

/// A number that only grows.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
