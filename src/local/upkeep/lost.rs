//! Noting in the journal what Redis lacks although the next open would take it for a copy of what Redis has.

use crate::error::Error;
use crate::local::index::liveness::Relocated;
use crate::local::journal::{Lsn, Purpose};
use crate::local::sharing::hearing::Known;
use crate::local::sharing::ledger::Unnoted;
use crate::local::tier::LocalTier;
use crate::local::upkeep::reclaim::NotCopied;

impl LocalTier {
    /// Writes anew what Redis has lost, or refuses to have again; `also_pushed`: and what it has taken back, and has not settled since. The record of
    /// a fill says of itself that it is clean, the cursors say so of what had settled, and what is known better is known in memory alone: the next
    /// open would evict the object, or take it for deleted. The copy says that it is dirty.
    ///
    /// Takes room as a put does. Returns whether nothing is left that could not be written.
    pub(super) fn note_lost(&self, also_pushed: bool) -> Result<bool, Error> {
        let Some(outbox) = &self.outbox else { return Ok(true) }; // what is not shared cannot be lost by Redis
        let mut outcome = Ok(true);
        for Unnoted { lsn, id, was_settled } in outbox.ledger.unnoted(also_pushed) {
            match self.note(&id, lsn, was_settled) {
                // What is damaged is left to whoever reads it next.
                Ok(true) | Err(NotCopied::Damaged(_)) => outbox.ledger.noted(lsn),
                Ok(false) => {}
                Err(NotCopied::NoRoom) => outcome = outcome.and(Ok(false)),
                Err(NotCopied::Failed(error)) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// False if it has to be looked at again, though nothing is wrong if it never is.
    fn note(&self, id: &[u8], lsn: Lsn, was_settled: bool) -> Result<bool, NotCopied> {
        let known = match self.known(id) {
            Err(error) if !was_settled => {
                // Nearly all of these say of themselves that they are dirty.
                tracing::debug!("{error}; whether the record at {lsn} says that it is dirty is looked at later");
                return Ok(false);
            }
            known => known.map_err(NotCopied::Failed)?,
        };
        // The segment stays, as it is this thread that removes segments.
        match known {
            Known::Held { lsn: at, is_clean, .. } if at == lsn && (is_clean || was_settled) => {
                let record = self.record_at(lsn)?;
                let _: Relocated = self.copy_forward(&record, self.index().fingerprint(id), None, Purpose::Put)?;
            }
            _ => {}
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Underlying;
    use crate::local::sharing::ledger::Obstacle;
    use crate::local::upkeep::by_hand::{ByHand, Left, outbox};

    /// A store with a settled object, which is a copy of what Redis had.
    fn filled(data: &'static [u8]) -> ByHand {
        let store = ByHand::open(Some(outbox()));
        assert!(store.fill(b"id", data));
        store.settle();
        store
    }

    /// As the next open, after a kill, finds the object.
    fn is_dirty_after_a_kill(mut store: ByHand) -> bool {
        store.outbox().set_epoch("epoch".into());
        store.sealer.note_lost(false);
        store.seal();
        store.sealer.store_cursors().unwrap();
        is_dirty_in_the_next_open(store)
    }

    fn is_dirty_in_the_next_open(store: ByHand) -> bool {
        let store = store.reopen(Left::All, Underlying::default(), Some(outbox()));
        let Known::Held { lsn, is_clean, .. } = store.tier.known(b"id").unwrap() else { panic!("it is gone") };
        store.outbox().is_dirty(lsn, is_clean)
    }

    fn refuse(store: &ByHand, id: &[u8]) {
        store.outbox().ledger.hold(store.outbox().ledger.epoch(), store.place(id), id, Obstacle::Refused);
    }

    fn note(store: &ByHand) -> bool {
        store.tier.note_lost(false).unwrap()
    }

    /// Invariant 3: what is known to be nowhere else is not taken for a copy, though the process is killed.
    #[test]
    fn what_redis_has_lost_and_refuses_is_dirty_after_a_kill() {
        for data in [&[7; 100][..], &[7; 200_000]] {
            for (is_found_lost, is_refused) in [(false, false), (true, false), (false, true), (true, true)] {
                let store = filled(data);
                let lsn = store.place(b"id");
                if is_found_lost {
                    assert!(store.outbox().ledger.lose(lsn, b"id"));
                }
                if is_refused {
                    refuse(&store, b"id"); // it was wanted, or belongs to a backlog
                }
                assert!(note(&store));
                let is_dirty = is_found_lost || is_refused;
                let copy = store.place(b"id");
                assert_eq!((copy > lsn, store.outbox().ledger.is_apart(copy)), (is_dirty, is_dirty));
                assert_eq!(store.tier.get(b"id").unwrap().unwrap().data, data);
                assert!(note(&store) && store.place(b"id") == copy, "once is enough");
                assert_eq!(is_dirty_after_a_kill(store), is_dirty, "{} bytes", data.len());
            }
        }
    }

    /// The cursors may have to stay where they are, above what Redis has lost since.
    #[test]
    fn what_a_node_wrote_itself_is_dirty_after_a_kill_whatever_becomes_of_the_cursors() {
        let mut store = ByHand::open(Some(outbox()));
        store.put(b"id", 100);
        store.settle();
        store.outbox().set_epoch("epoch".into());
        store.seal();
        store.sealer.store_cursors().unwrap();
        store.outbox().set_evicting(true);
        assert!(store.outbox().ledger.lose(store.place(b"id"), b"id"));
        assert!(is_dirty_after_a_kill(store));
    }

    #[test]
    fn what_is_dirty_by_itself_is_not_written_anew() {
        let store = ByHand::open(Some(outbox()));
        store.put(b"id", 100);
        let lsn = store.place(b"id");
        for _ in 0..3 {
            refuse(&store, b"id");
            assert!(note(&store) && store.place(b"id") == lsn);
            store.settle(); // what is around it
        }
    }

    #[test]
    fn what_redis_has_taken_back_is_written_anew_only_at_the_close() {
        let store = filled(b"data");
        let (lsn, ledger) = (store.place(b"id"), &store.outbox().ledger);
        assert!(ledger.lose(lsn, b"id"));
        ledger.pushed(ledger.epoch(), lsn, b"id", std::time::Instant::now());
        assert!(note(&store));
        assert_eq!(store.place(b"id"), lsn);
        assert!(store.tier.note_lost(true).unwrap());
        assert!(store.place(b"id") > lsn);
        assert!(is_dirty_after_a_kill(store));
    }

    /// Invariant 3: a failover loses what was pushed for somebody who wanted it.
    #[test]
    fn what_was_pushed_again_and_lost_is_written_anew() {
        let store = filled(b"data");
        let (lsn, ledger) = (store.place(b"id"), &store.outbox().ledger);
        ledger.pushed(ledger.epoch(), lsn, b"id", std::time::Instant::now());
        assert!(note(&store) && store.place(b"id") == lsn);
        ledger.push_again();
        assert!(note(&store) && store.place(b"id") > lsn);
        assert!(is_dirty_after_a_kill(store));
    }

    /// Invariant 3: a node whose Redis is full is full itself.
    #[test]
    fn a_store_that_takes_no_puts_notes_what_redis_has_lost() {
        let store = filled(&[7; 60_000]);
        let too_much = (1..).map(|part| part * 30_000).find(|bytes| !store.tier.room.admits(*bytes)).unwrap();
        store.put(b"other", too_much as usize - 30_000);
        refuse(&store, b"id");
        assert!(note(&store));
        assert!(is_dirty_after_a_kill(store));
    }

    /// Invariant 3: where there is no room for the copy, the next open knows that it knows nothing.
    #[test]
    fn without_room_everything_is_dirty_in_the_next_open() {
        let mut store = filled(&[7; 60_000]);
        store.outbox().set_epoch("epoch".into());
        store.sealer.store_cursors().unwrap();
        let lsn = store.place(b"id");
        let taken = store.leave_room(0);
        while store.fill(b"other", &[7; 60_000]) {}
        assert!(store.outbox().ledger.lose(lsn, b"id"));
        assert!(!note(&store) && store.place(b"id") == lsn);
        assert!(is_dirty_after_a_kill(store));
        drop(taken);
    }

    /// Invariant 3: nor where the disk takes nothing any more.
    #[test]
    fn what_cannot_be_written_makes_everything_dirty_in_the_next_open() {
        for had_settled in [false, true] {
            let mut store = ByHand::open(Some(outbox()));
            assert!(store.fill(b"id", b"data"));
            if had_settled {
                store.settle();
            }
            store.outbox().set_epoch("epoch".into());
            store.sealer.store_cursors().unwrap();
            refuse(&store, b"id");
            store.tier.journal.fail(Error::Config("the disk has failed".into()));
            assert!(store.tier.note_lost(false).is_err());
            store.sealer.note_lost(false);
            store.sealer.store_cursors().unwrap();
            assert!(is_dirty_in_the_next_open(store), "had settled: {had_settled}");
        }
    }

    #[test]
    fn what_cannot_be_read_now_is_noted_later() {
        for had_settled in [false, true] {
            let mut store = ByHand::open(Some(outbox()));
            store.put(b"id", 100);
            if had_settled {
                store.settle();
            }
            let segment = store.seal();
            refuse(&store, b"id");
            let segment = store.segment(segment);
            let hidden = segment.path().with_extension("hidden");
            std::fs::rename(segment.path(), &hidden).unwrap();
            segment.close_file();
            segment.unmap();
            // What had not settled is dirty by itself.
            assert_eq!(store.tier.note_lost(false).is_err(), had_settled);
            std::fs::rename(&hidden, segment.path()).unwrap();
            assert!(note(&store));
            assert_eq!(store.place(b"id").segment() > segment.number, had_settled);
        }
    }
}
