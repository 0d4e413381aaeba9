//! Events about values without versions (`value_format = "python"`): the last write to reach Redis wins, and the stream has the events in the
//! order in which values reached Redis. So another node's event overrules what is here, unless that is still on its way and so comes later.

use super::hearing::Known;
use crate::error::Error;
use crate::local::index::tombstones::Tombstone;
use crate::local::journal::{Flags, Header, Lsn};
use crate::local::sharing::outbox::Outbox;
use crate::local::tier::LocalTier;
use crate::version::Version;

impl LocalTier {
    /// Acts on this node's own event: whatever others write from here on is later.
    pub fn apply_own_event(&self, id: &[u8], version: Version) -> Result<(), Error> {
        let _inside = self.gate.enter()?;
        let fingerprint = self.index().fingerprint(id);
        let shard = self.index().shard(fingerprint);
        let _writing = shard.writing.lock();
        match self.known_locked(fingerprint, id)? {
            Known::Held { version: here, lsn, .. } if here == version => self.set_announced(lsn),
            Known::Deleted(_) => shard.table.write().tombstones.announced(id, version),
            _ => {}
        }
        Ok(())
    }

    /// Acts on the event of another node, or of an earlier open of this one: the object here is dropped, and an id deleted here may exist again,
    /// unless the record here is still on its way to Redis. Of a record of an earlier open whose event the stream may have lost, only the
    /// versions can tell which is later.
    pub fn apply_others_event(&self, id: &[u8], version: Version) -> Result<(), Error> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        let _inside = self.gate.enter()?;
        self.journal.merge_clock(version);
        let fingerprint = self.index().fingerprint(id);
        let shard = self.index().shard(fingerprint);
        let _writing = shard.writing.lock();
        let standing = self.standing(fingerprint, id)?;
        match standing {
            Some(old) if old.header.version == version => self.set_announced(old.lsn),
            Some(old) => {
                let is_known_older = outbox.may_be_overruled(old.lsn) && old.header.version < version;
                if is_known_older || !self.is_on_its_way(outbox, old.lsn, old.header.flags.has(Flags::CLEAN)) {
                    self.drop_locked(fingerprint, id, &old, version)?;
                }
            }
            None => {
                let tombstone = shard.table.read().tombstones.get(id);
                let Some(tombstone) = tombstone else { return Ok(()) };
                let is_known_older = outbox.may_be_overruled(tombstone.lsn) && tombstone.version < version;
                if tombstone.version == version {
                    shard.table.write().tombstones.announced(id, version);
                } else if is_known_older || !self.is_delete_on_its_way(&tombstone) {
                    shard.table.write().tombstones.overtake(id, None);
                }
            }
        }
        Ok(())
    }

    /// Whether, as far as was heard, the delete has yet to reach Redis: then what Redis has is older.
    pub fn is_delete_on_its_way(&self, tombstone: &Tombstone) -> bool {
        let is_dirty = |outbox: &Outbox| outbox.is_dirty(tombstone.lsn, false);
        let is_heard_of = tombstone.is_overtaken || tombstone.is_announced;
        !is_heard_of && !tombstone.lsn.is_none() && self.outbox.as_ref().is_some_and(is_dirty)
    }

    /// Whether what is held of an id is from an earlier open and dirty, so that Redis may or may not have it.
    pub fn is_owed(&self, id: &[u8]) -> Result<bool, Error> {
        let Some(outbox) = &self.outbox else { return Ok(false) };
        Ok(match self.known(id)? {
            Known::Held { lsn, is_clean, .. } => outbox.is_dirty(lsn, is_clean),
            Known::Deleted(tombstone) => !tombstone.lsn.is_none() && outbox.is_dirty(tombstone.lsn, false),
            Known::Nothing => false,
        })
    }

    /// A record was copied: if the record's event was heard, others' later events overrule the copy too.
    pub(in crate::local) fn keep_announced(&self, outbox: &Outbox, header: &Header, copy: Lsn) {
        if outbox.is_dirty(header.lsn, header.flags.has(Flags::CLEAN)) && self.is_announced(header.lsn) {
            if let Some(segment) = self.segments.get(copy.segment()) {
                segment.set_announced(copy.offset());
            }
            if self.is_trusted(header.lsn) {
                self.trust(copy, || self.is_trusted(header.lsn));
            }
        }
    }

    /// The record's own event was heard: what others write from here on is later, whatever events are missed meanwhile.
    fn set_announced(&self, lsn: Lsn) {
        if let Some(segment) = self.segments.get(lsn.segment()) {
            segment.set_announced(lsn.offset());
        }
        self.trust(lsn, || true);
    }

    fn is_on_its_way(&self, outbox: &Outbox, lsn: Lsn, is_clean: bool) -> bool {
        outbox.is_dirty(lsn, is_clean) && !self.is_announced(lsn)
    }

    fn is_announced(&self, lsn: Lsn) -> bool {
        self.segments.get(lsn.segment()).is_some_and(|segment| segment.is_announced(lsn.offset()))
    }
}
