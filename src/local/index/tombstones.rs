//! Deletes that are remembered in memory, so that late fills, pushes and duplicates bring nothing back (invariant 5).

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::owed::Owed;
use crate::local::journal::{Kind, Lsn, NewRecord};
use crate::version::Version;

/// That an id was deleted, and by which version: copies of the object with lower versions are not let in any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub version: Version,
    /// The record of this node's own delete; `Lsn::NONE` for a delete of another node.
    pub lsn: Lsn,
    /// When it may be forgotten, in milliseconds since the open: setting a clock does not shorten its life.
    pub expires_ms: u64,
    /// The id was written again since. If this node does not hold it, only Redis knows whether it exists.
    pub is_overtaken: bool,
    /// The delete's own event was heard: Redis has it.
    pub is_announced: bool,
}

impl Tombstone {
    pub fn new(version: Version, lsn: Lsn, expires_ms: u64) -> Self {
        Tombstone { version, lsn, expires_ms, is_overtaken: false, is_announced: false }
    }
}

/// The tombstones of one shard. Each takes about 120 bytes for `tombstone_ttl_seconds`.
pub(crate) struct Tombstones {
    by_id: FxHashMap<Box<[u8]>, Tombstone>,
    owed: Arc<Owed>,
}

/// Bytes that the record of a delete takes in its segment.
pub(crate) fn delete_bytes(id: &[u8]) -> u64 {
    NewRecord::bare(id, Kind::Delete, Lsn::NONE).header(Lsn::NONE).stride()
}

impl Tombstones {
    pub fn new(owed: Arc<Owed>) -> Self {
        Tombstones { by_id: FxHashMap::default(), owed }
    }

    #[inline]
    pub fn get(&self, id: &[u8]) -> Option<Tombstone> {
        if self.by_id.is_empty() { None } else { self.by_id.get(id).copied() }
    }

    /// Adds a tombstone, unless one with at least its version is known.
    pub fn note(&mut self, id: &[u8], tombstone: Tombstone) {
        let known = self.by_id.get_mut(id);
        if known.as_ref().is_some_and(|known| known.version >= tombstone.version) {
            return;
        }
        if !tombstone.lsn.is_none() {
            self.owed.add(tombstone.lsn, delete_bytes(id));
        }
        match known {
            Some(known) => {
                settle(&self.owed, id, known.lsn);
                *known = tombstone;
            }
            None => drop(self.by_id.insert(id.into(), tombstone)),
        }
    }

    /// The id was written again, with this version, or (None) with one that is known to be newer.
    #[inline]
    pub fn overtake(&mut self, id: &[u8], version: Option<Version>) {
        if !self.by_id.is_empty()
            && let Some(known) = self.by_id.get_mut(id)
        {
            known.is_overtaken |= version.is_none_or(|version| version > known.version);
        }
    }

    /// The event of the delete with this version was heard.
    pub fn announced(&mut self, id: &[u8], version: Version) {
        if let Some(known) = self.by_id.get_mut(id).filter(|known| known.version == version) {
            known.is_announced = true;
        }
    }

    /// The record of the delete has moved to `to`, or is gone (`Lsn::NONE`).
    pub fn moved(&mut self, id: &[u8], from: Lsn, to: Lsn) {
        if let Some(known) = self.by_id.get_mut(id).filter(|known| known.lsn == from) {
            if !to.is_none() {
                self.owed.add(to, delete_bytes(id));
            }
            settle(&self.owed, id, from);
            known.lsn = to;
        }
    }

    /// Forgets the tombstones that have expired at `now_ms` (since the open), except those that `is_needed`.
    pub fn expire(&mut self, now_ms: u64, is_needed: impl Fn(&Tombstone) -> bool) {
        self.by_id.retain(|id, tombstone| {
            let is_kept = tombstone.expires_ms > now_ms || is_needed(tombstone);
            if !is_kept {
                settle(&self.owed, id, tombstone.lsn);
            }
            is_kept
        });
    }
}

/// The record of the delete at `lsn` is not needed any more.
fn settle(owed: &Owed, id: &[u8], lsn: Lsn) {
    if !lsn.is_none() {
        owed.remove(lsn, delete_bytes(id));
    }
}

#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use super::*;

    fn version(clock: u64) -> Version {
        Version { clock, ..Version::default() }
    }

    // Invariant 14.
    #[test]
    fn what_is_owed_is_what_the_deletes_take_that_count() {
        let owed = Arc::<Owed>::default();
        let mut tombstones = Tombstones::new(Arc::clone(&owed));
        let (first, second, moved) = (Lsn::new(1, 64), Lsn::new(2, 64), Lsn::new(3, 64));
        let bytes = delete_bytes(b"id");
        let all = || [owed.bytes_in(1), owed.bytes_in(2), owed.bytes_in(3), owed.bytes()];
        tombstones.note(b"id", Tombstone::new(version(2), first, 10));
        assert_eq!(all(), [bytes, 0, 0, bytes]);
        tombstones.note(b"id", Tombstone::new(version(1), second, 10));
        assert_eq!(all(), [bytes, 0, 0, bytes], "an older one changes nothing");
        tombstones.note(b"id", Tombstone::new(version(3), second, 10));
        assert_eq!(all(), [0, bytes, 0, bytes], "a newer one takes its place");
        tombstones.moved(b"id", first, moved);
        assert_eq!(all(), [0, bytes, 0, bytes], "it is not the one that counts");
        tombstones.moved(b"id", second, moved);
        assert_eq!(all(), [0, 0, bytes, bytes]);
        tombstones.note(b"longer id", Tombstone::new(version(3), second, 10));
        let longer_bytes = delete_bytes(b"longer id");
        assert_eq!(all(), [0, longer_bytes, bytes, bytes + longer_bytes]);
        owed.settle_below(3);
        assert_eq!(all(), [0, 0, bytes, bytes]);
        tombstones.moved(b"longer id", second, Lsn::NONE);
        assert_eq!(all(), [0, 0, bytes, bytes], "it is settled already");
        tombstones.note(b"id", Tombstone::new(version(4), Lsn::NONE, 10));
        assert_eq!(all(), [0; 4], "another node's is no record here");
        tombstones.note(b"other", Tombstone::new(version(4), moved, 10));
        tombstones.expire(10, |tombstone| tombstone.lsn == moved);
        assert_eq!(all(), [0, 0, delete_bytes(b"other"), delete_bytes(b"other")]);
        tombstones.expire(10, |_| false);
        assert_eq!(all(), [0; 4]);
    }
}
