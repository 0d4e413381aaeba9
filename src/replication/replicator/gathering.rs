//! The replicator's batches: which records go into the next one.

use std::time::Instant;

use super::Replicator;
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::ledger::Due;
use crate::local::{Budget, Dirty, DirtyRecords, Lane, Lsn, Next, Obstacle, RecordFilter};
use crate::redis::{Body, Outgoing, What};
use crate::replication::TieredBackend;
use crate::replication::caution::{Bounds, Caution};

/// Bounds of one batch.
pub(super) const BUDGET: Budget = Budget { records: 1024, bytes: 4 << 20 };

/// After a batch of at least so many records, the next one follows without a pause.
const PACKED_MIN: usize = 128;

/// Most records apart that go with a batch.
pub(super) const EXTRA_MAX: usize = 256;

/// Dirty records read ahead for the next batch.
pub(super) struct ReadAhead {
    pub next: Next,
    pub found: DirtyRecords,
}

/// How a batch moves the walks: one of them gets from a place to another, or none does.
#[derive(Clone, Copy)]
pub(super) enum BatchKind {
    Walk {
        lane: Lane,
        from: Lsn,
        to: Lsn,
    },
    /// Only deletes were read, ahead of the tail, up to here: too many records stand apart, or Redis is full.
    Scout(Lsn),
    /// Only records apart.
    Nowhere,
}

/// Writes to be pushed, each with the place of its record.
pub(super) struct Batch {
    pub writes: Vec<(Lsn, Outgoing<'static>)>,
    pub step: BatchKind,
}

/// What is known of a batch that is being sent.
pub(super) struct Sending {
    pub step: BatchKind,
    /// Its records apart; and the number of all its records.
    pub apart: Vec<(Lsn, Vec<u8>)>,
    pub records: usize,
    pub bytes: usize,
}

impl Replicator<'_> {
    /// The next batch: the records apart that are due, then those of the tail or else of the backlog.
    pub(super) fn gather(&mut self) -> Result<Batch, Error> {
        let apart = self.due_apart();
        let mut batch = Batch { writes: apart.writes, step: BatchKind::Nowhere };
        if apart.is_set_aside || (!batch.writes.is_empty() && self.extra_max < EXTRA_MAX) {
            return Ok(batch); // to be sent alone
        }
        let end = self.backend.tier()?.end();
        if self.outbox.ledger.is_full() || self.full.is_failing() {
            let from = self.scout.or_else(|| self.outbox.ledger.next(self.epoch, end).map(|next| next.from));
            let Some(from) = from.filter(|from| *from < end) else { return Ok(batch) };
            let found = self.backend.tier()?.dirty_records(from, end, RecordFilter::Deletes, BUDGET)?;
            batch.step = BatchKind::Scout(found.next);
            self.add(&mut batch, found, end);
            return Ok(batch);
        }
        let Some(next) = self.outbox.ledger.next(self.epoch, end) else { return Ok(batch) };
        let now = Instant::now();
        if now < self.next_batch {
            return Ok(batch);
        }
        let found = match self.ahead.take().filter(|it| it.next.lane == next.lane && it.next.from == next.from) {
            Some(ahead) => ahead.found,
            None => read(self.backend, &self.caution, next)?,
        };
        batch.step = BatchKind::Walk { lane: next.lane, from: next.from, to: found.next };
        if found.dirty.len() < PACKED_MIN {
            self.next_batch = now + self.backend.peers.pause();
        }
        self.add(&mut batch, found, next.sent_below);
        Ok(batch)
    }

    /// Adds the records that were found, except those that stand apart. Those that cannot be read now are set apart.
    pub(super) fn add(&self, batch: &mut Batch, found: DirtyRecords, sent_below: Lsn) {
        let ledger = &self.outbox.ledger;
        let is_wanted = |dirty: &Dirty| !ledger.is_apart(dirty.lsn) && !self.would_undo(dirty);
        for dirty in found.dirty.into_iter().filter(is_wanted) {
            let lsn = dirty.lsn;
            batch.writes.push((lsn, self.outgoing(dirty, lsn < sent_below)));
        }
        for (lsn, id, error) in found.unreadable {
            self.unreadable(lsn, &id, &error);
        }
    }

    /// Whether pushing a delete would remove what was written since: so it is without versions.
    pub(super) fn would_undo(&self, dirty: &Dirty) -> bool {
        dirty.is_overtaken && self.backend.is_unversioned()
    }

    /// Sets a record apart that cannot be read now.
    pub(super) fn unreadable(&self, lsn: Lsn, id: &[u8], error: &Error) {
        tracing::warn!("{error}; object {} stays here until it can be read, and is pushed then", ObjectId::new(id));
        self.outbox.ledger.hold(self.epoch, lsn, id, Obstacle::Unreadable);
    }

    /// The records apart that are due.
    fn due_apart(&mut self) -> Apart {
        let ledger = &self.outbox.ledger;
        let due = match (self.full.is_failing(), self.full.remaining().is_zero()) {
            (false, _) => ledger.due(self.epoch, Instant::now(), self.extra_max),
            (true, true) => ledger.oldest_refused(self.epoch),
            (true, false) => Due::default(),
        };
        let mut writes = Vec::with_capacity(due.records.len());
        for (lsn, id) in due.records {
            match self.backend.tier().and_then(|tier| tier.dirty_at(&id, lsn)) {
                Ok(Some(dirty)) if !self.would_undo(&dirty) => writes.push((lsn, self.outgoing(dirty, true))),
                // Overtaken; or copied, and then the tail comes to the copy.
                Ok(_) => ledger.overtaken(self.epoch, lsn),
                Err(error) => self.unreadable(lsn, &id, &error),
            }
        }
        if ledger.held_count() == 0 {
            self.full.succeeded(); // nothing is left to probe with
            if self.complained.take().is_some() {
                tracing::info!("Redis takes again what it has refused");
            }
        }
        Apart { writes, is_set_aside: due.is_set_aside }
    }
}

/// Reads the next records of a lane, as many as caution allows in one batch.
pub(super) fn read(backend: &TieredBackend, caution: &Caution, next: Next) -> Result<DirtyRecords, Error> {
    let wanted = if next.lane == Lane::Tail { RecordFilter::Dirty } else { RecordFilter::All };
    let bounds = Bounds { records_max: BUDGET.records, until: next.until };
    let Bounds { records_max, until } = caution.bound(next.lane, next.from, bounds);
    backend.tier()?.dirty_records(next.from, until, wanted, Budget { records: records_max, ..BUDGET })
}

/// Records apart, to be pushed.
struct Apart {
    writes: Vec<(Lsn, Outgoing<'static>)>,
    is_set_aside: bool,
}

/// The write that pushes a dirty record.
pub(super) fn outgoing(dirty: Dirty, is_repeat: bool) -> Outgoing<'static> {
    let Dirty { id, version, put, .. } = dirty;
    let what = match put {
        Some(put) => {
            let (object, body_hash) = (Body::Kept(put.object), put.body_hash.into());
            What::Put { object, body_hash, deadline_ms: put.deadline_ms }
        }
        None => What::Delete,
    };
    Outgoing { id, version, what, is_repeat }
}
