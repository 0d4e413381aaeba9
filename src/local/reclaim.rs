use std::sync::Arc;

use super::hints::Hint;
use super::journal::{AppendError, Flags, Header, Lsn, NewRecord, Room, Segment, SegmentKind};
use super::read::{RecordAt, Unreadable};
use super::tier::LocalTier;
use crate::error::Error;

/// Dead record bytes up to this much are left alone: copying live ones to free them costs more than they do.
const GARBAGE_BYTES_MIN: u64 = 128 << 20;

/// Above this share of the limit on disk, dead record bytes are reclaimed however few they are.
const FULL_PERCENT: u64 = 85;

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
        let is_worth_it = dead > live.max(GARBAGE_BYTES_MIN) || (is_full && dead >= oldest.bytes());
        is_worth_it.then(|| Arc::clone(oldest))
    }

    /// Copies what is live in a segment forward, and makes the copies durable: then the segment may be removed. False where there
    /// was not even room for the copies.
    pub fn evacuate(&self, segment: &Segment, hints: &[Hint]) -> Result<bool, Error> {
        for hint in hints.iter().filter(|hint| hint.kind.stores()) {
            if segment.live_bytes() == 0 {
                break;
            }
            match self.copy_forward(Lsn::new(segment.number, hint.offset), hint.fingerprint) {
                Ok(()) => {}
                Err(AppendError::NoRoom) => return Ok(false),
                Err(AppendError::Failed(error)) => return Err(error),
            }
        }
        // Also where nothing was copied: what made these records dead must not be undone by a power loss.
        self.flush()?;
        Ok(true)
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
        let body = if record.header.is_inline() { record.body() } else { &[] };
        let (metadata, data) = body.split_at_checked(metadata_bytes as usize).unwrap_or_default();
        let copy = NewRecord {
            id: record.id(),
            kind,
            flags,
            version: Some(version),
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
        self.journal.append(&copy, Room::Reserved)
    }

    fn moved(&self, record: &RecordAt, fingerprint: u64, from: Lsn, to: Lsn) {
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
