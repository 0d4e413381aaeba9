use std::sync::OnceLock;

use crate::local::files::counters::Counters;

/// Tells attached processes of every change of the index, once there may be any. The index's own tables call it, under their locks, so that no
/// operation can forget it.
#[derive(Default)]
pub(crate) struct Changes(OnceLock<Counters>);

impl Changes {
    /// From now on processes may remember what they are told; nothing that they know from earlier counts.
    pub fn share(&self, counters: Counters) {
        counters.raise_epoch();
        // Only once.
        let _ = self.0.set(counters);
    }

    /// What goes with an answer that is looked up after this.
    pub fn now(&self, fingerprint: u64) -> Option<(u64, u64)> {
        self.0.get().map(|counters| counters.now(fingerprint))
    }

    #[inline]
    pub fn raise(&self, fingerprint: u64) {
        if let Some(counters) = self.0.get() {
            counters.raise(fingerprint);
        }
    }

    /// Something changes that no entry of the index shows.
    pub fn raise_epoch(&self) {
        if let Some(counters) = self.0.get() {
            counters.raise_epoch();
        }
    }

    /// This process is alive.
    pub fn beat(&self) {
        if let Some(counters) = self.0.get() {
            counters.beat();
        }
    }
}
