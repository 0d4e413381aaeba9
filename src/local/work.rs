//! Counters of what upkeep does and of what writers wait for: none of them on a path that does not wait or free something anyway.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was done since the store was opened.
#[derive(Default)]
pub(super) struct Work {
    pub reclaimed_segments: Count,
    pub freed_bytes: Count,
    pub evictions: Count,
    pub evicted_bytes: Count,
    pub expired: Count,
    /// Puts that were held back.
    pub stalls: Waits,
    /// Writes that waited for room.
    pub room_waits: Waits,
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

/// How often something was waited for, and how long in all.
#[derive(Default)]
pub(super) struct Waits {
    pub times: Count,
    nanoseconds: Count,
}

impl Waits {
    pub fn add(&self, waited: Duration) {
        self.times.add(1);
        self.nanoseconds.add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanoseconds.get()).as_secs_f64()
    }
}
