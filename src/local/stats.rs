//! What the local tier adds to a snapshot of the store.

use super::journal::SegmentKind;
use super::tier::LocalTier;
use crate::backend::{LocalStats, Stats};

impl LocalTier {
    /// Adds what is known of the journal, and whether the disk has failed.
    pub fn add_stats(&self, stats: &mut Stats) {
        let segments = self.segments.load();
        let count = |kind_of: fn(SegmentKind) -> bool| segments.values().filter(|it| kind_of(it.kind)).count() as u64;
        let work = &self.work;
        stats.local = Some(LocalStats {
            live_bytes: self.space.live_bytes(),
            pinned_bytes: self.space.pinned_bytes(),
            catalog_bytes: self.space.catalog_bytes(),
            record_segments: count(|kind| kind == SegmentKind::Records),
            body_segments: count(|kind| kind != SegmentKind::Records),
            mapped_segments: segments.values().filter(|segment| segment.is_mapped()).count() as u64,
            reclaimed_segments: work.reclaimed_segments.get(),
            freed_bytes: work.freed_bytes.get(),
            evictions: work.evictions.get(),
            evicted_bytes: work.evicted_bytes.get(),
            expired: work.expired.get(),
            stalls: work.stalls.times.get(),
            stalled_seconds: work.stalls.seconds(),
            room_waits: work.room_waits.times.get(),
            room_waited_seconds: work.room_waits.seconds(),
        });
        if let Some((reason, since)) = self.journal.failure() {
            stats.health.add("writes_refused", reason, since.as_secs_f64());
        }
    }
}
