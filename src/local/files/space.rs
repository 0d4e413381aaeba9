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
        })
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

    /// What files may take: a little is left for what the catalog grows between two looks at it.
    fn files_bytes_max(&self) -> u64 {
        self.limit_bytes - self.limit_bytes / CATALOG_GROWTH_PART
    }

    /// Takes room for a new file; None where the limit leaves none.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Option<Arc<Lease>> {
        let catalog_bytes = self.catalog_bytes.load(Ordering::Relaxed);
        let within = |taken: u64| {
            let taken = taken.checked_add(bytes)?;
            (taken.saturating_add(catalog_bytes) <= self.files_bytes_max()).then_some(taken)
        };
        self.segments_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).ok()?;
        Some(self.lease(bytes))
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
        let within = |taken: u64| taken.checked_add(more).filter(|taken| *taken <= self.space.files_bytes_max());
        let grown = self.space.segments_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
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
