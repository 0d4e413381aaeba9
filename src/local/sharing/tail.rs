//! Reading the journal as the queue of what Redis has yet to get, for the replicator. The ledger says where to read.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::error::Error;
use crate::local::catalog::hints::Hint;
use crate::local::index::tombstones::Tombstone;
use crate::local::journal::{Flags, Header, Kind, Lsn, Segment, SegmentKind, Step, Walk};
use crate::local::read::Unreadable;
use crate::local::sharing::hearing::Known;
use crate::local::tier::LocalTier;
use crate::object::Object;
use crate::version::Version;

/// A record to be pushed.
pub(crate) struct Dirty {
    pub lsn: Lsn,
    pub id: Vec<u8>,
    pub version: Version,
    /// None: a delete.
    pub put: Option<DirtyObject>,
    /// A delete after which the id was written again, here or elsewhere.
    pub is_overtaken: bool,
}

/// The object of a put that is to be pushed.
pub(crate) struct DirtyObject {
    pub object: Object,
    pub body_hash: u128,
    pub deadline_ms: u64,
}

/// What one read of the journal found.
#[derive(Default)]
pub(crate) struct DirtyRecords {
    pub dirty: Vec<Dirty>,
    /// Records that may be dirty but cannot be read now, and why.
    pub unreadable: Vec<(Lsn, Vec<u8>, Error)>,
    /// Where the next read begins.
    pub next: Lsn,
}

/// Bounds on one read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub records: usize,
    pub bytes: usize,
}

/// Which records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordFilter {
    /// Those without the flag CLEAN.
    Dirty,
    /// All: Redis has lost everything.
    All,
    /// Deletes, while puts are refused.
    Deletes,
}

/// Most records that one read looks at, so that the caller gets to its other work.
const VISITED_RECORDS_MAX: usize = 16_384;

impl LocalTier {
    /// The next dirty records from `from` on, up to `until` or the journal's end, and where to go on. Records that a newer one of
    /// their id has overtaken are left out. An error means that a whole segment cannot be read now: the next read begins there again.
    pub fn dirty_records(
        &self,
        from: Lsn,
        until: Lsn,
        wanted: RecordFilter,
        budget: Budget,
    ) -> Result<DirtyRecords, Error> {
        let mut found = DirtyRecords { next: from, ..DirtyRecords::default() };
        let (mut bytes, mut visited) = (0, 0);
        let journal_end = self.journal.end().min(until);
        while let Some((segment, end)) = self.segment_from(found.next, journal_end) {
            let mapping = match self.segments.mapping(&segment) {
                // The segment was reclaimed meanwhile: what counts of it was copied forward.
                Err(_) if self.segments.get(segment.number).is_none() => {
                    found.next = found.next.max(Lsn::new(segment.number, end));
                    continue;
                }
                Err(error) if found.dirty.is_empty() && found.unreadable.is_empty() => return Err(error),
                Err(_) => return Ok(found), // returned by the next call, which begins here
                Ok(mapping) => mapping,
            };
            let records = mapping.slice(0, u64::from(end)).unwrap_or_default();
            let start = if found.next.segment() == segment.number { found.next.offset() } else { 0 };
            let mut walk = Walk::new(records, segment.number, segment.nonce).starting_at(start);
            while let Some(step) = walk.next() {
                found.next = Lsn::new(segment.number, walk.offset());
                visited += 1;
                if let Step::Record { header, id, .. } = step {
                    match self.dirty(&header, id, wanted) {
                        Ok(dirty) => {
                            let put = dirty.as_ref().and_then(|dirty| dirty.put.as_ref());
                            bytes += put.map_or(0, |put| put.object.len());
                            found.dirty.extend(dirty);
                        }
                        // Nothing is wrong with the record.
                        Err(Error::Closed) => return Err(Error::Closed),
                        Err(error) => found.unreadable.push((header.lsn, id.to_vec(), error)),
                    }
                }
                let records = found.dirty.len() + found.unreadable.len();
                if records >= budget.records || bytes >= budget.bytes || visited >= VISITED_RECORDS_MAX {
                    return Ok(found);
                }
            }
            found.next = found.next.max(Lsn::new(segment.number, end));
        }
        found.next = found.next.max(journal_end);
        Ok(found)
    }

    /// The segment with the first record at or above `from`, and where its records below `end` end.
    pub(super) fn segment_from(&self, from: Lsn, end: Lsn) -> Option<(Arc<Segment>, u32)> {
        let segments = self.segments.load();
        let candidates = segments.values().filter(|segment| segment.kind == SegmentKind::Records);
        let end_in = |segment: &Segment| match segment.number.cmp(&end.segment()) {
            std::cmp::Ordering::Less => segment.records_end().min(u64::from(u32::MAX)) as u32,
            std::cmp::Ordering::Equal => end.offset().min(segment.records_end().min(u64::from(u32::MAX)) as u32),
            std::cmp::Ordering::Greater => 0,
        };
        let ahead = candidates.filter(|segment| Lsn::new(segment.number, end_in(segment)) > from);
        let segment = ahead.filter(|segment| segment.number <= end.segment()).min_by_key(|segment| segment.number)?;
        Some((Arc::clone(segment), end_in(segment)))
    }

    /// The record, if it is to be pushed. Decided under the id's lock, so that a record that was just appended is entered.
    fn dirty(&self, header: &Header, id: &[u8], wanted: RecordFilter) -> Result<Option<Dirty>, Error> {
        let is_wanted = match wanted {
            RecordFilter::Dirty => !header.flags.has(Flags::CLEAN),
            RecordFilter::All => true,
            RecordFilter::Deletes => header.kind == Kind::Delete,
        };
        if !is_wanted || header.flags.has(Flags::DETACHED) || !(header.kind.stores() || header.kind == Kind::Delete) {
            return Ok(None);
        }
        self.dirty_at(id, header.lsn)
    }

    /// The record at `lsn` as something to push, if it is the newest of its id. A damaged one is let go.
    pub fn dirty_at(&self, id: &[u8], lsn: Lsn) -> Result<Option<Dirty>, Error> {
        let _inside = self.gate.enter()?;
        let fingerprint = self.index().fingerprint(id);
        let (version, found) = {
            // What is located under the id's lock stays readable afterwards.
            let _writing = self.index().shard(fingerprint).writing.lock();
            match self.known_locked(fingerprint, id)? {
                Known::Held { version, lsn: at, .. } if at == lsn => (version, self.locate(id)),
                Known::Deleted(Tombstone { version, lsn: at, is_overtaken, .. }) if at == lsn => {
                    return Ok(Some(Dirty { lsn, id: id.to_vec(), version, put: None, is_overtaken }));
                }
                _ => return Ok(None),
            }
        };
        let Some((Header { body_hash, deadline_ms, .. }, object)) = self.read_found(id, found)? else {
            return Ok(None);
        };
        let deadline_ms = self.journal.time().settled(deadline_ms);
        let put = Some(DirtyObject { object, body_hash, deadline_ms });
        Ok(Some(Dirty { lsn, id: id.to_vec(), version, put, is_overtaken: false }))
    }

    /// What is known here of an id as something to push: the object or the delete.
    pub fn dirty_now(&self, id: &[u8]) -> Result<Option<Dirty>, Error> {
        match self.known(id)? {
            Known::Held { lsn, .. } => self.dirty_at(id, lsn),
            Known::Deleted(Tombstone { version, lsn, is_overtaken, .. }) => {
                Ok(Some(Dirty { lsn, id: id.to_vec(), version, put: None, is_overtaken }))
            }
            Known::Nothing => Ok(None),
        }
    }

    /// At open: restores the tombstones of deletes that Redis may not know of; otherwise what was deleted would be fetched again. Hints
    /// tell where deletes are, so that only these records, and later ones of the same ids, are read.
    pub(in crate::local) fn restore_tombstones(
        &self,
        from: Lsn,
        hints_of: impl Fn(&Segment) -> Result<Vec<Hint>, Error>,
    ) -> Result<(), Error> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        let expires_ms = self.journal.time().monotonic_ms().saturating_add(outbox.options.tombstone_ttl_ms);
        let segments = self.segments.load();
        let records = segments.values().filter(|segment| segment.kind == SegmentKind::Records);
        let mut records: Vec<_> = records.filter(|segment| segment.number >= from.segment()).collect();
        records.sort_by_key(|segment| segment.number);
        let mut deleted = FxHashSet::default();
        for segment in records {
            for hint in hints_of(segment)? {
                let lsn = Lsn::new(segment.number, hint.offset);
                let is_dirty = hint.kind == Kind::Delete && lsn >= from;
                if is_dirty {
                    deleted.insert(hint.fingerprint);
                } else if !deleted.contains(&hint.fingerprint) {
                    continue;
                }
                let record = match self.record_at(lsn) {
                    Ok(record) => record,
                    Err(Unreadable::Failed(error)) => return Err(error),
                    Err(Unreadable::Damaged(reason)) => {
                        tracing::error!(
                            "the record at {lsn} is damaged: {reason}; if it is a delete, Redis is not told"
                        );
                        continue;
                    }
                };
                let (id, header) = (record.id(), record.header);
                let fingerprint = self.index().fingerprint(id);
                let mut table = self.index().shard(fingerprint).table.write();
                if !is_dirty {
                    table.tombstones.overtake(id, Some(header.version));
                } else if !table.stands(fingerprint, id, |lsn| self.record_at(lsn).is_ok_and(|it| it.id() == id)) {
                    table.tombstones.note(id, Tombstone::new(header.version, lsn, expires_ms));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::upkeep::by_hand::{ByHand, outbox};

    const BUDGET: Budget = Budget { records: 10, bytes: 1000 };

    #[test]
    fn a_store_that_is_closed_has_no_unreadable_records() {
        let store = ByHand::open(Some(outbox()));
        store.put(b"id", 100);
        let read = || store.tier.dirty_records(Lsn::NONE, store.tier.end(), RecordFilter::Dirty, BUDGET);
        assert_eq!(read().unwrap().dirty.len(), 1);
        store.tier.gate.close();
        assert!(matches!(read(), Err(Error::Closed)));
    }
}
