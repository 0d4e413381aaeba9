//! For values without versions: what may have been pushed before is pushed again only after the other nodes' events were heard, and if that
//! undoes nothing.

use std::time::{Duration, Instant};

use super::Replicator;
use super::gathering::outgoing;
use crate::error::Error;
use crate::local::{Dirty, Known};
use crate::redis::{EntryId, Hearing, Outgoing, What};
use crate::replication::TieredBackend;

/// How long a batch waits until the others' events are heard.
const HEARD_MAX: Duration = Duration::from_millis(100);

/// How often it looks whether they are.
const HEARD_EVERY: Duration = Duration::from_millis(2);

impl Hearing for TieredBackend {
    fn has_heard(&self, last: EntryId) -> bool {
        let Ok(tier) = self.tier() else { return false };
        let Some(outbox) = tier.outbox() else { return false };
        let until = Instant::now() + HEARD_MAX;
        loop {
            if EntryId::parse(&outbox.heard().0).is_some_and(|heard| heard >= last) {
                return true;
            }
            if outbox.is_deaf() || Instant::now() >= until {
                return false;
            }
            self.attention.call();
            std::thread::sleep(HEARD_EVERY);
        }
    }

    fn counts(&self, write: &Outgoing<'_>) -> Result<bool, Error> {
        Ok(match self.tier()?.known(&write.id)? {
            Known::Held { version, .. } => version == write.version && matches!(write.what, What::Put { .. }),
            Known::Deleted(tombstone) => {
                tombstone.version == write.version && !tombstone.is_overtaken && matches!(write.what, What::Delete)
            }
            Known::Nothing => false,
        })
    }
}

impl Replicator<'_> {
    /// Makes a write of a dirty record. `is_repeat`: it may have been sent before. Without versions that also holds for what is older than something
    /// that was sent (the copy of a record that was made to reclaim its segment), and for what an earlier open wrote.
    pub(super) fn outgoing(&self, dirty: Dirty, is_repeat: bool) -> Outgoing<'static> {
        let is_old = dirty.version <= self.sent || dirty.version.node != self.node;
        outgoing(dirty, is_repeat || (self.backend.is_unversioned() && is_old))
    }
}
