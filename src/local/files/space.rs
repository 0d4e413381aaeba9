//! Accounting of disk space: the store's limit, what the journal and the catalog take of it, the reserve, and how short room is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Above this share of the limit in bytes that are dead but held by readers, gets hand out copies.
const PINNED_PERCENT_MAX: u64 = 10;

/// The catalog grows by less than this part of the limit while one segment is sealed.
const CATALOG_GROWTH_PART: u64 = 32;

/// With less free room than this part of the limit, what is dead is freed before it is needed.
const ROOM_SHORT_PART: u64 = 8;

/// With less free room than this part of the limit, puts are held back longer and longer (see `Pace`); ...
const ROOM_LITTLE_PART: u64 = 24;

/// ... with more than this part, less and less.
const ROOM_ENOUGH_PART: u64 = 14;

/// A segment is this part of the limit, so that those kept in reserve are a small part of it, ...
const SEGMENTS_PER_LIMIT: u64 = 64;

/// ... and not larger than this, so that copying the live part of one stays a short task.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

const SEGMENT_BYTES_MIN: u64 = 256 << 10;

/// Preallocated segments for deletes, copies and marks: two for what one evacuation copies and deletes append meanwhile, and one for
/// deletes. Without them a full disk could not append a delete, and would stay full.
pub(crate) const RESERVE_SEGMENTS: usize = 3;

/// How much room there is, for those who use it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FreeRoom {
    /// More than upkeep keeps free.
    Enough,
    Less,
    /// So little that puts would have to wait soon.
    Little,
    /// Somebody waits for more room and gets none, since others take what is made.
    Contested,
}

/// What the directory may take on disk, and takes. Shared by everything that makes or removes files in it.
#[derive(Debug)]
pub(crate) struct Space {
    limit_bytes: u64,
    /// Length of all segment files, removed ones that are still mapped included.
    segments_bytes: AtomicU64,
    catalog_bytes: AtomicU64,
    live_bytes: AtomicU64,
    /// Dead, but held by readers.
    pinned_bytes: AtomicU64,
    /// Length of the preallocated files of the reserve. What the reserve lacks is kept free.
    reserved_bytes: AtomicU64,
}

/// A file's share of the space. Given back when the last who holds it, the segment or a map of it, is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    space: Arc<Space>,
    bytes: AtomicU64,
    unlinked: AtomicBool,
}

impl Space {
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Space {
            limit_bytes,
            segments_bytes: AtomicU64::new(0),
            catalog_bytes: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            pinned_bytes: AtomicU64::new(0),
            reserved_bytes: AtomicU64::new(0),
        })
    }

    /// The largest segment for a store with this limit.
    pub fn segment_bytes_max(&self) -> u64 {
        let part = (self.limit_bytes / SEGMENTS_PER_LIMIT).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        1 << part.ilog2()
    }

    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// What the journal and the catalog take on disk.
    pub fn physical_bytes(&self) -> u64 {
        self.segments_bytes.load(Ordering::Relaxed) + self.catalog_bytes()
    }

    pub fn catalog_bytes(&self) -> u64 {
        self.catalog_bytes.load(Ordering::Relaxed)
    }

    /// Whether readers hold so many dead bytes that gets must hand out copies.
    pub fn is_pinned_down(&self) -> bool {
        self.pinned_bytes.load(Ordering::Relaxed) > self.limit_bytes / 100 * PINNED_PERCENT_MAX
    }

    /// What readers hold of dead bytes.
    pub fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes.load(Ordering::Relaxed)
    }

    pub fn add_live(&self, bytes: u64) {
        self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn remove_live(&self, bytes: u64) {
        self.live_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn add_pinned(&self, bytes: u64) {
        self.pinned_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn remove_pinned(&self, bytes: u64) {
        self.pinned_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn set_catalog_bytes(&self, bytes: u64) {
        self.catalog_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What files for puts may take: the limit, less the catalog and its growth between two looks at it, less what the reserve lacks.
    fn ordinary_bytes_max(&self) -> u64 {
        let reserve_bytes = RESERVE_SEGMENTS as u64 * self.segment_bytes_max();
        let missing_bytes = reserve_bytes.saturating_sub(self.reserved_bytes.load(Ordering::Relaxed));
        let kept_bytes = self.limit_bytes / CATALOG_GROWTH_PART + missing_bytes + self.catalog_bytes();
        self.limit_bytes.saturating_sub(kept_bytes)
    }

    fn take_ordinary(&self, bytes: u64) -> bool {
        let bytes_max = self.ordinary_bytes_max();
        let within = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= bytes_max);
        self.segments_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    /// Takes room for a new file for puts; None if the limit, less the reserve, leaves none.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Option<Arc<Lease>> {
        self.take_ordinary(bytes).then(|| self.lease(bytes))
    }

    /// Takes room for a file of the reserve, or for copies that do not fit into the reserve. That room was kept free, unless the limit was
    /// lowered below what the directory holds: then it is taken beyond the limit, since deletes must work and copying gives back more
    /// than it takes.
    pub fn lease_beyond_limit(self: &Arc<Self>, bytes: u64) -> Arc<Lease> {
        self.lease_existing(bytes)
    }

    /// Notes the total length of the reserve's files.
    pub fn set_reserved_bytes(&self, bytes: u64) {
        self.reserved_bytes.store(bytes, Ordering::Relaxed);
    }

    /// How many more bytes files for puts may take.
    pub fn ordinary_room(&self) -> u64 {
        self.ordinary_bytes_max().saturating_sub(self.segments_bytes.load(Ordering::Relaxed))
    }

    /// Whether files of this length could be made for puts now.
    pub fn has_ordinary_room(&self, bytes: u64) -> bool {
        self.segments_bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.ordinary_bytes_max()
    }

    /// Whether so little room is left that what is dead is freed before it is needed.
    pub fn is_room_short(&self) -> bool {
        !self.has_ordinary_room(self.limit_bytes / ROOM_SHORT_PART)
    }

    /// How much room is left for puts, `holes_bytes` of it inside body segments.
    pub fn free(&self, holes_bytes: u64) -> FreeRoom {
        let part = |part: u64| (self.limit_bytes / part).saturating_sub(holes_bytes);
        if !self.has_ordinary_room(part(ROOM_LITTLE_PART)) {
            FreeRoom::Little
        } else if !self.has_ordinary_room(part(ROOM_ENOUGH_PART)) {
            FreeRoom::Less
        } else {
            FreeRoom::Enough
        }
    }

    /// Counts a file that exists already, even beyond the limit.
    pub fn lease_existing(self: &Arc<Self>, bytes: u64) -> Arc<Lease> {
        self.segments_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.lease(bytes)
    }

    fn lease(self: &Arc<Self>, bytes: u64) -> Arc<Lease> {
        Arc::new(Lease { space: Arc::clone(self), bytes: AtomicU64::new(bytes), unlinked: AtomicBool::new(false) })
    }
}

impl Lease {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The file was cut to this length.
    pub fn shrink(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        self.space.segments_bytes.fetch_sub(before.saturating_sub(bytes), Ordering::Relaxed);
    }

    /// The file is to grow to this length; false where the limit leaves no room.
    pub fn grow(&self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes());
        let grown = self.space.take_ordinary(more);
        if grown {
            self.bytes.fetch_add(more, Ordering::Relaxed);
        }
        grown
    }

    /// The file was removed: from now on whoever still maps it pins dead bytes.
    pub fn unlink(&self) {
        if !self.unlinked.swap(true, Ordering::Relaxed) {
            self.space.add_pinned(self.bytes());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let bytes = self.bytes();
        self.space.segments_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if self.unlinked.load(Ordering::Relaxed) {
            self.space.remove_pinned(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 64 * MIB;
    const CATALOG_GROWTH: u64 = LIMIT / CATALOG_GROWTH_PART;

    fn percent(share: u64) -> u64 {
        LIMIT / 100 * share
    }

    // Invariant 14.
    #[test]
    fn puts_leave_room_for_the_reserve_and_for_what_the_catalog_grows() {
        let space = Space::new(LIMIT);
        let reserve = RESERVE_SEGMENTS as u64 * space.segment_bytes_max();
        let most = LIMIT - reserve - CATALOG_GROWTH;
        assert!(space.has_ordinary_room(most) && !space.has_ordinary_room(most + 1));
        assert!(space.take(most + 1).is_none());
        assert_eq!(space.physical_bytes(), 0);
        let taken = space.take(most).unwrap();
        assert_eq!((taken.bytes(), space.physical_bytes()), (most, most));
        assert!(space.take(1).is_none() && !space.has_ordinary_room(1));

        // The reserve is made whole out of what was left, and puts gain and lose nothing by that.
        let reserved = space.lease_beyond_limit(reserve);
        space.set_reserved_bytes(reserve);
        assert_eq!(space.physical_bytes(), most + reserve);
        assert!(space.has_ordinary_room(0) && !space.has_ordinary_room(1));
        // When the reserve is used up, its room is kept free again.
        drop(reserved);
        space.set_reserved_bytes(0);
        assert!(space.has_ordinary_room(0) && !space.has_ordinary_room(1));
        // So is what the catalog takes.
        drop(taken);
        space.set_catalog_bytes(MIB);
        assert!(space.has_ordinary_room(most - MIB) && !space.has_ordinary_room(most - MIB + 1));
        assert_eq!(space.physical_bytes(), MIB);
        // Where the limit was lowered, the reserve is taken beyond it.
        let lowered = space.lease_existing(2 * LIMIT);
        assert!(!space.has_ordinary_room(0));
        assert_eq!(space.lease_beyond_limit(MIB).bytes(), MIB);
        drop(lowered);
    }

    #[test]
    fn a_file_gives_its_room_back_when_the_last_who_holds_it_lets_go() {
        let space = Space::new(LIMIT);
        let file = space.take(4 * MIB).unwrap();
        let map = Arc::clone(&file);
        file.shrink(MIB);
        assert_eq!((file.bytes(), space.physical_bytes()), (MIB, MIB));
        assert!(file.grow(3 * MIB));
        assert_eq!((file.bytes(), space.physical_bytes()), (3 * MIB, 3 * MIB));
        assert!(file.grow(2 * MIB), "it is longer than that already");
        assert_eq!(file.bytes(), 3 * MIB);
        assert!(!file.grow(LIMIT));
        assert_eq!((file.bytes(), space.physical_bytes()), (3 * MIB, 3 * MIB));
        drop(file);
        assert_eq!(space.physical_bytes(), 3 * MIB);
        drop(map);
        assert_eq!(space.physical_bytes(), 0);
    }

    // Invariant 15, within the limit: readers cannot keep all of it.
    #[test]
    fn what_readers_keep_of_removed_files_counts_as_pinned_until_they_let_go() {
        let space = Space::new(LIMIT);
        let most = percent(PINNED_PERCENT_MAX);
        let file = space.lease_existing(most);
        let read = Arc::clone(&file);
        space.add_pinned(1);
        assert!(!space.is_pinned_down());
        file.unlink();
        assert!(space.is_pinned_down());
        file.unlink();
        space.remove_pinned(1);
        assert!(!space.is_pinned_down(), "it is counted once");
        space.add_pinned(1);
        drop((file, read));
        space.add_pinned(most - 1);
        assert!(!space.is_pinned_down());
        drop(space.lease_existing(most));
        assert!(!space.is_pinned_down(), "a file that has its name pins nothing");
        space.add_pinned(1);
        assert!(space.is_pinned_down());
    }

    #[test]
    fn room_is_short_before_there_is_none() {
        let space = Space::new(LIMIT);
        let most = LIMIT - RESERVE_SEGMENTS as u64 * space.segment_bytes_max() - CATALOG_GROWTH;
        let _used = space.take(most - LIMIT / ROOM_SHORT_PART).unwrap();
        assert!(!space.is_room_short());
        let _more = space.take(1).unwrap();
        assert!(space.is_room_short() && space.has_ordinary_room(MIB));
    }

    #[test]
    fn room_inside_files_counts_for_those_who_use_it_up() {
        let room = LIMIT - RESERVE_SEGMENTS as u64 * Space::new(LIMIT).segment_bytes_max() - CATALOG_GROWTH;
        for (part, above, below) in
            [(ROOM_ENOUGH_PART, FreeRoom::Enough, FreeRoom::Less), (ROOM_LITTLE_PART, FreeRoom::Less, FreeRoom::Little)]
        {
            let space = Space::new(LIMIT);
            let _used = space.take(room - LIMIT / part).unwrap();
            assert_eq!(space.free(0), above);
            let _more = space.take(MIB).unwrap();
            assert_eq!((space.free(0), space.free(MIB - 1), space.free(MIB)), (below, below, above));
        }
        let full = Space::new(LIMIT);
        let _all = full.take(room).unwrap();
        assert_eq!((full.free(0), full.free(LIMIT)), (FreeRoom::Little, FreeRoom::Enough));
    }

    #[test]
    fn segments_are_a_small_part_of_the_limit_within_bounds() {
        assert_eq!(Space::new(0).segment_bytes_max(), SEGMENT_BYTES_MIN);
        assert_eq!(Space::new(LIMIT).segment_bytes_max(), LIMIT / SEGMENTS_PER_LIMIT);
        assert_eq!(Space::new(LIMIT * 2 - 1).segment_bytes_max(), LIMIT / SEGMENTS_PER_LIMIT, "a power of two");
        assert_eq!(Space::new(u64::MAX).segment_bytes_max(), SEGMENT_BYTES_MAX);
    }
}
