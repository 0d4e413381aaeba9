use std::sync::Arc;

use crate::error::Error;
use crate::local::catalog::hints::Hint;
use crate::local::journal::{AppendError, Flags, Header, Kind, Lsn, NewRecord, Room, Segment, SegmentKind};
use crate::local::read::{RecordAt, Unreadable};
use crate::local::tier::LocalTier;

/// Dead record bytes up to this much are left alone: copying live ones to free them costs more than they do.
const GARBAGE_BYTES_MIN: u64 = 128 << 20;

/// Above this share of the limit on disk, dead record bytes are reclaimed however few they are.
const FULL_PERCENT: u64 = 85;

/// A segment with a larger share of dirty records is not evicted from: it would be copied for nothing.
const DIRTY_PERCENT_MAX: u64 = 90;

impl LocalTier {
    /// The oldest segment with records, if it is sealed and reclaiming it is worth the copying.
    ///
    /// Only ever the oldest: its deletes may leave with it, because nothing older remains that they could bring back.
    pub fn reclaimable(&self) -> Option<Arc<Segment>> {
        let segments = self.segments.load();
        let records = || segments.values().filter(|segment| segment.kind == SegmentKind::Records);
        let oldest = records().min_by_key(|segment| segment.number).filter(|segment| segment.is_sealed())?;
        if oldest.live_bytes() == 0 {
            return Some(Arc::clone(oldest));
        }
        let sealed = || records().filter(|segment| segment.is_sealed());
        let live: u64 = sealed().map(|segment| segment.live_bytes()).sum();
        let dead = sealed().map(|segment| segment.bytes()).sum::<u64>().saturating_sub(live);
        let is_full = self.space.physical_bytes() > self.space.limit_bytes() / 100 * FULL_PERCENT;
        if self.outbox.is_some() && self.space.wants_eviction() {
            return Some(Arc::clone(oldest));
        }
        let is_worth_it = dead > live.max(GARBAGE_BYTES_MIN) || (is_full && dead >= oldest.bytes());
        is_worth_it.then(|| Arc::clone(oldest))
    }

    /// Copies what is live in a segment forward, and makes the copies durable: then the segment may be removed. False where there
    /// was not even room for the copies.
    pub fn evacuate(&self, segment: &Segment, hints: &[Hint]) -> Result<bool, Error> {
        for hint in hints {
            let place = Lsn::new(segment.number, hint.offset);
            let result = match hint.kind {
                Kind::Delete => self.keep_delete(place),
                kind if kind.stores() && segment.live_bytes() > 0 => self.keep_live(place, hint.fingerprint),
                _ => continue,
            };
            match result {
                Ok(()) => {}
                Err(AppendError::NoRoom) => return Ok(false),
                Err(AppendError::Failed(error)) => return Err(error),
            }
        }
        // Also where nothing was copied: what made these records dead must not be undone by a power loss.
        self.flush()?;
        Ok(true)
    }

    /// Whether evicting has a chance: with nothing but dirty objects in a segment, copying them makes no room.
    pub fn is_evictable(&self, segment: &Segment, hints: &[Hint]) -> bool {
        let Some(outbox) = &self.outbox else { return true };
        if segment.live_bytes() < segment.bytes() / 100 * DIRTY_PERCENT_MAX {
            return true;
        }
        let is_dirty = |hint: &&Hint| {
            hint.kind.stores() && outbox.is_dirty(Lsn::new(segment.number, hint.offset), hint.flags.has(Flags::CLEAN))
        };
        let dirty_bytes: u64 = hints.iter().filter(is_dirty).map(Hint::stride).sum();
        dirty_bytes < segment.bytes() / 100 * DIRTY_PERCENT_MAX
    }

    /// A delete that Redis may not know of yet is copied forward, if it is still what counts for its id.
    fn keep_delete(&self, place: Lsn) -> Result<(), AppendError> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        let Ok(record) = self.record_at(place) else { return Ok(()) };
        let fingerprint = self.index.fingerprint(record.id());
        let shard = self.index.shard(fingerprint);
        let _writing = shard.writing.lock();
        let tombstone = shard.table.read().tombstones.get(record.id());
        if tombstone.is_none_or(|tombstone| tombstone.place != place) {
            return Ok(());
        }
        let to = if outbox.is_dirty(place, false) {
            self.append_copy(&record, record.header.flags, Lsn::NONE)?
        } else {
            Lsn::NONE
        };
        shard.table.write().tombstones.moved(record.id(), place, to);
        Ok(())
    }

    /// Copies a live object forward, unless it has lived its time, or Redis has it and nobody read it here since it was written.
    fn keep_live(&self, place: Lsn, fingerprint: u64) -> Result<(), AppendError> {
        if let Some(outbox) = &self.outbox
            && let Ok(record) = self.record_at(place)
        {
            let shard = self.index.shard(fingerprint);
            let _writing = shard.writing.lock();
            let header = record.header;
            let was_read = || self.segments.get(place.segment()).is_some_and(|it| it.was_read(place.offset()));
            let is_evicted = || {
                self.space.wants_eviction() && !outbox.is_dirty(place, header.flags.has(Flags::CLEAN)) && !was_read()
            };
            if self.find(fingerprint, record.id()) == Some(place) && (header.is_expired() || is_evicted()) {
                outbox.set_uncertain(true);
                shard.table.write().remove(fingerprint, record.id(), place);
                self.superseded(place, Lsn::NONE);
            }
        }
        self.copy_forward(place, fingerprint)
    }

    /// Copies one record forward, if it is live, with its version and flags.
    fn copy_forward(&self, place: Lsn, fingerprint: u64) -> Result<(), AppendError> {
        let record = match self.record_at(place) {
            Ok(record) => record,
            Err(Unreadable::Failed(error)) => return Err(error.into()),
            Err(Unreadable::Damaged(reason)) => {
                self.give_up(place, fingerprint, reason);
                return Ok(());
            }
        };
        if let Some(segment) = &record.unverified {
            match record.verify(segment) {
                Ok(()) => {}
                Err(Unreadable::Failed(error)) => return Err(error.into()),
                Err(Unreadable::Damaged(reason)) => {
                    self.give_up(place, fingerprint, reason);
                    return Ok(());
                }
            }
        }
        let shard = self.index.shard(fingerprint);
        let _writing = shard.writing.lock();
        let header = record.header;
        let is_indexed = self.find(fingerprint, record.id()) == Some(place);
        if header.flags.has(Flags::SHARED) {
            if !is_indexed {
                return Ok(());
            }
            let lsn = self.append_copy(&record, header.flags, header.payload)?;
            self.moved(&record, fingerprint, place, lsn);
            return Ok(());
        }
        let payload = header.payload_name();
        let holds_shared = || {
            let shared = self.payloads.shared(payload);
            shared.is_some_and(|shared| shared.place == place && shared.sharers > 0)
        };
        if !is_indexed && !holds_shared() {
            return Ok(());
        }
        let kept = header.flags.without(Flags::NAMED).without(Flags::DETACHED);
        let lsn = self.payloads.relocate(payload, header.body_hash, |is_shared| {
            let flags = if is_shared { kept.with(Flags::NAMED) } else { kept };
            let flags = if is_indexed { flags } else { flags.with(Flags::DETACHED) };
            self.append_copy(&record, flags, if is_shared { payload } else { Lsn::NONE })
        })?;
        if is_indexed {
            self.moved(&record, fingerprint, place, lsn);
        } else {
            self.move_live(Some(place), Some(lsn), &header);
        }
        Ok(())
    }

    fn append_copy(&self, record: &RecordAt, flags: Flags, payload: Lsn) -> Result<Lsn, AppendError> {
        let Header { lsn, version, deadline_ms, body_hash, data_bytes, metadata_bytes, kind, body_place, .. } =
            record.header;
        let is_clean = self.outbox.as_ref().is_some_and(|outbox| !outbox.is_dirty(lsn, flags.has(Flags::CLEAN)));
        let flags = if is_clean { flags.with(Flags::CLEAN) } else { flags.without(Flags::CLEAN) };
        let body = if record.header.is_inline() { record.body() } else { &[] };
        let (metadata, data) = body.split_at_checked(metadata_bytes as usize).unwrap_or_default();
        let copy = NewRecord {
            id: record.id(),
            kind,
            flags,
            version: Some(version),
            above_clock: 0,
            supersedes: lsn,
            deadline_ms,
            body_hash,
            payload,
            data_bytes,
            metadata_bytes,
            body_place,
            metadata,
            data,
        };
        Ok(self.journal.append(&copy, Room::Reserved)?.lsn)
    }

    fn moved(&self, record: &RecordAt, fingerprint: u64, from: Lsn, to: Lsn) {
        if let Some(outbox) = &self.outbox
            && self.is_suspect(outbox, from, record.header.flags.has(Flags::CLEAN))
        {
            outbox.suspect_moved(to); // before anyone finds it there
        }
        self.move_live(Some(from), Some(to), &record.header);
        self.index.shard(fingerprint).table.write().set(fingerprint, record.id(), Some(from), to);
    }

    /// A damaged record in a segment that is to go: nothing older could stand in for it, so it ends here.
    fn give_up(&self, place: Lsn, fingerprint: u64, reason: &'static str) {
        let shard = self.index.shard(fingerprint);
        let _writing = shard.writing.lock();
        let mut table = shard.table.write();
        if table.remove_place(fingerprint, place) {
            self.totals.count_damaged(1);
            tracing::error!("the object at {place} is damaged: {reason}; it is lost");
        }
    }
}
