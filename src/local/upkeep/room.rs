//! Making room: what the sealer does ahead of need, and for those who wait.

use std::sync::Arc;
use std::time::Duration;

use super::progress::{Looked, Wanted};
use super::sealer::Sealer;
use crate::error::Error;
use crate::local::journal::Segment;

/// How much small segments are merged in one pass, so that it does not hold up what else is due.
const MERGED_BYTES_MAX: u64 = 256 << 20;

/// Longer than a put takes from its body's arrival to its end.
const MOMENT: Duration = Duration::from_millis(2);

impl Sealer {
    /// Reclaims the oldest segments while that is worth it, ahead of need.
    pub(super) fn reclaim(&mut self) -> Result<(), Error> {
        let end = self.tier.journal.end();
        let mut copied_bytes = 0;
        let mut is_merging = self.is_merging;
        while !self.tier.gate.is_closing() && copied_bytes < MERGED_BYTES_MAX {
            let wanted = self.tier.progress.wanted().is_some();
            let Some(segment) = self.tier.reclaimable(wanted, &mut is_merging).filter(|it| it.number <= end.segment())
            else {
                break;
            };
            copied_bytes += segment.live_bytes();
            if !self.reclaim_one(&segment)? {
                break;
            }
            self.tier.progress.freed();
        }
        self.is_merging = is_merging;
        if self.tier.outbox.is_some() && self.tier.space.wants_eviction() {
            self.evict()?;
        }
        Ok(())
    }

    /// Frees the oldest segment; false where nothing could be gained, or there was no room for its copies.
    fn reclaim_one(&mut self, segment: &Arc<Segment>) -> Result<bool, Error> {
        if let Err(error) = self.forget_missing(segment.number) {
            tracing::debug!("{error}; hints of missing segments go later");
        }
        let hints = self.hints(segment)?;
        if !self.tier.is_evictable(segment, &hints) {
            return Ok(false);
        }
        if !self.tier.evacuate(segment, &hints)? {
            tracing::warn!("no room to copy what is live in segment {} forward; trying again later", segment.number);
            return Ok(false);
        }
        // Hints without their segment would look like a loss.
        self.tier.segments.reclaimed(segment.number)?;
        if let Err(error) = self.catalog.remove(segment.number) {
            tracing::debug!("the hints of segment {} go later: {error}", segment.number);
        }
        self.tier.segments.remove(segment)?;
        // What was damaged beyond recognition in it counted as live to the end.
        self.tier.space.remove_live(segment.live_bytes());
        if let Some(outbox) = &self.tier.outbox {
            let directory = self.tier.segments.directory();
            self.tier.segments.sync_directory().map_err(Error::io("sync", directory))?;
            self.tier.bodies.segments_gone(segment.number);
            outbox.set_uncertain(false);
        }
        self.tier.refill_spares()?;
        Ok(true)
    }

    /// Evicts what is in the last, not yet full segment, too, and frees the bodies of what was evicted at once.
    fn evict(&mut self) -> Result<(), Error> {
        if self.tier.segments.record_segments() == 1 && self.tier.journal.seal_active() {
            self.seal_pending()?;
            let mut is_merging = self.is_merging;
            if let Some(segment) = self.tier.reclaimable(true, &mut is_merging) {
                self.reclaim_one(&segment)?;
            }
        }
        self.tier.reap_bodies().map(drop)
    }

    /// Somebody waits for room: everything that may make room, the cheapest first, until there is some.
    pub(super) fn make_room(&mut self, wanted: Wanted) -> Result<Looked, Error> {
        // A record finds its room in a new segment for records, a body in a new one for bodies or in a hole.
        let bytes = wanted.bytes.max(self.tier.space.segment_bytes_max()).saturating_add(1 << 16);
        if self.tier.reap_bodies()? > 0 || self.tier.bodies.drop_empty()? || self.tier.journal.drop_prepared() {
            return Ok(Looked::Made);
        }
        if self.tier.sealed_dead_bytes() == 0 && self.tier.has_dead_tail() && self.tier.journal.seal_active() {
            self.seal_pending()?;
        }
        // Under the limit, that is: the disk may still refuse it.
        let has_room = |sealer: &Self| {
            let space = &sealer.tier.space;
            let is_admitted = !wanted.is_live || space.admits(wanted.bytes);
            !wanted.is_disk_full && is_admitted && space.has_ordinary_room(bytes)
        };
        let mut left_bytes = self.tier.record_bytes();
        let mut is_made = false;
        // Once around: then everything dead is gone.
        while !has_room(self) && self.tier.sealed_dead_bytes() > 0 && left_bytes > 0 {
            let Some(segment) = self.tier.oldest_sealed() else { break };
            left_bytes = left_bytes.saturating_sub(segment.bytes());
            if self.tier.gate.is_closing() || !self.reclaim_one(&segment)? {
                break;
            }
            is_made = true;
            self.tier.progress.freed();
        }
        if is_made || self.compact_bodies()? || has_room(self) {
            return Ok(Looked::Made);
        }
        // A body that has just come in has not let go yet what it supersedes.
        std::thread::sleep(MOMENT);
        // Bodies that readers hold come free when these let go; nobody waits for that.
        Ok(match self.tier.reap_bodies()? {
            0 if self.tier.bodies.has_reservations() => Looked::UnderWay,
            0 => Looked::Barren,
            _ => Looked::Made,
        })
    }

    /// Moves the bodies of the body segment with the most free room into holes of others; whether that has freed room.
    fn compact_bodies(&mut self) -> Result<bool, Error> {
        let Some((segment, records)) = self.tier.bodies.sparsest() else { return Ok(false) };
        for record in records {
            self.tier.move_body(record, segment.number)?;
        }
        // What was moved out is free once the records that say so are durable.
        Ok(self.tier.reap_bodies()? > 0)
    }
}
