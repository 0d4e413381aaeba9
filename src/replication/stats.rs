//! What replication adds to a snapshot of the store.

use std::time::Instant;

use super::TieredBackend;
use crate::backend::{ReplicationStats, Stats};
use crate::error::Error;

impl TieredBackend {
    /// Adds how far behind Redis is, what was sent and heard, and what does not work.
    pub(super) fn add_replication_stats(&self, stats: &mut Stats) -> Result<(), Error> {
        let tier = self.tier()?;
        let Some(outbox) = tier.outbox() else { return Ok(()) };
        let unpushed = tier.unpushed()?;
        let counted = &self.counters;
        stats.replication = Some(ReplicationStats {
            is_reachable: !self.health.is_away(),
            dirty_records: unpushed.records,
            dirty_bytes: unpushed.bytes,
            oldest_dirty_seconds: unpushed.oldest_age.as_secs_f64(),
            is_estimate: unpushed.is_estimate,
            unsettled_bytes: tier.unsettled_bytes(),
            held_records: outbox.ledger.held_count() as u64,
            pushes: counted.pushes.get(),
            pushed_bytes: counted.pushed_bytes.get(),
            overtaken: counted.overtaken.get(),
            refusals: counted.refusals.get(),
            connects: counted.connects.get(),
            connect_failures: counted.connect_failures.get(),
            disconnects: counted.disconnects.get(),
            events: counted.events.get(),
            last_event_seconds: counted.last_event.lock().map(|heard| heard.elapsed().as_secs_f64()),
            event_gaps: outbox.losses(),
            has_suspects: outbox.has_suspects(),
            peers: self.peers.count() as u64,
            fetches: counted.fetches.get(),
            fills: counted.fills.get(),
            fetching: self.flights.count() as u64,
        });
        let now = Instant::now();
        for (kind, text, since) in self.health.complaints(now) {
            stats.health.add(kind, text, now.saturating_duration_since(since).as_secs_f64());
        }
        Ok(())
    }
}
