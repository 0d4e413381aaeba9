use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Above this share of the limit in live bytes, puts are refused. The rest is what reclaiming works with: the fuller the store, the
/// more live bytes it copies for each dead one that it frees.
const LIVE_PERCENT_MAX: u64 = 80;

/// Above this share in live bytes, or on disk, objects that Redis has are evicted: before puts have to wait for it.
const EVICTION_LIVE_PERCENT: u64 = 70;
const EVICTION_PHYSICAL_PERCENT: u64 = 85;

/// Above this share of the limit in bytes that are dead but held by readers, gets hand out copies.
const PINNED_PERCENT_MAX: u64 = 10;

/// The catalog grows by less than this part of the limit while one segment is sealed.
const CATALOG_GROWTH_PART: u64 = 32;

/// With less free room than this part of the limit, what is dead is freed before it is needed.
const ROOM_SHORT_PART: u64 = 8;

/// With less than this part puts are held back, more and more; ...
const ROOM_LITTLE_PART: u64 = 24;

/// ... from this part on less and less.
const ROOM_ENOUGH_PART: u64 = 14;

/// A segment is this part of the limit, so that those kept in reserve are a small part of it, ...
const SEGMENTS_PER_LIMIT: u64 = 64;

/// ... and not larger than this, so that copying the live part of one stays a short task.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

const SEGMENT_BYTES_MIN: u64 = 256 << 10;

/// Segments kept for deletes, copies and marks: two for what one evacuation copies, with what deletes add to it meanwhile, and one for
/// deletes. A full disk that cannot append a delete stays full.
pub(crate) const RESERVE_SEGMENTS: usize = 3;

/// How much room there is, for those who use it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Free {
    /// More than upkeep keeps free.
    Enough,
    Less,
    /// So little that puts would have to wait soon.
    Little,
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
    /// Length of the files that stand ready for deletes, copies and marks. What is missing of them is kept free.
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

    pub fn physical_bytes(&self) -> u64 {
        self.segments_bytes.load(Ordering::Relaxed) + self.catalog_bytes.load(Ordering::Relaxed)
    }

    /// Whether `bytes` more of live objects, and the catalog's share, are within what the store may hold.
    pub fn admits(&self, bytes: u64) -> bool {
        let live_bytes_max = self.limit_bytes / 100 * LIVE_PERCENT_MAX;
        let used = self.live_bytes() + self.catalog_bytes.load(Ordering::Relaxed);
        used.saturating_add(bytes) <= live_bytes_max
    }

    /// Whether `bytes` could be held in an empty store.
    pub fn could_admit(&self, bytes: u64) -> bool {
        self.catalog_bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.limit_bytes / 100 * LIVE_PERCENT_MAX
    }

    /// Whether objects that can be had from elsewhere are to go.
    pub fn wants_eviction(&self) -> bool {
        let live = self.live_bytes() + self.catalog_bytes.load(Ordering::Relaxed);
        live > self.limit_bytes / 100 * EVICTION_LIVE_PERCENT
            || self.physical_bytes() > self.limit_bytes / 100 * EVICTION_PHYSICAL_PERCENT
    }

    /// Whether readers hold so many dead bytes that gets must copy.
    pub fn is_pinned_down(&self) -> bool {
        self.pinned_bytes.load(Ordering::Relaxed) > self.limit_bytes / 100 * PINNED_PERCENT_MAX
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

    /// What files of puts may take: a little is left for what the catalog grows between two looks at it, and so much that the reserve
    /// can always be made whole.
    fn ordinary_bytes_max(&self) -> u64 {
        let reserve_bytes = RESERVE_SEGMENTS as u64 * self.segment_bytes_max();
        let missing_bytes = reserve_bytes.saturating_sub(self.reserved_bytes.load(Ordering::Relaxed));
        let kept_bytes =
            self.limit_bytes / CATALOG_GROWTH_PART + missing_bytes + self.catalog_bytes.load(Ordering::Relaxed);
        self.limit_bytes.saturating_sub(kept_bytes)
    }

    fn take_ordinary(&self, bytes: u64) -> bool {
        let bytes_max = self.ordinary_bytes_max();
        let within = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= bytes_max);
        self.segments_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    /// Takes room for a new file; None where the limit, less the reserve, leaves none.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Option<Arc<Lease>> {
        self.take_ordinary(bytes).then(|| self.lease(bytes))
    }

    /// Takes room for a file of the reserve, or for copies that the reserve does not hold. It was kept free, unless the limit was
    /// lowered below what the directory holds: then it is taken beyond the limit, since deletes must work, and copying gives more
    /// back than it takes.
    pub fn take_reserved(self: &Arc<Self>, bytes: u64) -> Arc<Lease> {
        self.found(bytes)
    }

    /// The reserve's files have this length now.
    pub fn set_reserved_bytes(&self, bytes: u64) {
        self.reserved_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether files of this length could be made for puts now.
    pub fn has_ordinary_room(&self, bytes: u64) -> bool {
        self.segments_bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.ordinary_bytes_max()
    }

    /// Whether so little room is left that what is dead is freed before it is needed.
    pub fn is_room_short(&self) -> bool {
        !self.has_ordinary_room(self.limit_bytes / ROOM_SHORT_PART)
    }

    /// How much room is left for puts, `holes` of it inside files.
    pub fn free(&self, holes_bytes: u64) -> Free {
        let part = |part: u64| (self.limit_bytes / part).saturating_sub(holes_bytes);
        if !self.has_ordinary_room(part(ROOM_LITTLE_PART)) {
            Free::Little
        } else if !self.has_ordinary_room(part(ROOM_ENOUGH_PART)) {
            Free::Less
        } else {
            Free::Enough
        }
    }

    /// Accounts for a file that is there already, limit or not.
    pub fn found(self: &Arc<Self>, bytes: u64) -> Arc<Lease> {
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

    /// The file has no name any more; what still holds it pins dead bytes.
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
