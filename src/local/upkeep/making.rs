//! Making room: how the sealer reclaims, evicts and compacts, ahead of need and for those who wait. `room` decides when, `reclaim` does
//! it to one segment.

use std::sync::Arc;
use std::time::Duration;

use super::progress::{Looked, RoomDemand};
use super::reclaim::Reason;
use super::room::{Eviction, Victims};
use super::sealer::Sealer;
use crate::backend::Patience;
use crate::error::Error;
use crate::local::journal::{Segment, SegmentKind};

/// Most bytes that are copied in one pass to merge small segments, so that the pass does not hold up what else is due.
const MERGED_BYTES_MAX: u64 = 256 << 20;

/// Most steps that are made in one pass for a thread that found no room and did not wait. It asks again.
const WISH_STEPS_MAX: usize = 16;

/// Longer than a put takes from its body's write to its end.
const MOMENT: Duration = Duration::from_millis(2);

impl Sealer {
    /// Reclaims the oldest segments while that is worth it, ahead of need.
    pub(super) fn reclaim(&mut self) -> Result<(), Error> {
        if self.tier.room.wants_garbage() || self.tier.room.wants_eviction() {
            self.tier.bodies.trim_empty()?;
        }
        let end = self.tier.journal.end();
        let mut copied_bytes = 0;
        let mut is_merging = self.is_merging;
        while !self.tier.gate.is_closing() && copied_bytes < MERGED_BYTES_MAX {
            let wanted = self.tier.progress.wanted().is_some();
            let reclaimable = self.tier.reclaimable(wanted, &mut is_merging);
            let Some((segment, reason)) = reclaimable.filter(|(it, _)| it.number <= end.segment()) else { break };
            copied_bytes += segment.live_bytes();
            if !self.reclaim_one(&segment, reason, &Eviction::ahead_of_need(&self.tier.room))? {
                break;
            }
            if self.tier.room.wants_eviction() {
                // Otherwise the room of what was just evicted would not count yet, and the next segment would be evicted for it too.
                self.tier.reap_bodies()?;
            }
            self.tier.progress.freed();
        }
        self.is_merging = is_merging;
        if self.tier.room.wants_eviction() {
            self.evict()?;
        }
        Ok(())
    }

    /// Frees the oldest segment. False if there was nothing to gain, or no room for its copies.
    fn reclaim_one(&mut self, segment: &Arc<Segment>, reason: Reason, eviction: &Eviction) -> Result<bool, Error> {
        if let Err(error) = self.forget_missing(segment.number) {
            tracing::debug!("{error}; hints of missing segments go later");
        }
        let hints = self.hints(segment)?;
        if reason == Reason::Eviction && !self.tier.is_evictable(segment, &hints) {
            return Ok(false);
        }
        if !self.tier.evacuate(segment, &hints, eviction)? {
            tracing::warn!("no room to copy what is live in segment {} forward; trying again later", segment.number);
            return Ok(false);
        }
        // Hints without their segment would look like a loss.
        self.tier.segments.reclaimed(segment.number)?;
        if let Err(error) = self.catalog.remove(segment.number) {
            tracing::debug!("the hints of segment {} go later: {error}", segment.number);
        }
        self.tier.segments.remove(segment)?;
        // At once, before others can fill the disk with what the segment took: deletes may need it.
        let refilled = self.tier.journal.refill_reserve();
        self.tier.work.reclaimed_segments.add(1);
        // Damaged records whose length is unknown counted as live until now.
        self.tier.space.remove_live(segment.live_bytes());
        if self.tier.outbox.is_some() || self.tier.bodies.wait_for_segment(segment.number) {
            let directory = self.tier.segments.directory();
            self.tier.segments.sync_directory().map_err(Error::io("sync", directory))?;
            self.tier.bodies.segments_gone(segment.number);
        }
        if let Some(outbox) = &self.tier.outbox {
            outbox.set_evicting(false);
            outbox.hidden.segment_gone(segment.number);
        }
        refilled?;
        self.tier.refill_spares()?;
        Ok(true)
    }

    /// Ahead of need: evicts also from the active segment if that is the only one, and frees the bodies of what was evicted at once.
    fn evict(&mut self) -> Result<(), Error> {
        if self.tier.segments.record_segments() == 1 && self.has_evictable()? && self.tier.journal.seal_active() {
            self.seal_pending()?;
            let mut is_merging = self.is_merging;
            if let Some((segment, reason)) = self.tier.reclaimable(true, &mut is_merging) {
                self.reclaim_one(&segment, reason, &Eviction::ahead_of_need(&self.tier.room))?;
            }
        }
        self.tier.reap_bodies().map(drop)
    }

    /// Somebody wants room: takes the steps that may make some, the cheapest first, until there is enough. A caller that waits tries again after
    /// each step.
    pub(super) fn make_room(&mut self, wanted: RoomDemand, patience: Patience) -> Result<Looked, Error> {
        if self.tier.reap_bodies()? > 0 || self.tier.bodies.drop_empty()? || self.tier.journal.drop_prepared() {
            return Ok(Looked::Made);
        }
        if self.reclaim_expired()? {
            return Ok(Looked::Made);
        }
        if self.tier.sealed_dead_bytes() == 0 && self.tier.has_dead_tail() && self.tier.journal.seal_active() {
            self.seal_pending()?;
        }
        // A caller that waits takes its room while it is being made; otherwise all of it has to be there at the end.
        let has_room = |sealer: &Self| match patience {
            Patience::Caller => sealer.tier.room.has_room_for(wanted),
            Patience::Background => sealer.tier.room.missing_bytes(wanted) == 0,
        };
        let mut is_made = false;
        // Once through the sealed segments: those that the copies fill are sealed later.
        while !has_room(self) && self.tier.sealed_dead_bytes() > 0 {
            let Some(segment) = self.tier.oldest_sealed() else { break };
            let eviction = Eviction::ahead_of_need(&self.tier.room);
            if self.tier.gate.is_closing() || !self.reclaim_one(&segment, Reason::Dead, &eviction)? {
                break;
            }
            is_made = true;
            self.tier.progress.freed();
        }
        if is_made
            || self.compact_bodies()?
            || has_room(self)
            || self.tier.expire_now()?
            || self.evict_for(wanted, patience)?
        {
            return Ok(Looked::Made);
        }
        // A body that was just written may not have released yet what it supersedes.
        std::thread::sleep(MOMENT);
        // Bodies that readers hold are not waited for.
        Ok(match self.tier.reap_bodies()? {
            0 if self.tier.bodies.has_reservations() => Looked::UnderWay,
            0 => Looked::Barren,
            _ => Looked::Made,
        })
    }

    /// Frees the oldest segment if most of what it holds has expired.
    fn reclaim_expired(&mut self) -> Result<bool, Error> {
        if !self.tier.may_have_expired() || self.tier.gate.is_closing() {
            return Ok(false);
        }
        let Some(oldest) = self.tier.oldest_sealed() else { return Ok(false) };
        let hints = self.hints(&oldest)?;
        if !self.tier.is_mostly_over(&oldest, &hints) {
            return Ok(false);
        }
        let is_freed = self.reclaim_one(&oldest, Reason::Dead, &Eviction::ahead_of_need(&self.tier.room))?;
        self.tier.reap_bodies()?;
        Ok(is_freed)
    }

    /// Makes room for what threads wanted that found none and did not wait, so that the next try finds it.
    pub(super) fn meet_unmet_demand(&mut self) -> Result<(), Error> {
        let Some(wanted) = self.tier.room.take_unmet_demand() else { return Ok(()) };
        for _ in 0..WISH_STEPS_MAX {
            let is_granted = self.tier.room.missing_bytes(wanted) == 0;
            if is_granted
                || self.tier.gate.is_closing()
                || self.make_room(wanted, Patience::Background)? != Looked::Made
            {
                break;
            }
            self.tier.progress.freed();
        }
        Ok(())
    }

    /// Evicts as much as is missing for what is wanted, the oldest first. Returns whether anything was evicted.
    fn evict_for(&mut self, wanted: RoomDemand, patience: Patience) -> Result<bool, Error> {
        if !self.has_evictable()? {
            return Ok(false);
        }
        // For a caller that would be refused otherwise, a second round evicts also what was read.
        let rounds: &[Victims] = match patience {
            Patience::Caller => &[Victims::Unread, Victims::All],
            Patience::Background => &[Victims::Unread],
        };
        for victims in rounds {
            if self.evict_round(wanted, *victims)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes once through the segments, or until enough is evicted.
    fn evict_round(&mut self, wanted: RoomDemand, victims: Victims) -> Result<bool, Error> {
        let eviction = Eviction::of(victims, self.tier.room.missing_bytes(wanted));
        let last = self.tier.journal.end().segment();
        let mut copied_bytes = 0;
        while !eviction.is_enough() && !self.tier.gate.is_closing() && copied_bytes < MERGED_BYTES_MAX {
            let oldest = match self.tier.oldest_sealed() {
                Some(oldest) => oldest,
                // Everything stands in the active segment.
                None if self.tier.journal.end().segment() <= last && self.tier.journal.seal_active() => {
                    self.seal_pending()?;
                    continue;
                }
                None => break,
            };
            if oldest.number > last {
                break;
            }
            copied_bytes += oldest.live_bytes();
            if !self.reclaim_one(&oldest, Reason::Dead, &eviction)? {
                break;
            }
            self.tier.reap_bodies()?;
            self.tier.bodies.drop_empty()?;
        }
        Ok(eviction.has_evicted())
    }

    /// Whether anything in the journal may be evicted; what stands in front of it is copied forward then. If there is nothing, that is
    /// remembered until something is written or settles.
    fn has_evictable(&mut self) -> Result<bool, Error> {
        // What may not go now may go in a moment, so that is not remembered.
        let Some(outbox) = self.tier.outbox.as_ref().filter(|_| self.tier.room.may_evict(true)) else {
            return Ok(false);
        };
        let end = self.tier.journal.end();
        let moment = (end, outbox.ledger.moment());
        if self.barren_at == Some(moment) {
            return Ok(false);
        }
        let segments = self.tier.segments.load();
        let mut records: Vec<_> = segments.values().filter(|it| it.kind == SegmentKind::Records).collect();
        records.sort_by_key(|segment| segment.number);
        for segment in records {
            let hints = match segment.number == end.segment() {
                true => self.hints_of(segment, u64::from(end.offset()))?.0,
                false => self.hints(segment)?,
            };
            if self.tier.has_evictable(segment, &hints) {
                return Ok(true);
            }
        }
        self.barren_at = Some(moment);
        Ok(false)
    }

    /// Moves the bodies of the body segment with the most free room into holes of others. Returns whether that has freed room.
    fn compact_bodies(&mut self) -> Result<bool, Error> {
        let Some((segment, records)) = self.tier.bodies.sparsest() else { return Ok(false) };
        for record in records {
            self.tier.move_body(record, segment.number)?;
        }
        // What was moved out is free once the records that say so are durable.
        Ok(self.tier.reap_bodies()? > 0)
    }
}

#[cfg(test)]
mod tests;
