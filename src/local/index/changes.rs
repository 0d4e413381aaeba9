//! The index's side of the change counters (`files/counters.rs`), by which attached processes notice that what they remember is stale.

use std::sync::OnceLock;

use crate::local::files::counters::Counters;

/// Raises the counters at every change of the index, once the directory is shared. The index's own tables call it, under their locks, so
/// that no operation can forget it.
#[derive(Default)]
pub(crate) struct Changes(OnceLock<Counters>);

impl Changes {
    /// From now on attached processes may remember what they are told. What they remember from an earlier keeper becomes stale.
    pub fn share(&self, counters: Counters) {
        counters.raise_epoch();
        // Set only once in the life of an open store.
        let _ = self.0.set(counters);
    }

    /// Epoch and counter for an answer whose lookup begins after this call; None while the directory is not shared.
    pub fn now(&self, fingerprint: u64) -> Option<(u64, u64)> {
        self.0.get().map(|counters| counters.now(fingerprint))
    }

    #[inline]
    pub fn raise(&self, fingerprint: u64) {
        if let Some(counters) = self.0.get() {
            counters.raise(fingerprint);
        }
    }

    /// For changes that no entry of the index shows, such as objects becoming suspect.
    pub fn raise_epoch(&self) {
        if let Some(counters) = self.0.get() {
            counters.raise_epoch();
        }
    }

    /// The keeper's heartbeat.
    pub fn beat(&self) {
        if let Some(counters) = self.0.get() {
            counters.beat();
        }
    }
}
