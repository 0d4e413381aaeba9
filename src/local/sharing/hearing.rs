//! What the local tier does because of other nodes: fills from Redis, drops because of their events, deletes that are to reach them, and
//! which objects are suspect.

use crate::backend::{OnStored, Patience, Stored};
use crate::clock::events_ms;
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::index::Table;
use crate::local::index::liveness::Standing;
use crate::local::index::tombstones::{Tombstone, delete_bytes};
use crate::local::journal::{AppendError, Appended, Flags, Header, Kind, Lsn, NewRecord, Purpose};
use crate::local::read::Unreadable;
use crate::local::sharing::outbox::Outbox;
use crate::local::tier::LocalTier;
use crate::local::write::{Fill, Origin, RepeatedPut};
use crate::object::Object;
use crate::version::Version;

/// What this node knows of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Nothing,
    /// This node holds the object, in this version.
    Held {
        version: Version,
        lsn: Lsn,
        is_clean: bool,
    },
    Deleted(Tombstone),
}

/// An object that has to be checked before it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub lsn: Lsn,
    pub version: Version,
    /// Redis may lack it.
    pub is_dirty: bool,
}

/// Why a delete is made again, above a version that stands in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeleteRetry {
    /// Redis refused the delete because of that version. What was heard of since is newer than the delete, and stays.
    Refused,
    /// The caller's delete has not returned yet, and Redis answered that it has an object of that version. The delete covers that object, so
    /// a copy of it that came here meanwhile goes as well.
    Asked,
}

impl LocalTier {
    /// Stores a copy of what Redis holds. False if something newer is known here, or if there is no room.
    pub fn fill(
        &self,
        id: &[u8],
        object: &Object,
        body_hash: u128,
        fill: &Fill<'_>,
        stored: OnStored<'_>,
    ) -> Result<bool, Error> {
        let _inside = self.gate.enter()?;
        self.journal.merge_clock(fill.version);
        let kept = self.admit(id, object.len() as u64, Patience::Background).and_then(|()| {
            self.write_object(id, &object.data, &object.metadata, body_hash, Origin::Fill(fill), stored)
        });
        match kept {
            Err(Error::Full { .. } | Error::TooLarge { .. }) => Ok(false),
            kept => kept,
        }
    }

    /// Deletes an id here and, as the record is pushed, everywhere, whether it is held here or not. Returns whether it was. `deleting` is
    /// called under the id's lock with the greatest version that was known of the id.
    pub(in crate::local) fn delete_everywhere(
        &self,
        outbox: &Outbox,
        id: &[u8],
        patience: Patience,
        deleting: &dyn Fn(Version),
    ) -> Result<bool, Error> {
        let (lsn, existed) = self.append_delete_everywhere(outbox, id, patience, deleting)?;
        self.acknowledge(lsn)?;
        Ok(existed)
    }

    /// As `delete_everywhere`, but not yet acknowledged. Returns the record's lsn too.
    pub(in crate::local) fn append_delete_everywhere(
        &self,
        outbox: &Outbox,
        id: &[u8],
        patience: Patience,
        deleting: &dyn Fn(Version),
    ) -> Result<(Lsn, bool), Error> {
        if patience == Patience::Caller && !self.may_stand(id) {
            // Such a delete frees nothing, and its record takes room until Redis knows of it, so it is admitted like a put.
            self.admit(id, delete_bytes(id), patience)?;
        }
        self.with_room(id, 0, patience, || {
            let fingerprint = self.index().fingerprint(id);
            let _writing = self.index().shard(fingerprint).writing.lock();
            let old = self.standing(fingerprint, id)?;
            let existed = old.as_ref().is_some_and(|old| !self.journal.is_over(&old.header));
            let known = self.known_version(fingerprint, id, old.as_ref());
            deleting(known.unwrap_or_default());
            let lsn = self.delete_locked(outbox, fingerprint, id, old.as_ref(), known.unwrap_or_default())?;
            Ok((lsn, existed))
        })
    }

    /// Whether the id may have a record, as far as the index alone can tell.
    fn may_stand(&self, id: &[u8]) -> bool {
        let fingerprint = self.index().fingerprint(id);
        let table = self.index().shard(fingerprint).table.read();
        table.find_fingerprint(fingerprint).is_some() || table.find_collision(id).is_some()
    }

    /// Repeats a delete with a version above `version`, which Redis has for the id, however far ahead that is. Does nothing if the id was
    /// written again since.
    pub fn delete_above(&self, id: &[u8], version: Version, why: DeleteRetry) -> Result<(), Error> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        let is_asked = why == DeleteRetry::Asked;
        let deleted = self.with_room(id, 0, Patience::Background, || {
            let fingerprint = self.index().fingerprint(id);
            let _writing = self.index().shard(fingerprint).writing.lock();
            match self.known_locked(fingerprint, id)? {
                Known::Deleted(tombstone) if tombstone.version < version && (is_asked || !tombstone.is_overtaken) => {}
                Known::Held { version: held, is_clean: true, .. } if is_asked && held == version => {}
                _ => return Ok(None),
            }
            let old = self.standing(fingerprint, id)?;
            self.delete_locked(outbox, fingerprint, id, old.as_ref(), version).map(Some)
        })?;
        deleted.map_or(Ok(()), |lsn| self.acknowledge(lsn))
    }

    /// Repeats a put with a version above the one for which Redis refused it. Does nothing if another record stands here by now. Does not
    /// wait for room, which may depend on the calling thread.
    pub fn put_above(&self, id: &[u8], object: &Object, body_hash: u128, again: &RepeatedPut) -> Result<(), Error> {
        let _inside = self.gate.enter()?;
        self.admit(id, object.len() as u64, Patience::Background)?;
        self.write_object(id, &object.data, &object.metadata, body_hash, Origin::Repeat(again), &mut |_| {}).map(drop)
    }

    /// Appends and enters a delete with a version above `known`. The caller holds the id.
    fn delete_locked(
        &self,
        outbox: &Outbox,
        fingerprint: u64,
        id: &[u8],
        old: Option<&Standing>,
        above: Version,
    ) -> Result<Lsn, AppendError> {
        let record = NewRecord {
            above_clock: above.clock,
            ..NewRecord::bare(id, Kind::Delete, old.map_or(Lsn::NONE, |old| old.lsn))
        };
        // The reserve is for deletes that free something. Otherwise deletes could take more than the limit.
        let purpose = if old.is_some() { Purpose::Delete } else { Purpose::Put };
        let Appended { lsn, version } = self.journal.append(&record, purpose)?;
        let expires_ms = self.tombstone_expires_ms(outbox);
        let note = |table: &mut Table| {
            table.tombstones.note(id, Tombstone::new(version, lsn, expires_ms));
        };
        match old {
            Some(old) => self.liveness.leave(fingerprint, id, old, lsn.into(), note),
            None => note(&mut self.index().shard(fingerprint).table.write()),
        }
        Ok(lsn)
    }

    /// When a delete that is made or heard of now may be forgotten.
    fn tombstone_expires_ms(&self, outbox: &Outbox) -> u64 {
        self.journal.time().monotonic_ms().saturating_add(outbox.options.tombstone_ttl_ms)
    }

    /// Notes that every event up to this one was acted upon.
    pub fn set_heard(&self, cursor: String) {
        let Some(outbox) = &self.outbox else { return };
        self.journal.time().set_floor(events_ms(&cursor));
        outbox.set_heard(cursor, self.journal.time().passed_ms());
    }

    /// Whether Redis would still have a tombstone, had a suspect of this version been deleted unheard: if so, a suspect that Redis lacks was
    /// lost and not deleted. In doubt the answer is yes: an object too many can be deleted again.
    pub fn would_have_tombstone(&self, outbox: &Outbox, version: Version) -> bool {
        let now_ms = self.journal.time().passed_ms();
        outbox.would_have_tombstone(now_ms.saturating_sub(version.ms()), now_ms)
    }

    /// Acts on the event that another node has written (`is_delete`: deleted) the id with this version: an older object here is dropped.
    /// Returns whether one was.
    pub fn apply_event(&self, id: &[u8], version: Version, is_delete: bool) -> Result<bool, Error> {
        let Some(outbox) = &self.outbox else { return Ok(false) };
        let _inside = self.gate.enter()?;
        self.journal.merge_clock(version);
        let fingerprint = self.index().fingerprint(id);
        let shard = self.index().shard(fingerprint);
        let _writing = shard.writing.lock();
        let old = self.standing(fingerprint, id)?;
        let here = old.as_ref().map(|old| old.header.version);
        if is_delete && here < Some(version) {
            let expires_ms = self.tombstone_expires_ms(outbox);
            let tombstone = Tombstone::new(version, Lsn::NONE, expires_ms);
            shard.table.write().tombstones.note(id, tombstone);
        } else if !is_delete {
            shard.table.write().tombstones.overtake(id, Some(version));
        }
        match old {
            Some(old) if here < Some(version) => self.drop_locked(fingerprint, id, &old, version).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Drops the object at `lsn`, if it still stands and is clean, because Redis has something else, or has it no more.
    pub fn drop_at(&self, id: &[u8], lsn: Lsn, version: Version) -> Result<(), Error> {
        let _inside = self.gate.enter()?;
        let fingerprint = self.index().fingerprint(id);
        let _writing = self.index().shard(fingerprint).writing.lock();
        match self.standing(fingerprint, id)? {
            Some(standing) if standing.lsn == lsn && !self.is_dirty(&standing) => {
                self.drop_locked(fingerprint, id, &standing, version)
            }
            _ => Ok(()),
        }
    }

    fn is_dirty(&self, standing: &Standing) -> bool {
        let is_clean = standing.header.flags.has(Flags::CLEAN);
        self.outbox.as_ref().is_some_and(|outbox| outbox.is_dirty(standing.lsn, is_clean))
    }

    /// Redis has lost the object at `lsn`: if it still stands, it is dirty until it is pushed again, and is trusted if `is_current` says that no event
    /// was missed meanwhile. If too many records stand apart, it stays a suspect and is checked again at its next get.
    pub fn lose_at(&self, id: &[u8], lsn: Lsn, is_current: impl FnOnce() -> bool) -> Result<(), Error> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        let _inside = self.gate.enter()?;
        let fingerprint = self.index().fingerprint(id);
        // While the id is held its record is not copied: a copy that was begun before would count as clean.
        let _writing = self.index().shard(fingerprint).writing.lock();
        let Some(standing) = self.standing(fingerprint, id)?.filter(|standing| standing.lsn == lsn) else {
            return Ok(());
        };
        let is_to_be_pushed = self.is_dirty(&standing) && !outbox.ledger.is_settling(lsn);
        if is_to_be_pushed || outbox.ledger.lose(lsn, id) {
            self.trust(lsn, is_current);
            outbox.wake();
        }
        Ok(())
    }

    /// Drops the id's object. If the journal does not take the record, the object is hidden, and the drop is noted later. The caller holds
    /// the id.
    pub(in crate::local) fn drop_locked(
        &self,
        fingerprint: u64,
        id: &[u8],
        old: &Standing,
        version: Version,
    ) -> Result<(), Error> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        match self.note_drop(fingerprint, id, old, version) {
            Ok(()) => outbox.hidden.remove(old.lsn),
            Err(AppendError::Failed(Error::Closed)) => return Err(Error::Closed),
            Err(refused) => {
                if let AppendError::NoRoom(Some(error)) | AppendError::Failed(error) = refused {
                    tracing::debug!("object {}: {error}; that it is gone is noted later", ObjectId::new(id));
                }
                outbox.hidden.insert(old.lsn, version);
                self.index().changes().raise(fingerprint);
                self.call_sealer();
            }
        }
        Ok(())
    }

    fn note_drop(&self, fingerprint: u64, id: &[u8], old: &Standing, version: Version) -> Result<(), AppendError> {
        let record = NewRecord { version: Some(version), ..NewRecord::bare(id, Kind::Drop, old.lsn) };
        let Appended { lsn, .. } = self.journal.append(&record, Purpose::Delete)?;
        self.liveness.leave(fingerprint, id, old, lsn.into(), |_| {});
        Ok(())
    }

    /// Appends the drops of hidden records, as far as the journal takes them by now.
    pub(in crate::local) fn note_hidden(&self) -> Result<(), Error> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        for (lsn, version) in outbox.hidden.all() {
            // The segment stays, as it is this thread that removes segments.
            let record = match self.record_at(lsn) {
                Ok(record) => record,
                Err(Unreadable::Failed(error)) => return Err(error),
                // Left to whoever reads it next.
                Err(Unreadable::Damaged(_)) => {
                    outbox.hidden.remove(lsn);
                    continue;
                }
            };
            let fingerprint = self.index().fingerprint(record.id());
            let _writing = self.index().shard(fingerprint).writing.lock();
            match self.standing(fingerprint, record.id())? {
                Some(standing) if standing.lsn == lsn => {
                    match self.note_drop(fingerprint, record.id(), &standing, version) {
                        Ok(()) => {}
                        Err(AppendError::NoRoom(_)) => return Ok(()),
                        Err(AppendError::Failed(error)) => return Err(error),
                    }
                }
                // A newer record of the id supersedes it, which is as good as a drop.
                _ => {}
            }
            outbox.hidden.remove(lsn);
        }
        Ok(())
    }

    /// Returns the object, and hands it to its waiters through `stored`. Under the id's lock, so that no put of the id is under way: waiters
    /// that a put has taken are answered before it returns.
    pub fn tell(&self, id: &[u8], stored: OnStored<'_>) -> Option<Object> {
        let _writing = self.index().shard(self.index().fingerprint(id)).writing.lock();
        let object = self.get_locked(id)?;
        stored(Stored::now(&|| Some(object.clone())));
        Some(object)
    }

    /// What this node knows of an id at this moment.
    pub fn known(&self, id: &[u8]) -> Result<Known, Error> {
        let fingerprint = self.index().fingerprint(id);
        let _writing = self.index().shard(fingerprint).writing.lock();
        self.known_locked(fingerprint, id)
    }

    /// As `known`. The caller holds the id.
    pub(in crate::local) fn known_locked(&self, fingerprint: u64, id: &[u8]) -> Result<Known, Error> {
        if let Some(standing) = self.standing(fingerprint, id)?
            && !self.journal.is_over(&standing.header)
        {
            let Header { version, flags, .. } = standing.header;
            return Ok(Known::Held { version, lsn: standing.lsn, is_clean: flags.has(Flags::CLEAN) });
        }
        Ok(match self.index().shard(fingerprint).table.read().tombstones.get(id) {
            Some(tombstone) => Known::Deleted(tombstone),
            None => Known::Nothing,
        })
    }

    /// The object held here, if it is suspect (`is_suspect`).
    pub fn suspect(&self, id: &[u8]) -> Result<Option<Suspect>, Error> {
        let Some(outbox) = self.outbox.as_ref().filter(|outbox| outbox.has_suspects()) else { return Ok(None) };
        let fingerprint = self.index().fingerprint(id);
        let table = self.index().shard(fingerprint).table.read();
        let lsns = [table.find_fingerprint(fingerprint), table.find_collision(id)];
        drop(table);
        if !lsns.into_iter().flatten().any(|lsn| self.is_doubtful(outbox, lsn)) {
            return Ok(None);
        }
        let Known::Held { version, lsn, is_clean } = self.known(id)? else { return Ok(None) };
        let is_dirty = outbox.is_dirty(lsn, is_clean);
        Ok(self.is_suspect(outbox, lsn, is_clean).then_some(Suspect { lsn, version, is_dirty }))
    }

    /// Whether the record at `lsn` is suspect: events about it may have been missed, and Redis can tell. `is_clean` is the record's own flag.
    pub(in crate::local) fn is_suspect(&self, outbox: &Outbox, lsn: Lsn, is_clean: bool) -> bool {
        self.is_doubtful(outbox, lsn) && (!outbox.is_dirty(lsn, is_clean) || outbox.was_sent_before_loss(lsn))
    }

    /// Whether events about the record at `lsn` may have been missed since it was last the newest for certain.
    pub(in crate::local) fn is_doubtful(&self, outbox: &Outbox, lsn: Lsn) -> bool {
        outbox.is_suspect(lsn) && (outbox.is_deaf() || !self.is_trusted(lsn))
    }

    /// Whether the record at `lsn` was what Redis had when it was asked, and no event was missed since.
    pub(in crate::local) fn is_trusted(&self, lsn: Lsn) -> bool {
        self.segments.get(lsn.segment()).is_some_and(|segment| segment.is_trusted(lsn.offset()))
    }

    /// Notes that the object at `lsn` is what Redis had when it was asked, if `is_current` says that no event was missed since. Returns whether it
    /// does.
    pub fn trust(&self, lsn: Lsn, is_current: impl FnOnce() -> bool) -> bool {
        // A segment that is gone: its records were copied or dropped, so nothing stands there that could be trusted.
        let Some(segment) = self.segments.get(lsn.segment()) else { return false };
        segment.set_trusted(lsn.offset(), true);
        // Set first, then checked: what is missed from now on takes the trust away by itself.
        let is_current = is_current();
        if !is_current {
            segment.set_trusted(lsn.offset(), false);
            // Attached processes may remember it from the moment between.
            self.index().changes().raise_epoch();
        }
        is_current
    }

    /// Events may have been missed: every object that Redis has had becomes suspect, also those that were checked before.
    pub fn suspect_all(&self) {
        self.suspect_sent(|| self.journal.end());
    }

    /// The same, where this open has sent nothing yet, or will send everything again, which shows what was overruled.
    pub fn suspect_earlier(&self) {
        if let Some(outbox) = &self.outbox {
            self.suspect_sent(|| outbox.opened_at);
        }
    }

    /// Notes that there are no suspects any more, if all are checked or gone. Looks at every object until it finds a suspect.
    pub fn end_suspicion(&self) {
        let Some(outbox) = self.outbox.as_ref().filter(|outbox| outbox.has_suspects()) else { return };
        let then = outbox.suspicion();
        if !self.index().lsns().any(|lsn| outbox.is_suspect(lsn) && !self.is_trusted(lsn)) {
            outbox.suspect_none(then);
        }
    }

    /// `sent_below`: what is dirty and below may have been sent.
    fn suspect_sent(&self, sent_below: impl Fn() -> Lsn) {
        let Some(outbox) = &self.outbox else { return };
        outbox.count_loss();
        self.end_suspicion();
        // A copy of what Redis has that is being kept meanwhile becomes suspect by itself.
        let doubt = || {
            outbox.doubt_sent_below(sent_below());
            if self.index().lsns().next().is_some() {
                outbox.suspect_below(self.journal.end());
            }
        };
        doubt();
        self.segments.load().values().for_each(|segment| segment.trust_none());
        // A record that was copied until now passed for trusted, and its copy may stand above where the doubt ended.
        doubt();
        // Attached processes may remember what was trusted until now.
        self.index().changes().raise_epoch();
    }

    /// Forgets tombstones that have expired and are not needed.
    pub fn expire_tombstones(&self) {
        let Some(outbox) = &self.outbox else { return };
        let now_ms = self.journal.time().monotonic_ms();
        for shard in self.index().shards() {
            let is_needed = |tombstone: &Tombstone| !tombstone.lsn.is_none() && outbox.is_dirty(tombstone.lsn, false);
            shard.table.write().tombstones.expire(now_ms, is_needed);
        }
    }
}

#[cfg(test)]
mod tests;
