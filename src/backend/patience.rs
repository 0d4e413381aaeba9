/// Whether a thread may wait for others' work: for room, above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// A caller's thread, or one that does nothing but what callers have left to it.
    Caller,
    /// One that works for everybody: a fetcher, the event reader, the replicator, the watcher. While it waited, deletes of other nodes
    /// would go unheard, and small gets stand behind a large one.
    Background,
}
