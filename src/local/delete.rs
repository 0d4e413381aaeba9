//! Deleting: delete, `clear`, and the drops of what a crash would bring back.

use super::index::Shard;
use super::index::liveness::Standing;
use super::journal::{AppendError, Header, Kind, Lsn, NewRecord, Purpose};
use super::read::Unreadable;
use super::tier::LocalTier;
use crate::backend::Patience;
use crate::error::Error;
use crate::id::ObjectId;
use crate::long_work::LongWork;
use crate::version::Version;

impl LocalTier {
    /// Deletes an object. Returns whether it existed, as far as this node knows.
    pub fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        self.delete_telling(id, Patience::Caller, &|_| {})
    }

    /// As `delete`. If objects are shared with other nodes, `deleting` is called under the id's lock with the version known until then.
    pub fn delete_telling(&self, id: &[u8], patience: Patience, deleting: &dyn Fn(Version)) -> Result<bool, Error> {
        if patience == Patience::Caller {
            self.hold_back(id.len() as u64, true);
        }
        if let Some(outbox) = &self.outbox {
            return self.delete_everywhere(outbox, id, patience, deleting);
        }
        match self.with_room(id, 0, Patience::Caller, || self.append_delete(id, |_| true))? {
            None => Ok(false),
            Some((lsn, deleted)) => self.acknowledge(lsn).map(|()| !self.journal.is_over(&deleted.header)),
        }
    }

    /// Deletes what stands under the id, in a store that is not shared, if it `is_wanted`; returns where that is said, and what stood.
    pub(super) fn append_delete(
        &self,
        id: &[u8],
        is_wanted: impl Fn(&Header) -> bool,
    ) -> Result<Option<(Lsn, Standing)>, AppendError> {
        let fingerprint = self.index().fingerprint(id);
        let _writing = self.index().shard(fingerprint).writing.lock();
        let old = self.standing(fingerprint, id)?;
        let Some(old) = old.filter(|old| is_wanted(&old.header)) else { return Ok(None) };
        let lsn = self.journal.append(&NewRecord::bare(id, Kind::Delete, old.lsn), Purpose::Delete)?.lsn;
        self.liveness.leave(fingerprint, id, &old, lsn.into(), |_| {});
        Ok(Some((lsn, old)))
    }

    /// Appends drops of records whose superseding records were lost. Otherwise they would come back when the newer record of their id goes.
    pub fn bury(&self, orphans: &[(ObjectId, Lsn)]) {
        for (id, lsn) in orphans {
            if let Err(error) = self.append_drop(id.as_bytes(), *lsn) {
                tracing::warn!("{error}; what has been superseded is told apart again by the next open");
            }
        }
    }

    /// Deletes every object, one by one: a process killed in the middle has deleted some. An id that cannot be read is an error, returned when
    /// the rest is deleted.
    pub fn clear(&self) -> Result<(), Error> {
        let (mut last, mut failed) = (None, None);
        let mut work = LongWork::begin("deleted", self.segments.directory().display().to_string());
        for shard in self.index().shards() {
            let (ids, unreadable) = self.ids_in(shard);
            failed = failed.or(unreadable);
            for id in ids {
                let deleted = match &self.outbox {
                    Some(outbox) => {
                        let deleted = self.append_delete_everywhere(outbox, &id, Patience::Caller, &|_| {});
                        deleted.map(|(lsn, _)| Some(lsn))
                    }
                    None => {
                        let deleted = self.with_room(&id, 0, Patience::Caller, || self.append_delete(&id, |_| true));
                        deleted.map(|deleted| deleted.map(|(lsn, _)| lsn))
                    }
                };
                last = deleted?.or(last);
                work.step();
            }
        }
        if let Some(last) = last {
            self.acknowledge(last)?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// The ids of a shard, and an error if some could not be read. Damaged records are let go.
    fn ids_in(&self, shard: &Shard) -> (Vec<Vec<u8>>, Option<Error>) {
        let (mut ids, mut damaged, mut failed) = (Vec::new(), Vec::new(), None);
        let table = shard.table.read();
        for (fingerprint, lsn) in table.lsns(self.index().fingerprints()) {
            // While the shard is locked, no segment that its places are in is removed.
            match self.record_at(lsn) {
                Ok(record) => ids.push(record.id().to_vec()),
                Err(Unreadable::Damaged(reason)) => damaged.push((fingerprint, lsn, reason)),
                Err(Unreadable::Failed(error)) => failed = Some(error),
            }
        }
        drop(table);
        for (fingerprint, lsn, reason) in damaged {
            let _writing = shard.writing.lock();
            self.lose_unnamed(fingerprint, lsn, reason);
        }
        (ids, failed)
    }
}
