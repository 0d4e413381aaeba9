use rustc_hash::FxHashMap;

use crate::local::journal::Lsn;
use crate::version::Version;

/// That an id was deleted, and by which write: copies of it with lower versions are not let in any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub version: Version,
    /// The record of this node's own delete; none where another node's was heard of.
    pub place: Lsn,
    /// When it may be forgotten, in milliseconds since the open: no clock that is set takes any of its time.
    pub expires_ms: u64,
    /// The id was written again since: whether it exists, only Redis knows where this node does not hold it.
    pub is_overtaken: bool,
    /// It was heard that Redis has it.
    pub is_announced: bool,
}

impl Tombstone {
    pub fn new(version: Version, place: Lsn, expires_ms: u64) -> Self {
        Tombstone { version, place, expires_ms, is_overtaken: false, is_announced: false }
    }
}

/// Deleted ids, for a part of all ids. About 120 bytes each, for `tombstone_ttl_seconds`.
#[derive(Default)]
pub(crate) struct Tombstones(FxHashMap<Box<[u8]>, Tombstone>);

impl Tombstones {
    #[inline]
    pub fn get(&self, id: &[u8]) -> Option<Tombstone> {
        if self.0.is_empty() { None } else { self.0.get(id).copied() }
    }

    /// Notes a delete, unless a later one is known.
    pub fn note(&mut self, id: &[u8], tombstone: Tombstone) {
        match self.0.get_mut(id) {
            Some(known) if known.version >= tombstone.version => {}
            Some(known) => *known = tombstone,
            None => drop(self.0.insert(id.into(), tombstone)),
        }
    }

    /// The id was written again, with this version, or (None) one that is newer for sure.
    #[inline]
    pub fn overtake(&mut self, id: &[u8], version: Option<Version>) {
        if !self.0.is_empty()
            && let Some(known) = self.0.get_mut(id)
        {
            known.is_overtaken |= version.is_none_or(|version| version > known.version);
        }
    }

    /// The event of the delete with this version was heard.
    pub fn announced(&mut self, id: &[u8], version: Version) {
        if let Some(known) = self.0.get_mut(id).filter(|known| known.version == version) {
            known.is_announced = true;
        }
    }

    /// The record of the delete has moved, or (`Lsn::NONE`) is gone.
    pub fn moved(&mut self, id: &[u8], from: Lsn, to: Lsn) {
        if let Some(known) = self.0.get_mut(id).filter(|known| known.place == from) {
            known.place = to;
        }
    }

    /// Forgets those that expired before `now_ms`, since the open, but for those that `is_needed`.
    pub fn expire(&mut self, now_ms: u64, is_needed: impl Fn(&Tombstone) -> bool) {
        self.0.retain(|_, tombstone| tombstone.expires_ms > now_ms || is_needed(tombstone));
    }
}
