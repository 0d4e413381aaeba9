//! Which threads may wait for room and which may not.

/// Whether a thread may wait for others' work, above all for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// A caller's thread, or one that only carries out what callers handed over to it: it may wait.
    Caller,
    /// A thread that works for everybody: a fetcher, the event reader, the replicator, the watcher. If it waited, deletes of other nodes would
    /// go unheard, and small gets would stand behind a large one.
    Background,
}
