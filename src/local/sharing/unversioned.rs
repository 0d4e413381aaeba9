//! Events about values that have no version: the last to reach Redis wins, and events stand in the stream in the order in which values reached
//! Redis. So what another node has written overrules what is here, unless that is still on its way, and comes later.

use super::hearing::Known;
use crate::error::Error;
use crate::local::index::tombstones::Tombstone;
use crate::local::journal::{Flags, Lsn};
use crate::local::sharing::outbox::Outbox;
use crate::local::tier::LocalTier;
use crate::version::Version;

impl LocalTier {
    /// This node's own event was heard: from here on, what others write comes later.
    pub fn hear_own(&self, id: &[u8], version: Version) -> Result<(), Error> {
        let _inside = self.gate.enter()?;
        let fingerprint = self.index().fingerprint(id);
        let shard = self.index().shard(fingerprint);
        let _writing = shard.writing.lock();
        match self.known_locked(fingerprint, id)? {
            Known::Held { version: here, place, .. } if here == version => self.trust(place, || true),
            Known::Deleted(_) => shard.table.write().tombstones.announced(id, version),
            _ => {}
        }
        Ok(())
    }

    /// Another node's write or delete was heard, or this node's own of an earlier open: what is here goes, and what was deleted may exist again,
    /// unless that is still on its way. Of what an earlier open has written nothing is known but its version.
    pub fn hear_other(&self, id: &[u8], version: Version) -> Result<(), Error> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        let _inside = self.gate.enter()?;
        self.journal.observe(version);
        let fingerprint = self.index().fingerprint(id);
        let shard = self.index().shard(fingerprint);
        let _writing = shard.writing.lock();
        let standing = self.standing(fingerprint, id)?;
        match standing {
            Some(old) if old.header.version == version => self.trust(old.lsn, || true),
            Some(old) => {
                let is_known_older = old.lsn < outbox.opened_at && old.header.version < version;
                if is_known_older || !self.is_on_its_way(outbox, old.lsn, old.header.flags.has(Flags::CLEAN)) {
                    self.drop_locked(fingerprint, id, &old, version)?;
                }
            }
            None => {
                let tombstone = shard.table.read().tombstones.get(id);
                let Some(tombstone) = tombstone else { return Ok(()) };
                let is_known_older = tombstone.place < outbox.opened_at && tombstone.version < version;
                if tombstone.version == version {
                    shard.table.write().tombstones.announced(id, version);
                } else if is_known_older || !self.is_delete_on_its_way(&tombstone) {
                    shard.table.write().tombstones.overtake(id, None);
                }
            }
        }
        Ok(())
    }

    /// Whether the delete has yet to reach Redis, as far as was heard: then what Redis has comes before it.
    pub fn is_delete_on_its_way(&self, tombstone: &Tombstone) -> bool {
        let is_dirty = |outbox: &Outbox| outbox.is_dirty(tombstone.place, false);
        let is_heard_of = tombstone.is_overtaken || tombstone.is_announced;
        !is_heard_of && !tombstone.place.is_none() && self.outbox.as_ref().is_some_and(is_dirty)
    }

    fn is_on_its_way(&self, outbox: &Outbox, place: Lsn, is_clean: bool) -> bool {
        let is_announced = self.segments.get(place.segment()).is_some_and(|segment| segment.is_trusted(place.offset()));
        outbox.is_dirty(place, is_clean) && !is_announced
    }
}
