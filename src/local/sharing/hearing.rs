//! What the local tier does because of other nodes: copies from Redis, their writes and deletes, and deletes for everyone.

use std::sync::Arc;

use crate::error::Error;
use crate::local::index::Table;
use crate::local::index::tombstones::Tombstone;
use crate::local::journal::{AppendError, Appended, Kind, Lsn, NewRecord, Room};
use crate::local::sharing::outbox::Outbox;
use crate::local::tier::LocalTier;
use crate::local::write::{Fill, Origin};
use crate::object::Object;
use crate::store::OnStored;
use crate::version::Version;

/// What this node knows of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Nothing,
    /// It holds the object, in this version.
    Held {
        version: Version,
        place: Lsn,
        is_clean: bool,
    },
    Deleted(Tombstone),
}

impl LocalTier {
    /// Keeps a copy of what Redis holds; false where something newer is known here, or there is no room for it.
    pub fn fill(
        &self,
        id: &[u8],
        object: &Object,
        body_hash: u128,
        fill: &Fill<'_>,
        stored: OnStored<'_>,
    ) -> Result<bool, Error> {
        self.journal.observe(fill.version);
        if !self.admits_now(object.len() as u64) {
            return Ok(false);
        }
        self.take_in(id, &object.data, &object.metadata, body_hash, Origin::Fill(fill), stored)
    }

    /// Deletes an id here and, by the record that says so, everywhere, held here or not; whether it was held here. `deleting` is told,
    /// under the id's lock, the version that was known until then.
    pub(in crate::local) fn delete_everywhere(
        &self,
        outbox: &Outbox,
        id: &[u8],
        deleting: &dyn Fn(Version),
    ) -> Result<bool, Error> {
        let (lsn, existed) = self.with_room(id, 0, || {
            let fingerprint = self.index.fingerprint(id);
            let shard = self.index.shard(fingerprint);
            let _writing = shard.writing.lock();
            let old = self.find(fingerprint, id);
            let existed = old.is_some_and(|old| self.record_at(old).is_ok_and(|record| !record.header.is_expired()));
            let known = self.known_version(fingerprint, id, old);
            deleting(known.unwrap_or_default());
            let record = NewRecord {
                above_clock: known.map_or(0, |known| known.clock),
                ..NewRecord::bare(id, Kind::Delete, old.unwrap_or(Lsn::NONE))
            };
            let Appended { lsn, version } = self.journal.append(&record, Room::Reserved)?;
            let expires_ms = version.ms().saturating_add(outbox.options.tombstone_ttl_ms);
            let mut table = shard.table.write();
            table.tombstones.note(id, Tombstone { version, place: lsn, expires_ms, is_overtaken: false });
            self.forget(table, fingerprint, id, old, lsn);
            Ok((lsn, existed))
        })?;
        self.acknowledge(lsn)?;
        Ok(existed)
    }

    /// Another node has written (`is_delete`: deleted) the id with this version: an older object here goes. Whether one did.
    pub fn hear(&self, id: &[u8], version: Version, is_delete: bool) -> Result<bool, Error> {
        let Some(outbox) = &self.outbox else { return Ok(false) };
        self.journal.observe(version);
        let fingerprint = self.index.fingerprint(id);
        let shard = self.index.shard(fingerprint);
        let _writing = shard.writing.lock();
        let old = self.find(fingerprint, id);
        let here = old.and_then(|place| self.record_at(place).ok()).map(|record| record.header.version);
        if is_delete && here < Some(version) {
            let expires_ms = self.journal.now_ms().saturating_add(outbox.options.tombstone_ttl_ms);
            let tombstone = Tombstone { version, place: Lsn::NONE, expires_ms, is_overtaken: false };
            shard.table.write().tombstones.note(id, tombstone);
        } else if !is_delete {
            shard.table.write().tombstones.overtake(id, Some(version));
        }
        match old {
            Some(old) if here < Some(version) => self.drop_locked(fingerprint, id, old, version).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Forgets the object at `place`, if it is still there, because Redis has something newer or has it no more.
    pub fn drop_at(&self, id: &[u8], place: Lsn, version: Version) -> Result<(), Error> {
        let fingerprint = self.index.fingerprint(id);
        let _writing = self.index.shard(fingerprint).writing.lock();
        if self.find(fingerprint, id) == Some(place) {
            self.drop_locked(fingerprint, id, place, version)?;
        }
        Ok(())
    }

    fn drop_locked(&self, fingerprint: u64, id: &[u8], old: Lsn, version: Version) -> Result<(), Error> {
        let record = NewRecord { version: Some(version), ..NewRecord::bare(id, Kind::Drop, old) };
        let lsn = match self.journal.append(&record, Room::Reserved) {
            Ok(Appended { lsn, .. }) => lsn,
            Err(AppendError::NoRoom) => return Err(self.full(id, 0)),
            Err(AppendError::Failed(error)) => return Err(error),
        };
        self.forget(self.index.shard(fingerprint).table.write(), fingerprint, id, Some(old), lsn);
        Ok(())
    }

    fn forget(
        &self,
        mut table: parking_lot::RwLockWriteGuard<'_, Table>,
        fingerprint: u64,
        id: &[u8],
        old: Option<Lsn>,
        after: Lsn,
    ) {
        let Some(old) = old else { return };
        table.remove(fingerprint, id, old);
        drop(table);
        self.superseded(old, after);
    }

    /// The object, and whoever waits for it is told. No put of the id is under way meanwhile: those whom a put takes are answered before it
    /// returns.
    pub fn tell(&self, id: &[u8], stored: OnStored<'_>) -> Option<Object> {
        let _writing = self.index.shard(self.index.fingerprint(id)).writing.lock();
        let object = self.get_locked(id)?;
        stored(&|| Some(object.clone()));
        Some(object)
    }

    /// What this node knows of an id at this moment.
    pub fn known(&self, id: &[u8]) -> Known {
        let fingerprint = self.index.fingerprint(id);
        let _writing = self.index.shard(fingerprint).writing.lock();
        self.known_locked(fingerprint, id)
    }

    pub(in crate::local) fn known_locked(&self, fingerprint: u64, id: &[u8]) -> Known {
        if let Some(place) = self.find(fingerprint, id)
            && let Ok(record) = self.record_at(place)
            && !record.header.is_expired()
        {
            let is_clean = record.header.flags.has(crate::local::journal::Flags::CLEAN);
            return Known::Held { version: record.header.version, place, is_clean };
        }
        match self.index.shard(fingerprint).table.read().tombstones.get(id) {
            Some(tombstone) => Known::Deleted(tombstone),
            None => Known::Nothing,
        }
    }

    /// Whether the object held here has to be checked before it is served: it is clean, and events about it may have been missed.
    pub fn suspect(&self, id: &[u8]) -> Option<(Lsn, Version)> {
        let outbox = self.outbox.as_ref().filter(|outbox| outbox.has_suspects())?;
        let fingerprint = self.index.fingerprint(id);
        let table = self.index.shard(fingerprint).table.read();
        let places = [table.find_fingerprint(fingerprint), table.find_collision(id)];
        drop(table);
        if !places.into_iter().flatten().any(|place| outbox.is_suspect(place)) {
            return None;
        }
        let Known::Held { version, place, is_clean } = self.known(id) else { return None };
        self.is_suspect(outbox, place, is_clean).then_some((place, version))
    }

    /// Whether the record at `place`, which says of itself whether it `is_clean`, may have been overtaken unheard.
    pub(in crate::local) fn is_suspect(&self, outbox: &Outbox, place: Lsn, is_clean: bool) -> bool {
        let is_trusted =
            || self.segments.get(place.segment()).is_some_and(|segment| segment.is_trusted(place.offset()));
        outbox.is_suspect(place) && !is_trusted() && !outbox.is_dirty(place, is_clean)
    }

    /// The object at `place` is what Redis had when it was asked. `is_current`: and nothing was missed since.
    pub fn trust(&self, place: Lsn, is_current: impl FnOnce() -> bool) {
        if let Some(segment) = self.segments.get(place.segment()) {
            segment.set_trusted(place.offset(), true);
            // Afterwards: what is missed from now on takes the trust away by itself.
            if !is_current() {
                segment.set_trusted(place.offset(), false);
            }
        }
    }

    /// Events may have been missed: what is clean is checked before it is served again, also what was checked before.
    pub fn suspect_all(&self) {
        let Some(outbox) = &self.outbox else { return };
        let is_unchecked = |place: Lsn| {
            let is_trusted = |segment: Arc<crate::local::journal::Segment>| segment.is_trusted(place.offset());
            outbox.is_suspect(place) && !self.segments.get(place.segment()).is_some_and(is_trusted)
        };
        if outbox.has_suspects() && !self.index.places().any(is_unchecked) {
            outbox.suspect_none();
        }
        outbox.suspect_below(self.journal.end());
        self.segments.load().values().for_each(|segment| segment.trust_none());
    }

    /// Forgets deletes that need not be remembered any more.
    pub fn expire_tombstones(&self) {
        let Some(outbox) = &self.outbox else { return };
        let now_ms = self.journal.now_ms();
        for shard in self.index.shards() {
            let is_needed =
                |tombstone: &Tombstone| !tombstone.place.is_none() && outbox.is_dirty(tombstone.place, false);
            shard.table.write().tombstones.expire(now_ms, is_needed);
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use crate::local::LocalBackend;
    use crate::local::LocalOptions;
    use crate::local::sharing::outbox::OutboxOptions;
    use crate::store::Backend;

    const TTL_MS: u64 = 1000;

    /// Rule "Hearing" 5: what was checked after a lost past, and is suspect because of another, was heard of between the two.
    #[test]
    fn a_suspect_that_was_checked_was_in_step_until_the_next_lost_past() {
        let place = tempfile::tempdir().unwrap();
        let options = LocalOptions { path: place.path().into(), max_size_mb: 64, ..LocalOptions::default() };
        let (wake, _woken) = bounded(1);
        let (prefix, slots, object_ttl_ms, tombstone_ttl_ms) = ("t:".into(), 1, 0, TTL_MS);
        let outbox = OutboxOptions { prefix, slots, object_ttl_ms, tombstone_ttl_ms, wake };
        let backend = LocalBackend::open_with(&options, Default::default(), Some(outbox)).unwrap();
        let tier = backend.tier().unwrap();
        let outbox = tier.outbox.as_ref().unwrap();
        for id in [b"a", b"b"] {
            tier.put(id, b"data", b"", &mut |_| {}).unwrap();
        }
        outbox.settle_backlog(tier.journal.end());
        outbox.settle(tier.journal.end());
        let lose_past = |in_step_ms| {
            outbox.set_heard("1-1".into(), in_step_ms);
            tier.suspect_all();
        };
        let is_kept = |now_ms| outbox.would_have_tombstone(u64::MAX, now_ms);

        lose_past(1000);
        assert!(is_kept(1999) && !is_kept(2000));
        let (of_a, _) = tier.suspect(b"a").unwrap();
        tier.trust(of_a, || true);
        lose_past(9000);
        assert!(!is_kept(9000), "the other one was not checked: nobody knows of it since 1000");
        for id in [b"a", b"b"] {
            tier.trust(tier.suspect(id).unwrap().0, || true);
        }
        lose_past(9500);
        assert!(is_kept(10499) && !is_kept(10500));
        assert!(tier.suspect(b"a").is_some() && tier.suspect(b"b").is_some());
        backend.close().unwrap();
    }
}
