//! The index in memory: where each object's record is, which records share a payload, and which ids were deleted.

pub(crate) mod changes;
pub(crate) mod liveness;
pub(crate) mod owed;
pub(crate) mod payloads;
pub(crate) mod tombstones;
mod weight;

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::Error;
use crate::local::journal::Lsn;
use crate::sync::{Mutex, RwLock};
use changes::Changes;
use owed::Owed;
use tombstones::Tombstones;

/// Few under the interleavings checker, which goes through the orders of their locks.
pub(crate) const SHARD_COUNT: usize = if cfg!(feature = "shuttle") { 2 } else { 256 };

/// Most objects that memory is reserved for on the catalog's word: 64 million take 2 GiB. With more, the tables grow step by step.
const OBJECTS_RESERVED_MAX: u64 = 64 << 20;

/// Where each object's record is: 16 bytes for an object.
///
/// An entry has a seeded 64-bit fingerprint of the id instead of the id; the id in the record decides. Ids whose fingerprint is
/// taken by another id (collisions) are kept whole in a second map.
pub(crate) struct Index {
    fingerprints: Fingerprints,
    shards: Box<[Shard]>,
    owed: Arc<Owed>,
    changes: Arc<Changes>,
}

/// The seeded hash from ids to 64-bit fingerprints, which whoever chooses the ids cannot foresee.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprints {
    pub seed: u64,
    /// All ones, but in tests that want collisions.
    pub mask: u64,
}

impl Fingerprints {
    #[inline]
    pub fn of(&self, id: &[u8]) -> u64 {
        xxh3_64_with_seed(id, self.seed) & self.mask
    }
}

/// The part of the index for the ids whose fingerprints fall into it.
pub(crate) struct Shard {
    /// Held while a record of this shard is checked, appended and entered, so that journal order is index order. Whoever holds it "holds the
    /// id".
    pub writing: Mutex<()>,
    pub table: RwLock<Table>,
}

/// One shard's entries, collisions and tombstones.
pub(crate) struct Table {
    entries: HashTable<Entry>,
    collisions: HashMap<Box<[u8]>, Lsn>,
    /// Ids that were deleted, for as long as other nodes may still offer them.
    pub tombstones: Tombstones,
    changes: Arc<Changes>,
}

impl Table {
    fn new(owed: Arc<Owed>, changes: Arc<Changes>) -> Self {
        let tombstones = Tombstones::new(owed);
        Table { entries: HashTable::default(), collisions: HashMap::default(), tombstones, changes }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    fingerprint: u64,
    lsn: Lsn,
}

const _: () = assert!(mem::size_of::<Entry>() == 16);

impl Index {
    pub fn new(fingerprints: Fingerprints) -> Self {
        let owed = Arc::<Owed>::default();
        let changes = Arc::<Changes>::default();
        let table = || Table::new(Arc::clone(&owed), Arc::clone(&changes));
        let shard = || Shard { writing: Mutex::default(), table: RwLock::new(table()) };
        Index { fingerprints, shards: std::iter::repeat_with(shard).take(SHARD_COUNT).collect(), owed, changes }
    }

    /// Record bytes of deletes that Redis may not know of.
    pub fn owed(&self) -> &Arc<Owed> {
        &self.owed
    }

    /// The change counters of attached processes.
    pub fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    #[inline]
    pub fn fingerprint(&self, id: &[u8]) -> u64 {
        self.fingerprints.of(id)
    }

    /// The fingerprint function.
    pub fn fingerprints(&self) -> Fingerprints {
        self.fingerprints
    }

    /// The number of an id's shard. When two shards are locked, the lower one goes first.
    #[inline]
    pub fn shard_number(fingerprint: u64) -> usize {
        // The table itself uses the lowest bits and the highest seven.
        (fingerprint >> 40) as usize % SHARD_COUNT
    }

    #[inline]
    pub fn shard(&self, fingerprint: u64) -> &Shard {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        &self.shards[Self::shard_number(fingerprint)]
    }

    /// At open: reserves memory for about this many objects, so that tables need not grow step by step.
    pub fn reserve(&mut self, objects: u64) {
        let each = objects.min(OBJECTS_RESERVED_MAX) as usize / SHARD_COUNT;
        // Some more, as ids do not spread over the shards quite evenly.
        let each = each + each / 16;
        for shard in &mut self.shards {
            shard.table.get_mut().entries.reserve(each, |entry| entry.fingerprint);
        }
    }

    /// At open, newest record first: enters a place. If the fingerprint has a place already, returns that one instead.
    pub fn restore(&mut self, fingerprint: u64, lsn: Lsn) -> Option<Lsn> {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        let table = self.shards[Self::shard_number(fingerprint)].table.get_mut();
        match table.find_fingerprint(fingerprint) {
            Some(occupant) => Some(occupant),
            None => {
                table.entries.insert_unique(fingerprint, Entry { fingerprint, lsn }, |entry| entry.fingerprint);
                None
            }
        }
    }

    pub fn object_count(&self) -> u64 {
        self.shards.iter().map(|shard| shard.table.read().len() as u64).sum()
    }

    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// The places of all objects, shard by shard, each as it was at one moment.
    pub fn lsns(&self) -> impl Iterator<Item = Lsn> + '_ {
        self.shards.iter().flat_map(|shard| {
            let table = shard.table.read();
            table.lsns(self.fingerprints).map(|(_, lsn)| lsn).collect::<Vec<_>>()
        })
    }
}

/// A place in the order of a listing: an id's fingerprint and, where another id has that as well, the id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub fingerprint: u64,
    pub collision: Option<Box<[u8]>>,
}

impl Place {
    /// As `decode` reads it: the fingerprint, then the id of a collision behind a byte.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.fingerprint.to_le_bytes().to_vec();
        if let Some(id) = &self.collision {
            bytes.push(1);
            bytes.extend_from_slice(id);
        }
        bytes
    }

    /// None for the empty position, the beginning.
    pub fn decode(bytes: &[u8]) -> Result<Option<Place>, Error> {
        let Some((fingerprint, rest)) = bytes.split_first_chunk() else {
            return match bytes {
                [] => Ok(None),
                _ => Err(Error::Config("this is no position in a listing of this store".to_owned())),
            };
        };
        let collision = rest.split_first().map(|(_, id)| id.into());
        Ok(Some(Place { fingerprint: u64::from_le_bytes(*fingerprint), collision }))
    }
}

impl Table {
    /// The first `limit` places behind `after`, in order. Looks at the whole table.
    pub fn places_behind(&self, fingerprints: Fingerprints, after: Option<&Place>, limit: usize) -> Vec<Place> {
        let from = after.map_or(0, |after| after.fingerprint);
        let mut taken: Vec<u64> =
            self.entries.iter().map(|entry| entry.fingerprint).filter(|fingerprint| *fingerprint >= from).collect();
        if taken.len() > limit.saturating_add(1) {
            // One more, as the first may be `after` itself.
            taken.select_nth_unstable(limit + 1);
            taken.truncate(limit + 1);
        }
        let mut places: Vec<Place> =
            taken.into_iter().map(|fingerprint| Place { fingerprint, collision: None }).collect();
        // There are few of them, and none unless somebody has made them.
        let collision = |id: &[u8]| Place { fingerprint: fingerprints.of(id), collision: Some(id.into()) };
        places.extend(self.collisions.keys().map(|id| collision(id)));
        places.retain(|place| after.is_none_or(|after| place > after));
        places.sort_unstable();
        places.truncate(limit);
        places
    }

    fn len(&self) -> usize {
        self.entries.len() + self.collisions.len()
    }

    /// All ids' fingerprints and places.
    pub fn lsns(&self, fingerprints: Fingerprints) -> impl Iterator<Item = (u64, Lsn)> + '_ {
        let entries = self.entries.iter().map(|entry| (entry.fingerprint, entry.lsn));
        entries.chain(self.collisions.iter().map(move |(id, lsn)| (fingerprints.of(id), *lsn)))
    }

    /// Where the id of this place stands now.
    pub fn find_place(&self, place: &Place) -> Option<Lsn> {
        match &place.collision {
            None => self.find_fingerprint(place.fingerprint),
            Some(id) => self.find_collision(id),
        }
    }

    /// Whether the id has a record. `is_its` says whether the record at a place, found by fingerprint alone, is this id's.
    pub fn stands(&self, fingerprint: u64, id: &[u8], is_its: impl FnOnce(Lsn) -> bool) -> bool {
        self.find_collision(id).is_some() || self.find_fingerprint(fingerprint).is_some_and(is_its)
    }

    /// Whether an id with this fingerprint stands at `lsn`.
    pub fn has_place(&self, fingerprint: u64, lsn: Lsn) -> bool {
        self.find_fingerprint(fingerprint) == Some(lsn) || self.collisions.values().any(|at| *at == lsn)
    }

    /// Whether the id's record is the one at `lsn`.
    pub fn stands_at(&self, fingerprint: u64, id: &[u8], lsn: Lsn) -> bool {
        self.find_fingerprint(fingerprint) == Some(lsn) || self.find_collision(id) == Some(lsn)
    }

    /// The place that is entered for a fingerprint, whichever id has it.
    #[inline]
    pub fn find_fingerprint(&self, fingerprint: u64) -> Option<Lsn> {
        self.entries.find(fingerprint, |entry| entry.fingerprint == fingerprint).map(|entry| entry.lsn)
    }

    /// The place of an id whose fingerprint is another id's.
    #[inline]
    pub fn find_collision(&self, id: &[u8]) -> Option<Lsn> {
        if self.collisions.is_empty() { None } else { self.collisions.get(id).copied() }
    }

    /// Sets the id's place to `lsn`; `old` is its place until now, if it had one.
    pub fn set(&mut self, fingerprint: u64, id: &[u8], old: Option<Lsn>, lsn: Lsn) {
        self.changes.raise(fingerprint);
        let same = |entry: &Entry| entry.fingerprint == fingerprint;
        match self.entries.find_mut(fingerprint, same) {
            Some(entry) if old == Some(entry.lsn) => entry.lsn = lsn,
            Some(_) => drop(self.collisions.insert(id.into(), lsn)),
            // A colliding id stays in `collisions` when its rival is gone: it must not be in both maps.
            None if old.is_some() => drop(self.collisions.insert(id.into(), lsn)),
            None => {
                self.entries.insert_unique(fingerprint, Entry { fingerprint, lsn }, |entry| entry.fingerprint);
            }
        }
    }

    /// Removes whichever id is at `lsn`. Returns whether there was one.
    pub fn remove_place(&mut self, fingerprint: u64, lsn: Lsn) -> bool {
        self.changes.raise(fingerprint);
        let is_it = |entry: &Entry| entry.fingerprint == fingerprint && entry.lsn == lsn;
        if let Ok(entry) = self.entries.find_entry(fingerprint, is_it) {
            entry.remove();
            return true;
        }
        let before = self.collisions.len();
        self.collisions.retain(|_, at| *at != lsn);
        self.collisions.len() < before
    }

    /// Removes the id, which was at `lsn`.
    pub fn remove(&mut self, fingerprint: u64, id: &[u8], lsn: Lsn) {
        self.changes.raise(fingerprint);
        match self.entries.find_entry(fingerprint, |entry| entry.fingerprint == fingerprint && entry.lsn == lsn) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => drop(self.collisions.remove(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_with_one_fingerprint_are_told_apart_by_the_id() {
        let mut table = Table::new(Arc::default(), Arc::default());
        let (first, second, third) = (Lsn::new(1, 64), Lsn::new(1, 128), Lsn::new(1, 192));
        table.set(5, b"a", None, first);
        table.set(5, b"b", None, second);
        assert!(table.stands_at(5, b"a", first) && !table.stands_at(5, b"a", second));
        assert!(table.stands_at(5, b"b", second));
        assert_eq!((table.find_fingerprint(5), table.find_collision(b"b")), (Some(first), Some(second)));
        assert_eq!(table.find_collision(b"c"), None);

        table.set(5, b"b", Some(second), third);
        assert!(table.stands_at(5, b"b", third));
        table.remove(5, b"a", first);
        assert_eq!((table.find_fingerprint(5), table.find_collision(b"b")), (None, Some(third)));
        table.set(5, b"b", Some(third), second);
        assert_eq!((table.find_collision(b"b"), table.len()), (Some(second), 1));
        table.remove(5, b"b", second);
        assert_eq!(table.len(), 0);
    }
}
