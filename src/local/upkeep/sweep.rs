//! Deletes objects whose deadline is over, so that their room comes back. Reads do not need it, as they look at the deadline.
//!
//! Only a store that is not shared needs it: what Redis has is let go when its segment is reclaimed.

use super::expiry::Expiry;
use crate::backend::Patience;
use crate::error::Error;
use crate::local::index::{Place, Shard};
use crate::local::journal::Header;
use crate::local::read::Unreadable;
use crate::local::tier::LocalTier;

/// Shards that are gone through at a time by a thread that has other work as well.
const SHARDS_AT_A_TIME: usize = 8;

/// Records that are looked at under one lock of their shard.
const RECORDS_AT_A_TIME: usize = 128;

/// Where a thread is that goes through the index a few shards at a time.
#[derive(Default)]
pub(super) struct Sweep {
    next_shard: usize,
    under_way: bool,
}

impl LocalTier {
    /// Somebody wants room: deletes everything that is over. Whether that was anything, or is under way.
    pub(super) fn expire_now(&self) -> Result<bool, Error> {
        let Some(expiry) = &self.expiry else { return Ok(false) };
        if !self.may_have_expired() {
            return Ok(false);
        }
        if !expiry.begin() {
            return Ok(true);
        }
        let before = self.work.expired.get();
        let expired = self.index().shards().try_for_each(|shard| self.expire_in(expiry, shard));
        expiry.end(expired.is_ok());
        expired.map(|()| self.work.expired.get() > before)
    }

    /// Called again and again: deletes what is over, when that is due, some shards at a time.
    pub(super) fn expire_some(&self, sweep: &mut Sweep) -> Result<(), Error> {
        let Some(expiry) = &self.expiry else { return Ok(()) };
        if !sweep.under_way {
            let is_begun = expiry.is_due(self.journal.time().passed_ms()) && expiry.begin();
            *sweep = Sweep { next_shard: 0, under_way: is_begun };
        }
        if !sweep.under_way {
            return Ok(());
        }
        let mut shards = self.index().shards().skip(sweep.next_shard).take(SHARDS_AT_A_TIME);
        let expired = shards.try_for_each(|shard| self.expire_in(expiry, shard));
        sweep.next_shard += SHARDS_AT_A_TIME;
        if expired.is_err() || sweep.next_shard >= self.index().shards().count() {
            sweep.under_way = false;
            expiry.end(expired.is_ok());
        }
        expired
    }

    fn expire_in(&self, expiry: &Expiry, shard: &Shard) -> Result<(), Error> {
        if self.gate.is_closing() {
            return Err(Error::Closed);
        }
        let places = shard.table.read().places_behind(self.index().fingerprints(), None, usize::MAX);
        for places in places.chunks(RECORDS_AT_A_TIME) {
            for id in self.expired_of(expiry, shard, places)? {
                let is_over = |header: &Header| self.journal.is_over(header);
                if self.append_delete(&id, Patience::Background, is_over)?.is_some() {
                    self.work.expired.add(1);
                }
            }
        }
        Ok(())
    }

    /// The ids of those that are over. The deadlines of the others are noted.
    fn expired_of(&self, expiry: &Expiry, shard: &Shard, places: &[Place]) -> Result<Vec<Vec<u8>>, Error> {
        let mut expired = Vec::new();
        // While the shard is locked, no segment that one of its places is in is removed.
        let table = shard.table.read();
        for lsn in places.iter().filter_map(|place| table.find_place(place)) {
            match self.record_at(lsn) {
                Ok(record) if self.journal.is_over(&record.header) => expired.push(record.id().to_vec()),
                Ok(record) => expiry.note(record.header.deadline_ms),
                Err(Unreadable::Failed(error)) => return Err(error),
                // The next get of it, or the reclaiming of its segment, lets it go.
                Err(Unreadable::Damaged(_)) => {}
            }
        }
        Ok(expired)
    }
}
