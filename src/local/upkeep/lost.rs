//! Noting in the journal what Redis has lost.

use crate::error::Error;
use crate::local::index::liveness::Relocated;
use crate::local::journal::{Lsn, Purpose};
use crate::local::sharing::hearing::Known;
use crate::local::tier::LocalTier;
use crate::local::upkeep::reclaim::NotCopied;

impl LocalTier {
    /// Writes anew what Redis has lost and has not taken back yet; `also_pushed`: and what has not settled since. The record of a fill says of
    /// itself that it is clean, and that it is not is known in memory alone: the next open, if it came later than tombstones last, would take the object
    /// for deleted. The copy says that it is dirty. It takes ordinary room: without any, the record stands until the next call.
    pub(super) fn note_lost(&self, also_pushed: bool) -> Result<(), Error> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        for (lsn, id) in outbox.ledger.unnoted(also_pushed) {
            // The segment stays, as it is this thread that removes segments.
            if let Known::Held { lsn: at, is_clean: true, .. } = self.known(&id)?
                && at == lsn
            {
                match self.copy_lost(&id, lsn) {
                    Ok(Relocated::Moved(_)) => outbox.ledger.overtaken(outbox.ledger.epoch(), lsn),
                    // What is damaged is left to whoever reads it next.
                    Ok(_) | Err(NotCopied::Damaged(_)) => {}
                    Err(NotCopied::NoRoom) => return Ok(()),
                    Err(NotCopied::Failed(error)) => return Err(error),
                }
            }
            outbox.ledger.noted(lsn);
        }
        Ok(())
    }

    fn copy_lost(&self, id: &[u8], lsn: Lsn) -> Result<Relocated, NotCopied> {
        let record = self.record_at(lsn)?;
        if !self.room.admits(record.header.stride()) {
            return Err(NotCopied::NoRoom);
        }
        self.copy_forward(&record, self.index().fingerprint(id), None, Purpose::Put)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Underlying;
    use crate::local::sharing::ledger::Obstacle;
    use crate::local::upkeep::by_hand::{ByHand, Left, outbox};
    use crate::local::write::Fill;
    use crate::object::Object;
    use crate::version::Version;

    /// A store with a settled object, which is a copy of what Redis had.
    fn filled(data: &'static [u8]) -> ByHand {
        let store = ByHand::open(Some(outbox()));
        let object = Object { data: data.into(), metadata: Default::default() };
        let fill = Fill { version: Version { clock: 1, node: 2 }, deadline_ms: 0, is_current: &|| true };
        assert!(store.tier.fill(b"id", &object, xxhash_rust::xxh3::xxh3_128(data), &fill, &mut |_| {}).unwrap());
        store.settle();
        store
    }

    /// As the next open, after a kill, finds the object.
    fn is_dirty_after_a_kill(mut store: ByHand) -> bool {
        store.outbox().set_epoch("epoch".into());
        store.seal();
        store.sealer.store_cursors().unwrap();
        let store = store.reopen(Left::All, Underlying::default(), Some(outbox()));
        let Known::Held { lsn, is_clean, .. } = store.tier.known(b"id").unwrap() else { panic!("it is gone") };
        store.outbox().is_dirty(lsn, is_clean)
    }

    /// Invariant 3: what is known to be nowhere else is not taken for a copy, though the process is killed.
    #[test]
    fn what_redis_has_lost_and_refuses_is_dirty_after_a_kill() {
        for data in [&[7; 100][..], &[7; 200_000]] {
            for is_lost in [false, true] {
                let store = filled(data);
                let lsn = store.place(b"id");
                if is_lost {
                    assert!(store.outbox().ledger.lose(lsn, b"id"));
                    store.outbox().ledger.hold(store.outbox().ledger.epoch(), lsn, b"id", Obstacle::Refused);
                }
                store.tier.note_lost(false).unwrap();
                assert!(!store.outbox().ledger.is_apart(lsn), "the copy is pushed, if there is one");
                assert_eq!(store.tier.get(b"id").unwrap().unwrap().data, data);
                assert_eq!(is_dirty_after_a_kill(store), is_lost, "{} bytes", data.len());
            }
        }
    }

    #[test]
    fn what_redis_has_taken_back_is_written_anew_only_at_the_close() {
        let store = filled(b"data");
        let (lsn, ledger) = (store.place(b"id"), &store.outbox().ledger);
        assert!(ledger.lose(lsn, b"id"));
        ledger.pushed(ledger.epoch(), lsn, b"id", std::time::Instant::now());
        store.tier.note_lost(false).unwrap();
        assert_eq!(store.place(b"id"), lsn);
        store.tier.note_lost(true).unwrap();
        assert!(store.place(b"id") > lsn);
        assert!(is_dirty_after_a_kill(store));
    }

    /// Invariant 3: it stays dirty where it stands, and is written anew once there is room.
    #[test]
    fn without_room_what_redis_has_lost_is_noted_later() {
        let store = filled(&[7; 60_000]);
        let lsn = store.place(b"id");
        assert!(store.outbox().ledger.lose(lsn, b"id"));
        let too_much = (1..).map(|part| part * 30_000).find(|bytes| !store.tier.room.admits(*bytes)).unwrap();
        store.put(b"other", too_much as usize - 30_000);
        store.tier.note_lost(false).unwrap();
        assert!(store.place(b"id") == lsn && store.outbox().is_dirty(lsn, true));
        store.tier.delete(b"other").unwrap();
        store.tier.note_lost(false).unwrap();
        assert!(store.place(b"id") > lsn);
        assert!(store.outbox().ledger.unnoted(true).is_empty(), "once is enough");
    }
}
