//! `stats`: a snapshot of everything worth seeing of a store.

use std::time::Instant;

use super::ObjectStore;
use crate::backend::{KeeperStats, OperationStats, ProcessStats, Stats, WaitStats};
use crate::counts::Counts;
use crate::error::Error;

/// The numbers of `OperationCounts`.
const HITS: usize = 0;
const MISSES: usize = 1;
const READ_BYTES: usize = 2;
const PUTS: usize = 3;
const PUT_BYTES: usize = 4;
const DELETES: usize = 5;
const DUPLICATES: usize = 6;

/// What is asked of a store: counted at the front door, by whatever way it came in.
pub(super) struct OperationCounts {
    counts: Counts<7>,
    opened: Instant,
}

impl Default for OperationCounts {
    fn default() -> Self {
        OperationCounts { counts: Counts::default(), opened: Instant::now() }
    }
}

impl OperationCounts {
    /// A get that found so many bytes. Those that Redis answered are taken off again where the numbers are read (`Backend::add_stats`).
    #[inline]
    pub fn hit(&self, bytes: u64) {
        self.counts.add([(HITS, 1), (READ_BYTES, bytes)]);
    }

    #[inline]
    pub fn missed(&self) {
        self.counts.add([(MISSES, 1)]);
    }

    #[inline]
    pub fn put(&self, bytes: u64) {
        self.counts.add([(PUTS, 1), (PUT_BYTES, bytes)]);
    }

    #[inline]
    pub fn deleted(&self) {
        self.counts.add([(DELETES, 1)]);
    }

    #[inline]
    pub fn duplicated(&self) {
        self.counts.add([(DUPLICATES, 1)]);
    }

    fn stats(&self) -> OperationStats {
        let [hits, misses, read_bytes, puts, put_bytes, deletes, duplicates] = self.counts.sums();
        OperationStats { hits, misses, read_bytes, puts, put_bytes, deletes, duplicates }
    }
}

/// What a keeper tells of the processes that are attached to its store.
pub(crate) type CountAttached = Box<dyn Fn() -> KeeperStats + Send + Sync>;

impl ObjectStore {
    /// Everything worth seeing of the store: what it holds, what was asked of it, who waits, how far replication is, and whether all is well.
    /// Counting costs the operations nothing that could be measured; taking the snapshot costs some microseconds, and with `tiered` up to some
    /// milliseconds while much is on its way to Redis. An attached process gets the numbers of the store that it is attached to.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`]; for an attached process [`Error::Detached`] where its keeper does not answer. A Redis that does not answer is no
    /// error: [`health`](Stats::health) tells of it.
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"greeting", b"Hello, World!", b"")?;
    /// store.get(b"greeting")?;
    /// let stats = store.stats()?;
    /// assert_eq!((stats.objects, stats.operations.hits, stats.operations.read_bytes), (1, 1, 13));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn stats(&self) -> Result<Stats, Error> {
        let backend = self.backend()?;
        let (requests, ids, oldest) = self.inner.waiters.usage();
        let begun = self.inner.waiters.begun();
        let mut stats = Stats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: backend.name().to_owned(),
            place: backend.place(),
            open_seconds: self.inner.operations.opened.elapsed().as_secs_f64(),
            operations: self.inner.operations.stats(),
            waits: WaitStats { requests, ids, oldest_seconds: oldest.as_secs_f64(), begun },
            keeper: self.inner.count_attached.lock().as_ref().map(|count| count()),
            process: ProcessStats::now(),
            ..Stats::default()
        };
        backend.add_stats(&mut stats)?;
        Ok(stats)
    }

    /// Has the snapshots tell of the processes that are attached, as long as the store is open.
    pub(crate) fn set_count_attached(&self, count: CountAttached) {
        *self.inner.count_attached.lock() = Some(count);
    }
}
