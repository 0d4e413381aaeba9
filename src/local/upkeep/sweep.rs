//! Deletes objects whose deadline is over, so that their room comes back. Reads do not need it, as they look at the deadline.
//!
//! Only a store that is not shared needs it: what Redis has is let go when its segment is reclaimed. So is here what has expired in the
//! oldest segment (`reclaim`); this is for all else.

use super::expiry::Expiry;
use crate::error::Error;
use crate::local::index::{Place, Shard};
use crate::local::journal::{AppendError, Header, Lsn};
use crate::local::read::Unreadable;
use crate::local::tier::LocalTier;

/// Shards that are gone through at a time by a thread that has other work as well.
const SHARDS_AT_A_TIME: usize = 8;

/// Places that are taken from a shard under one lock of it.
const PLACES_AT_A_TIME: usize = 128;

/// Where a thread is that goes through the index a few shards at a time.
#[derive(Default)]
pub(super) struct Sweep {
    next_shard: usize,
    under_way: bool,
    /// Not everything could be read.
    has_failed: bool,
}

impl LocalTier {
    /// Somebody wants room: deletes what is over, as far as that is possible. Returns whether it was anything.
    pub(super) fn expire_now(&self) -> Result<bool, Error> {
        let Some(expiry) = &self.expiry else { return Ok(false) };
        if self.gate.is_closing() || !self.may_have_expired() {
            return Ok(false);
        }
        // Where another thread goes through the index as well, that one takes the notes.
        let takes_notes = expiry.begin();
        let before = self.work.expired.get();
        let mut unreadable = None;
        // There may be no room for all these deletes before what they have freed is reclaimed.
        let failed = self.index().shards().try_for_each(|shard| {
            let deleted = self.expire_in(expiry, shard, &mut unreadable)?;
            if deleted > 0 {
                self.progress.freed();
            }
            Ok(())
        });
        let failed = failed.err().or(unreadable);
        if takes_notes {
            expiry.end(failed.is_none());
        }
        match failed {
            Some(error) if self.work.expired.get() == before => Err(error),
            _ => Ok(self.work.expired.get() > before),
        }
    }

    /// Called again and again: deletes what is over, when that is due, some shards at a time.
    pub(super) fn expire_some(&self, sweep: &mut Sweep) -> Result<(), Error> {
        let Some(expiry) = &self.expiry else { return Ok(()) };
        if !sweep.under_way {
            let is_begun = expiry.is_due(self.journal.time().passed_ms()) && expiry.begin();
            *sweep = Sweep { under_way: is_begun, ..Sweep::default() };
        }
        if !sweep.under_way {
            return Ok(());
        }
        let mut unreadable = None;
        let mut shards = self.index().shards().skip(sweep.next_shard).take(SHARDS_AT_A_TIME);
        let deleted = shards.try_for_each(|shard| self.expire_in(expiry, shard, &mut unreadable).map(drop));
        sweep.next_shard += SHARDS_AT_A_TIME;
        sweep.has_failed |= unreadable.is_some();
        if deleted.is_err() || sweep.next_shard >= self.index().shards().count() {
            sweep.under_way = false;
            expiry.end(deleted.is_ok() && !sweep.has_failed);
        }
        deleted.and(unreadable.map_or(Ok(()), Err))
    }

    /// Deletes what is over in a shard; returns how many objects. What cannot be read keeps nothing else from being deleted.
    fn expire_in(&self, expiry: &Expiry, shard: &Shard, unreadable: &mut Option<Error>) -> Result<usize, Error> {
        let mut deleted = 0;
        let places = shard.table.read().places_behind(self.index().fingerprints(), None, usize::MAX);
        for places in places.chunks(PLACES_AT_A_TIME) {
            if self.gate.is_closing() {
                return Err(Error::Closed);
            }
            for id in self.expired_of(expiry, shard, places, unreadable) {
                if self.delete_expired(&id)? {
                    self.work.expired.add(1);
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }

    /// The ids of those that are over. The deadlines of the others are noted.
    fn expired_of(
        &self,
        expiry: &Expiry,
        shard: &Shard,
        places: &[Place],
        unreadable: &mut Option<Error>,
    ) -> Vec<Vec<u8>> {
        let mut expired = Vec::new();
        let mut look = |lsn: Lsn| match self.record_at(lsn) {
            Ok(record) if self.journal.is_over(&record.header) => {
                expired.push(record.id().to_vec());
                Ok(())
            }
            Ok(record) => {
                expiry.note(record.header.deadline_ms);
                Ok(())
            }
            Err(unreadable) => Err(unreadable),
        };
        // The records may have to come from the disk, for which nobody else is to wait.
        let lsns: Vec<_> = {
            let table = shard.table.read();
            places.iter().map(|place| table.find_place(place)).collect()
        };
        for (place, lsn) in places.iter().zip(lsns) {
            if lsn.is_none_or(|lsn| look(lsn).is_ok()) {
                continue;
            }
            // It may have moved meanwhile. While the shard is locked, no segment that one of its places is in is removed.
            let table = shard.table.read();
            if let Some(Err(Unreadable::Failed(error))) = table.find_place(place).map(&mut look) {
                *unreadable = Some(error);
            }
            // What is damaged is let go by the next get of it, or when its segment is reclaimed.
        }
        expired
    }

    /// Deletes the object if it is still over. Upkeep makes the room that this would wait for, so that it neither waits nor asks for any.
    fn delete_expired(&self, id: &[u8]) -> Result<bool, Error> {
        match self.append_delete(id, |header: &Header| self.journal.is_over(header)) {
            Ok(deleted) => Ok(deleted.is_some()),
            Err(AppendError::Failed(error)) | Err(AppendError::NoRoom(Some(error))) => Err(error),
            Err(AppendError::NoRoom(None)) => Err(self.full(id, 0)),
        }
    }
}

#[cfg(test)]
mod tests;
