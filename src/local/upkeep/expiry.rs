//! Expiry: deletes objects whose deadline is over, so that their room comes back. Reads do not need it, as they look at the deadline.
//!
//! Only a store that is not shared needs it: what Redis has is let go when its segment is reclaimed.

use std::time::Duration;

use parking_lot::Mutex;

use crate::backend::Patience;
use crate::clock::{MS_MAX, expiry_delay};
use crate::error::Error;
use crate::local::index::{Place, Shard};
use crate::local::journal::Header;
use crate::local::read::Unreadable;
use crate::local::tier::LocalTier;

/// Shards that are gone through at a time by a thread that has other work as well.
const SHARDS_AT_A_TIME: usize = 8;

/// Records that are looked at under one lock of their shard.
const RECORDS_AT_A_TIME: usize = 128;

/// When something expires.
pub(in crate::local) struct Expiry {
    lifetime_ms: u64,
    times: Mutex<Times>,
}

struct Times {
    /// No object in the index has an earlier deadline. 0: not known.
    earliest_ms: u64,
    /// While the index is gone through: the same, of what was seen or stored since.
    coming_ms: Option<u64>,
}

/// Where a thread is that goes through the index a few shards at a time.
#[derive(Default)]
pub(super) struct Sweep {
    next_shard: usize,
    under_way: bool,
}

impl Expiry {
    /// `lifetime_ms`: of what is stored from now on, 0 for ever. What was stored before may have deadlines of any kind.
    pub fn new(lifetime_ms: u64) -> Self {
        Expiry { lifetime_ms, times: Mutex::new(Times { earliest_ms: 0, coming_ms: None }) }
    }

    /// An object with this deadline has been entered.
    pub fn note(&self, deadline_ms: u64) {
        // None, or a lifetime that has not begun.
        if deadline_ms == 0 || deadline_ms > MS_MAX {
            return;
        }
        let mut times = self.times.lock();
        times.earliest_ms = times.earliest_ms.min(deadline_ms);
        times.coming_ms = times.coming_ms.map(|coming_ms| coming_ms.min(deadline_ms));
    }

    /// Whether objects may have expired that still take room.
    pub fn is_possible(&self, now_ms: u64) -> bool {
        self.times.lock().earliest_ms < now_ms
    }

    /// Whether it is time to look, though nobody wants room. A store without lifetimes is not gone through only to find that it has none.
    fn is_due(&self, now_ms: u64) -> bool {
        let delay_ms = expiry_delay(Duration::from_millis(self.lifetime_ms)).as_millis() as u64;
        let earliest_ms = self.times.lock().earliest_ms;
        if earliest_ms == 0 { self.lifetime_ms > 0 } else { earliest_ms.saturating_add(delay_ms) < now_ms }
    }

    /// False if another thread goes through the index already.
    fn begin(&self) -> bool {
        let mut times = self.times.lock();
        let is_free = times.coming_ms.is_none();
        if is_free {
            times.coming_ms = Some(u64::MAX);
        }
        is_free
    }

    /// `is_whole`: every object was seen since `begin`, and what had expired is deleted.
    fn end(&self, is_whole: bool) {
        let mut times = self.times.lock();
        let coming_ms = times.coming_ms.take().unwrap_or(0);
        times.earliest_ms = match is_whole {
            true => coming_ms,
            // To be looked for again, but not at once.
            false => times.earliest_ms.max(1),
        };
    }
}

impl LocalTier {
    /// Whether objects may have expired that still take room.
    pub(in crate::local) fn may_have_expired(&self) -> bool {
        self.expiry.as_ref().is_some_and(|expiry| expiry.is_possible(self.journal.time().passed_ms()))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_while_the_index_is_gone_through_is_not_forgotten() {
        let expiry = Expiry::new(1000);
        assert!(expiry.is_possible(1) && expiry.is_due(1), "nothing is known at first");
        assert!(expiry.begin() && !expiry.begin());
        expiry.note(5000);
        assert!(expiry.is_possible(1), "not all was seen");
        expiry.end(true);
        assert!(!expiry.is_possible(5000) && expiry.is_possible(5001));
        assert!(!expiry.is_due(6000) && expiry.is_due(6001));

        expiry.note(4000);
        assert!(expiry.is_possible(4001));
        assert!(expiry.begin());
        expiry.end(true);
        assert!(!expiry.is_possible(u64::MAX - 1), "nothing is left that expires");
    }

    #[test]
    fn what_was_not_gone_through_to_the_end_is_gone_through_again_but_not_at_once() {
        let expiry = Expiry::new(1000);
        assert!(expiry.begin());
        expiry.note(5000);
        expiry.end(false);
        assert!(expiry.is_possible(2) && expiry.is_due(1002) && !expiry.is_due(1000));
    }

    #[test]
    fn a_store_without_lifetimes_is_gone_through_only_for_who_wants_room() {
        let expiry = Expiry::new(0);
        assert!(!expiry.is_due(u64::MAX) && expiry.is_possible(1));
        // Lifetimes that have not begun, or there are none.
        expiry.note(0);
        expiry.note(MS_MAX + 1);
        assert!(expiry.begin());
        expiry.note(5000);
        expiry.end(true);
        assert!(!expiry.is_due(65_000) && expiry.is_due(65_001), "from then on it is known");
    }
}
