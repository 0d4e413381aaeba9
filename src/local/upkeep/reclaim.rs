//! Reclaiming one segment: which is worth it and why, copying forward what counts, evicting what Redis has, moving bodies.

use std::sync::Arc;

use crate::error::Error;
use crate::local::bodies::{Reservation, Superseder};
use crate::local::catalog::hints::Hint;
use crate::local::index::liveness::{Copying, Counts, Relocated, Remaining, Standing};
use crate::local::journal::{
    AppendError, BodyPlace, Flags, Header, Kind, Lsn, NewRecord, NoFile, Purpose, Segment, SegmentKind,
};
use crate::local::read::{RecordAt, Unreadable, verify_body};
use crate::local::sharing::outbox::Outbox;
use crate::local::tier::LocalTier;
use crate::local::upkeep::room::Eviction;

/// Dead record bytes up to this much are left alone, as freeing them would cost more in copies than it is worth.
const GARBAGE_BYTES_MIN: u64 = 128 << 20;

/// A segment is reclaimed for eviction only if that frees this share of it: otherwise it would be copied for nothing.
const GAIN_PERCENT_MIN: u64 = 10;

/// Record segments that are always allowed. Every open begins small segments, and these are merged when there are more than this many plus
/// twice as many as the live bytes would fill: copied forward, the oldest first, until there are half as many plus once as many.
const SEGMENTS_KEPT: u64 = 64;

/// Totals of the record segments at one moment.
#[derive(Default)]
struct Records {
    oldest: Option<Arc<Segment>>,
    count: u64,
    live_bytes: u64,
    /// In sealed segments only.
    dead_bytes: u64,
}

impl Records {
    /// Whether there are so many segments for what they hold that merging should begin, or go on.
    fn are_scattered(&self, is_merging: bool, segment_bytes: u64) -> bool {
        let filled = self.live_bytes / segment_bytes;
        self.count > if is_merging { filled + SEGMENTS_KEPT / 2 } else { 2 * filled + SEGMENTS_KEPT }
    }

    /// Whether freeing the dead bytes is worth copying the live ones. `is_short`: room is short; `segment_bytes`: what the copies at least fill.
    fn are_worth_copying(&self, is_short: bool, segment_bytes: u64) -> bool {
        self.dead_bytes > self.live_bytes.max(GARBAGE_BYTES_MIN) || (is_short && self.dead_bytes >= segment_bytes)
    }
}

/// Why a segment is reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// For what is dead in it, or to merge it: everything that counts is copied forward.
    Dead,
    /// For what may be evicted from it.
    Eviction,
}

/// Why a record was not copied.
pub(super) enum NotCopied {
    NoRoom,
    Failed(Error),
    Damaged(&'static str),
}

impl From<AppendError> for NotCopied {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoRoom(None) => NotCopied::NoRoom,
            AppendError::NoRoom(Some(error)) | AppendError::Failed(error) => NotCopied::Failed(error),
        }
    }
}

impl From<NoFile> for NotCopied {
    fn from(error: NoFile) -> Self {
        AppendError::from(error).into()
    }
}

impl From<Unreadable> for NotCopied {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Failed(error) => NotCopied::Failed(error),
            Unreadable::Damaged(reason) => NotCopied::Damaged(reason),
        }
    }
}

impl LocalTier {
    fn records(&self) -> Records {
        let (segments, owed) = (self.segments.load(), self.index().owed());
        let mut records = Records::default();
        for segment in segments.values().filter(|segment| segment.kind == SegmentKind::Records) {
            records.count += 1;
            records.live_bytes += segment.live_bytes();
            if segment.is_sealed() {
                let used_bytes = segment.live_bytes() + owed.bytes_in(segment.number);
                records.dead_bytes += segment.bytes().saturating_sub(used_bytes);
            }
            if records.oldest.as_ref().is_none_or(|oldest| segment.number < oldest.number) {
                records.oldest = Some(Arc::clone(segment));
            }
        }
        records
    }

    /// The oldest segment with records, if it is sealed and reclaiming it is worth the copying. `is_wanted`: somebody waits for room;
    /// `is_merging`: small segments are being merged.
    ///
    /// Only ever the oldest: its deletes may leave with it, because nothing older remains that they could bring back.
    pub fn reclaimable(&self, is_wanted: bool, is_merging: &mut bool) -> Option<(Arc<Segment>, Reason)> {
        let records = self.records();
        let oldest = records.oldest.as_ref().filter(|segment| segment.is_sealed())?;
        *is_merging = records.are_scattered(*is_merging, self.space.segment_bytes_max());
        let is_short = is_wanted || self.room.wants_garbage();
        let segment_bytes = oldest.bytes().min(self.space.segment_bytes_max());
        let owed_bytes = self.index().owed().bytes_in(oldest.number);
        let reason = if oldest.live_bytes() + owed_bytes == 0
            || *is_merging
            || records.are_worth_copying(is_short, segment_bytes)
        {
            Reason::Dead
        } else if self.room.wants_eviction() {
            Reason::Eviction
        } else {
            return None;
        };
        Some((Arc::clone(oldest), reason))
    }

    /// The oldest record segment, if it is sealed.
    pub fn oldest_sealed(&self) -> Option<Arc<Segment>> {
        self.records().oldest.filter(|segment| segment.is_sealed())
    }

    /// Whether so much of the active segment is dead that sealing it is worth it.
    pub fn has_dead_tail(&self) -> bool {
        let end = self.journal.end();
        let live_bytes = self.segments.get(end.segment()).map_or(0, |segment| segment.live_bytes());
        let used_bytes = live_bytes + self.index().owed().bytes_in(end.segment());
        u64::from(end.offset()).saturating_sub(used_bytes) > self.space.segment_bytes_max() / 2
    }

    /// Dead bytes in sealed record segments; 0 if they are less than a segment's worth.
    pub fn sealed_dead_bytes(&self) -> u64 {
        let dead_bytes = self.records().dead_bytes;
        if dead_bytes < self.space.segment_bytes_max() { 0 } else { dead_bytes }
    }

    /// Moves the body of the record at `lsn` out of a body segment, into a hole of another if there is one.
    pub fn move_body(&self, lsn: Lsn, from_segment: u32) -> Result<(), Error> {
        match self.try_move_body(lsn, from_segment) {
            // Without a hole the body stays. What is damaged is left to whoever reads it next.
            Ok(()) | Err(NotCopied::NoRoom | NotCopied::Damaged(_)) => Ok(()),
            Err(NotCopied::Failed(error)) => Err(error),
        }
    }

    fn try_move_body(&self, lsn: Lsn, from_segment: u32) -> Result<(), NotCopied> {
        let record = self.record_at(lsn)?;
        let header = record.header;
        if !header.flags.has(Flags::EXTERNAL) || header.body_place.segment != from_segment {
            return Ok(()); // the record has another body by now
        }
        let Some(stretch) = self.bodies.find(header.body_place) else { return Ok(()) };
        if stretch.segment.needs_verification(stretch.place.offset) {
            verify_body(&stretch.segment, u64::from(stretch.place.offset), &header)?;
        }
        let mapping = self.segments.mapping(&stretch.segment).map_err(NotCopied::Failed)?;
        let body = mapping.slice(u64::from(stretch.place.offset), header.body_bytes());
        let body = body.ok_or(NotCopied::Damaged("its body is cut short"))?;
        let Some(mut reservation) = self.bodies.reserve_elsewhere(header.body_bytes(), from_segment)? else {
            return Err(NotCopied::NoRoom);
        };
        reservation.write(body)?;
        // Durable first: the old bytes may be overwritten as soon as the copy's record is durable.
        reservation.sync().map_err(|error| NotCopied::Failed(self.sync_failed(error)))?;
        self.journal.sync_names().map_err(NotCopied::Failed)?;
        let new_place = reservation.place();
        let fingerprint = self.index().fingerprint(record.id());
        match self.copy_forward(&record, fingerprint, Some(reservation), Purpose::Copy)? {
            Relocated::Moved(to) => self.bodies.release(header.body_place, to.into()),
            // Nobody refers to the copy's body.
            Relocated::DiedMeanwhile(to) => self.bodies.release(new_place, to.into()),
            Relocated::Dead => {}
        }
        Ok(())
    }

    /// Copies forward what counts in a segment, except what is evicted, and makes the copies durable. After that the segment may be removed.
    /// False if there was no room for the copies.
    pub fn evacuate(&self, segment: &Segment, hints: &[Hint], eviction: &Eviction) -> Result<bool, Error> {
        for hint in hints {
            let lsn = Lsn::new(segment.number, hint.offset);
            let result = match hint.kind {
                Kind::Delete => self.keep_delete(lsn),
                kind if kind.stores() => self.keep_live(lsn, hint, eviction),
                _ => continue,
            };
            match result {
                Ok(()) => {}
                Err(NotCopied::NoRoom) => return Ok(false),
                Err(NotCopied::Failed(error)) => return Err(error),
                Err(NotCopied::Damaged(reason)) => self.give_up(lsn, hint, reason),
            }
        }
        // Even if nothing was copied: a power loss must not undo what made these records dead.
        self.flush()?;
        self.lose_remaining(segment);
        Ok(true)
    }

    /// Lets go what index and payload table still refer to in the segment though no hint names it: it was damaged before the segment was sealed.
    /// After this, nothing in the segment counts.
    fn lose_remaining(&self, segment: &Segment) {
        let Remaining { indexed, holders } = self.liveness.remaining(segment.number);
        for (fingerprint, lsn) in indexed {
            let _writing = self.index().shard(fingerprint).writing.lock();
            self.lose_unnamed(fingerprint, lsn, "its segment does not have it");
        }
        for (payload, shared) in holders {
            tracing::error!(
                "the payload at {} is lost, and so are {} objects that share it",
                shared.holder,
                shared.sharers
            );
            self.liveness.lose_payload(payload, self.journal.latest().into());
        }
    }

    /// Whether something in the segment may be evicted.
    pub fn has_evictable(&self, segment: &Segment, hints: &[Hint]) -> bool {
        let Some(outbox) = &self.outbox else { return false };
        hints.iter().any(|hint| {
            let lsn = Lsn::new(segment.number, hint.offset);
            let is_clean = hint.kind.stores() && !outbox.is_dirty(lsn, hint.flags.has(Flags::CLEAN));
            is_clean && self.may_count(lsn, hint)
        })
    }

    /// Whether evicting from the segment frees enough of it (`GAIN_PERCENT_MIN`): what is dirty has to be copied.
    pub fn is_evictable(&self, segment: &Segment, hints: &[Hint]) -> bool {
        let Some(outbox) = &self.outbox else { return true };
        let enough_bytes = segment.bytes() / 100 * GAIN_PERCENT_MIN;
        let used_bytes = segment.live_bytes() + self.index().owed().bytes_in(segment.number);
        let mut gain_bytes = segment.bytes().saturating_sub(used_bytes);
        for hint in hints.iter().filter(|hint| hint.kind.stores()) {
            if gain_bytes >= enough_bytes {
                break;
            }
            let lsn = Lsn::new(segment.number, hint.offset);
            if !outbox.is_dirty(lsn, hint.flags.has(Flags::CLEAN)) && self.may_count(lsn, hint) {
                gain_bytes += hint.stride() + if hint.flags.has(Flags::EXTERNAL) { hint.body_bytes } else { 0 };
            }
        }
        gain_bytes >= enough_bytes
    }

    /// Whether most of what the segment holds has expired, and so goes with it.
    pub fn is_mostly_over(&self, segment: &Segment, hints: &[Hint]) -> bool {
        let over_bytes = |hint: &Hint| match self.record_at(Lsn::new(segment.number, hint.offset)) {
            Ok(record) if self.journal.is_over(&record.header) => {
                hint.stride() + if hint.flags.has(Flags::EXTERNAL) { hint.body_bytes } else { 0 }
            }
            // What cannot be read is no reason to reclaim it.
            _ => 0,
        };
        let over_bytes: u64 = hints.iter().filter(|hint| hint.kind.stores()).map(over_bytes).sum();
        over_bytes > 0 && over_bytes >= segment.live_bytes() / 2
    }

    /// Copies a delete forward if Redis may not know of it and it is still the last word on its id.
    fn keep_delete(&self, lsn: Lsn) -> Result<(), NotCopied> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        let record = self.record_at(lsn)?;
        let fingerprint = self.index().fingerprint(record.id());
        let shard = self.index().shard(fingerprint);
        let _writing = shard.writing.lock();
        let tombstone = shard.table.read().tombstones.get(record.id());
        if tombstone.is_none_or(|tombstone| tombstone.lsn != lsn) {
            return Ok(());
        }
        let to = if outbox.is_dirty(lsn, false) {
            let copying = Copying { flags: record.header.flags, payload: Lsn::NONE };
            let (to, _) = self.append_copy(&record, copying, None, Purpose::Copy)?;
            outbox.ledger.moved(lsn, to);
            to
        } else {
            Lsn::NONE
        };
        shard.table.write().tombstones.moved(record.id(), lsn, to);
        Ok(())
    }

    /// Copies a live object forward, unless it is evicted: because its deadline has passed, or because Redis has it and `eviction` takes it.
    fn keep_live(&self, lsn: Lsn, hint: &Hint, eviction: &Eviction) -> Result<(), NotCopied> {
        let record = match self.record_at(lsn) {
            Ok(record) => record,
            // An unreadable record that does not count is no matter.
            Err(_) if !self.may_count(lsn, hint) => return Ok(()),
            Err(unreadable) => return Err(unreadable.into()),
        };
        self.evict(&record, hint, eviction);
        self.copy_forward(&record, hint.fingerprint, None, Purpose::Copy).map(drop)
    }

    /// Whether something may refer to the record, as far as can be said without its id.
    fn may_count(&self, lsn: Lsn, hint: &Hint) -> bool {
        let name = if hint.flags.has(Flags::NAMED) { hint.payload } else { lsn };
        let shard = self.index().shard(hint.fingerprint);
        let _writing = shard.writing.lock();
        let is_indexed = shard.table.read().has_place(hint.fingerprint, lsn);
        is_indexed || (hint.has_body() && self.liveness.payloads().is_held(name, lsn))
    }

    /// Lets the object go if its deadline has passed, or if Redis has it and `eviction` takes it.
    pub(super) fn evict(&self, record: &RecordAt, hint: &Hint, eviction: &Eviction) {
        let (lsn, header) = (record.lsn, record.header);
        let is_over = self.journal.is_over(&header);
        if self.outbox.is_none() && !is_over {
            return;
        }
        let shard = self.index().shard(hint.fingerprint);
        let _writing = shard.writing.lock();
        let was_read = || self.segments.get(lsn.segment()).is_some_and(|it| it.was_read(lsn.offset()));
        let frees = header.flags.has(Flags::EXTERNAL);
        let is_dirty = |outbox: &Outbox| outbox.is_dirty(lsn, header.flags.has(Flags::CLEAN));
        let is_evicted = || {
            self.outbox.as_ref().is_some_and(|outbox| !is_dirty(outbox)) && eviction.takes(&self.room, frees, was_read)
        };
        let stands = shard.table.read().stands_at(hint.fingerprint, record.id(), lsn);
        if stands && (is_over || self.is_hidden(lsn) || is_evicted()) {
            if let Some(outbox) = &self.outbox {
                outbox.set_evicting(true);
            }
            eviction.evicted(header.stride() + if frees { header.body_bytes() } else { 0 });
            if is_over {
                self.work.expired.add(1);
            } else if !self.is_hidden(lsn) {
                self.work.evictions.add(1);
                self.work.evicted_bytes.add(header.body_bytes());
            }
            let standing = Standing { lsn, header };
            let by = Superseder::with_segment(lsn.segment());
            self.liveness.leave(hint.fingerprint, record.id(), &standing, by, |_| {});
        }
    }

    /// Copies one record forward if it counts, with its version and flags; with the new place of its body, if that was moved.
    pub(super) fn copy_forward(
        &self,
        record: &RecordAt,
        fingerprint: u64,
        body: Option<Reservation>,
        purpose: Purpose,
    ) -> Result<Relocated, NotCopied> {
        if let Some(segment) = &record.unverified
            && self.counts(record, fingerprint)
        {
            record.verify(segment)?;
        }
        let body_place = body.as_ref().map(Reservation::place);
        let copy = |copying| -> Result<Lsn, AppendError> {
            let (to, says_clean) = self.append_copy(record, copying, body_place, purpose)?;
            if let Some(body) = body {
                body.keep(to);
            }
            // Before the copy is entered, so that nobody finds it there unmarked.
            if let Some(outbox) = &self.outbox {
                self.note_copy(outbox, record, to, says_clean);
            }
            Ok(to)
        };
        Ok(self.liveness.relocate(fingerprint, record.id(), &record.header, body_place, copy)?)
    }

    /// Has everything that is known of a record hold for its copy. `says_clean`: the copy was written as one of what Redis has.
    fn note_copy(&self, outbox: &Outbox, record: &RecordAt, to: Lsn, says_clean: bool) {
        let (lsn, is_clean) = (record.lsn, record.header.flags.has(Flags::CLEAN));
        let is_dirty = outbox.is_dirty(lsn, is_clean);
        // Redis may have lost it while the copy was written: the walks would leave out what says that it is clean.
        if self.is_suspect(outbox, lsn, is_clean) || (is_dirty && says_clean) {
            outbox.suspect_moved(to, is_dirty.then_some((lsn, record.id())));
        }
        outbox.hidden.moved(lsn, to);
        self.keep_announced(outbox, &record.header, to);
        if is_dirty {
            outbox.ledger.moved(lsn, to);
        }
    }

    fn counts(&self, record: &RecordAt, fingerprint: u64) -> bool {
        let _writing = self.index().shard(fingerprint).writing.lock();
        self.liveness.counts(fingerprint, record.id(), &record.header)
    }

    /// Returns the place of the copy, and whether it says that Redis has it.
    fn append_copy(
        &self,
        record: &RecordAt,
        Copying { flags, payload }: Copying,
        body: Option<BodyPlace>,
        purpose: Purpose,
    ) -> Result<(Lsn, bool), AppendError> {
        let Header { lsn, version, deadline_ms, body_hash, data_bytes, metadata_bytes, kind, body_place, .. } =
            record.header;
        let is_clean = self.outbox.as_ref().is_some_and(|outbox| !outbox.is_dirty(lsn, flags.has(Flags::CLEAN)));
        let flags = if is_clean { flags.with(Flags::CLEAN) } else { flags.without(Flags::CLEAN) };
        let inline = if record.header.is_inline() { record.body() } else { &[] };
        let (metadata, data) = inline.split_at_checked(metadata_bytes as usize).unwrap_or_default();
        let copy = NewRecord {
            id: record.id(),
            kind,
            flags,
            version: Some(version),
            above_clock: 0,
            supersedes: lsn,
            deadline_ms: self.journal.time().settled(deadline_ms),
            body_hash,
            payload,
            data_bytes,
            metadata_bytes,
            body_place: body.unwrap_or(body_place),
            metadata,
            data,
        };
        Ok((self.journal.append(&copy, purpose)?.lsn, is_clean))
    }

    /// Lets go a damaged record in the segment that is being reclaimed, with what it took. No drop is needed, as nothing older could come back.
    fn give_up(&self, lsn: Lsn, hint: &Hint, reason: &'static str) {
        let shard = self.index().shard(hint.fingerprint);
        let _writing = shard.writing.lock();
        if shard.table.write().remove_place(hint.fingerprint, lsn) {
            self.liveness.counts.count_damaged(1);
            tracing::error!("the object at {lsn} is damaged: {reason}; it is lost");
            self.liveness.lose(lsn, hint, self.journal.latest().into());
        }
    }

    /// Lets go what those records took that were found damaged while they were read (`LocalTier::lost`); `hint_at` finds their hints.
    pub fn release_lost(&self, hint_at: impl Fn(Lsn) -> Result<Option<Hint>, Error>) -> Result<(), Error> {
        let lost: Vec<_> = self.lost.lock().clone();
        for (fingerprint, lsn) in lost {
            let hint = hint_at(lsn)?;
            let by = Superseder::from(self.journal.latest());
            let _writing = self.index().shard(fingerprint).writing.lock();
            let is_shared = || !self.liveness.payloads().holders(|holder| holder == lsn).is_empty();
            if let Some(hint) = hint {
                self.liveness.lose(lsn, &hint, by);
            } else if let Some((body, body_bytes)) = self.bodies.of_record(lsn)
                && !is_shared()
            {
                // It has no hint, as it was damaged before, but its large body is known by its lsn.
                self.liveness.counts.payload_went(body_bytes);
                self.liveness.counts.body_released(body, by);
            } else if self.segments.get(lsn.segment()).is_some_and(|segment| !segment.is_sealed()) {
                continue; // tried again when the segment is sealed and has hints
            }
            // What an inline record without a hint took stays counted until the next open.
            self.lost.lock().retain(|(_, lost)| *lost != lsn);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
