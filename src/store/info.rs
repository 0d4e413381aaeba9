//! Numbers about a store: `info` and `count`.

use std::time::Duration;

use super::ObjectStore;
use crate::backend::Usage;
use crate::error::Error;

/// What a store holds and who waits. Made by [`ObjectStore::info`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// `memory`, `local`, `redis` or `tiered`.
    pub backend: &'static str,
    /// Where the objects are: `memory`, the directory, the address of Redis without its password, or (`tiered`) both of these.
    pub place: String,
    /// Objects: with `tiered` those held on this node, with `redis` about as many as Redis holds.
    pub objects: u64,
    /// Payloads of these objects; one that several objects share counts once. In Redis each object has its own.
    pub payloads: u64,
    /// Bytes of those payloads, metadata included.
    pub payload_bytes: u64,
    /// The most bytes that the store may take; with `redis`, that Redis may take for everything in it.
    pub capacity_bytes: u64,
    /// Bytes that it takes now, with what is dead but not yet reclaimed; with `redis`, that Redis takes for everything in it.
    pub physical_bytes: u64,
    /// Objects found damaged since the store was opened; each is a miss and a line in the log.
    pub damaged_objects: u64,
    /// Requests waiting for an object.
    pub waiting_requests: u64,
    /// Different ids that these requests wait for.
    pub waiting_ids: u64,
    /// How long the oldest of these requests has waited.
    pub oldest_wait: Duration,
}

impl ObjectStore {
    /// What the store holds and who waits. In a forked child: nothing and nobody.
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"greeting", b"Hello, World!", b"")?;
    /// assert_eq!((store.info().objects, store.info().payload_bytes), (1, 13));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn info(&self) -> Info {
        // In a forked child the parent's threads may have left any lock taken.
        let (usage, waiting) = match self.inner.is_forked() {
            true => Default::default(),
            false => (self.inner.backend.usage(), self.inner.waiters.usage()),
        };
        let Usage { objects, payloads, payload_bytes, capacity_bytes, physical_bytes, damaged_objects } = usage;
        let (waiting_requests, waiting_ids, oldest_wait) = waiting;
        Info {
            backend: self.inner.backend.name(),
            place: self.inner.backend.place(),
            objects,
            payloads,
            payload_bytes,
            capacity_bytes,
            physical_bytes,
            damaged_objects,
            waiting_requests,
            waiting_ids,
            oldest_wait,
        }
    }

    /// How many objects there are, and the bytes of their data and metadata. Backend `redis`: by looking at every object (some seconds
    /// for a million), where [`info`](Self::info) tells what counters say, which may be off. `tiered`: what is on this node.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`], [`Error::Closed`].
    pub fn count(&self) -> Result<(u64, u64), Error> {
        self.backend()?.count()
    }
}
