//! The replicator's batches: which records go into the next one.

use std::time::Instant;

use super::Replicator;
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::ledger::Due;
use crate::local::{Budget, Dirty, DirtyRecords, Lane, Lsn, Next, Obstacle, RecordFilter};
use crate::redis::{Body, Outgoing, What};
use crate::replication::caution::Bounds;

/// Bounds of one batch.
pub(super) const BUDGET: Budget = Budget { records: 1024, bytes: 4 << 20 };

/// After a batch of at least so many records, the next one follows without a pause.
const PACKED_MIN: usize = 128;

/// How a batch moves the walks: one of them gets from a place to another, or none does.
#[derive(Clone, Copy)]
pub(super) enum BatchKind {
    Walk {
        lane: Lane,
        from: Lsn,
        to: Lsn,
        /// There was more to read than the batch takes.
        is_full: bool,
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

/// What is known of a batch under way.
pub(super) struct Sending {
    pub step: BatchKind,
    /// Its records apart; the number of all its records, and their bytes.
    pub apart: Vec<(Lsn, Vec<u8>)>,
    pub records: usize,
    pub bytes: usize,
    pub batches: usize,
    /// The first of its records that do not stand apart.
    pub first: Option<(Lsn, Vec<u8>)>,
    /// Deletes that were found ahead of the tail, and do not stand apart.
    pub ahead: Vec<Lsn>,
}

impl Sending {
    /// Two batches of one walk as if they were one.
    pub fn and(mut self, behind: Sending) -> Sending {
        let step = match (self.step, behind.step) {
            (BatchKind::Walk { lane, from, .. }, BatchKind::Walk { to, is_full, .. }) => {
                BatchKind::Walk { lane, from, to, is_full }
            }
            (step, _) => step,
        };
        let (records, bytes) = (self.records + behind.records, self.bytes + behind.bytes);
        self.apart.extend(behind.apart); // which came to stand apart while the batch was gathered
        Sending { step, records, bytes, batches: self.batches + behind.batches, ..self }
    }
}

impl Replicator<'_> {
    /// The next batch: the records apart that are due, then those of the tail or else of the backlog.
    pub(super) fn gather(&mut self) -> Result<Batch, Error> {
        let end = self.backend.tier()?.end();
        let apart = self.due_apart(end);
        let mut batch = Batch { writes: apart.writes, step: BatchKind::Nowhere };
        if apart.is_set_aside || (!batch.writes.is_empty() && !self.caution_apart.is_calm()) {
            return Ok(batch); // to be sent alone
        }
        if self.outbox.ledger.is_full() || self.full.is_failing() {
            let from = self.scout.or_else(|| self.outbox.ledger.next(self.epoch, end).map(|next| next.from));
            let Some(from) = from.filter(|from| *from < end) else { return Ok(batch) };
            let found = self.backend.tier()?.dirty_records(from, end, RecordFilter::Deletes, BUDGET)?;
            batch.step = BatchKind::Scout(found.next);
            self.add(&mut batch, found, end);
            return Ok(batch);
        }
        let Some(next) = self.outbox.ledger.next(self.epoch, end) else { return Ok(batch) };
        if Instant::now() >= self.next_batch {
            self.walk(&mut batch, next)?;
        }
        Ok(batch)
    }

    /// The batch that can be begun before the last one is finished: if that was full, the next one of its walk. None if something else may have to
    /// be done first.
    pub(super) fn gather_behind(&mut self) -> Option<Batch> {
        let before = self.sending.back()?;
        let BatchKind::Walk { lane, to, is_full: true, .. } = before.step else { return None };
        if !before.apart.is_empty() || !self.caution.is_calm() || !self.pusher.keeps_two(self.link.as_ref()?) {
            return None;
        }
        let (ledger, end, now) = (&self.outbox.ledger, self.backend.tier().ok()?.end(), Instant::now());
        let is_wanted = self.backend.wants.are_there() || !self.backend.to_ask.is_empty();
        let is_apart_due = ledger.next_due(end, false).is_some_and(|due| due <= now);
        if is_wanted || is_apart_due || self.full.is_failing() || ledger.is_full() || now < self.next_batch {
            return None;
        }
        let next = ledger.next(self.epoch, end).filter(|next| next.lane == lane)?;
        let mut batch = Batch { writes: Vec::new(), step: BatchKind::Nowhere };
        // What cannot be read fails again in its turn, as does a store that was closed meanwhile.
        self.walk(&mut batch, Next { from: to, ..next }).ok()?;
        Some(batch)
    }

    /// Adds the next records of a walk to a batch.
    fn walk(&mut self, batch: &mut Batch, next: Next) -> Result<(), Error> {
        let now = Instant::now();
        let Next { lane, from, until, sent_below } = next;
        let wanted = if lane == Lane::Tail { RecordFilter::Dirty } else { RecordFilter::All };
        let bounds = Bounds { records_max: BUDGET.records, until };
        let bounds = self.caution.bound(lane, from, bounds);
        let budget = Budget { records: bounds.records_max, ..BUDGET };
        let found = self.backend.tier()?.dirty_records(from, bounds.until, wanted, budget)?;
        batch.step = BatchKind::Walk { lane, from, to: found.next, is_full: found.next < until };
        if found.dirty.len() < PACKED_MIN {
            self.next_batch = now + self.backend.peers.pause();
        }
        self.add(batch, found, sent_below);
        Ok(())
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
        if matches!(error, Error::Closed) {
            return; // nothing is wrong with the record
        }
        tracing::warn!("{error}; object {} stays here until it can be read, and is pushed then", ObjectId::new(id));
        self.outbox.ledger.hold(self.epoch, lsn, id, Obstacle::Unreadable);
    }

    /// The records apart that are due.
    fn due_apart(&mut self, end: Lsn) -> Apart {
        let ledger = &self.outbox.ledger;
        self.caution_apart.retain(|lsn| ledger.is_apart(lsn));
        let (is_full, records_max) = (self.full.is_failing(), self.caution_apart.records_max());
        let mut due = ledger.due(self.epoch, Instant::now(), records_max, end, is_full);
        if is_full && self.full.remaining().is_zero() && due.records.is_empty() {
            due.records.extend(ledger.probe(self.epoch));
        }
        // While draining that would end it, at the cost of the others.
        let due = if due.is_set_aside && self.drain_until.is_some() { Due::default() } else { due };
        let mut writes = Vec::with_capacity(due.records.len());
        for (lsn, id) in due.records {
            match self.backend.tier().and_then(|tier| tier.dirty_at(&id, lsn)) {
                Ok(Some(dirty)) if !self.would_undo(&dirty) => writes.push((lsn, self.outgoing(dirty, true))),
                // Overtaken; or copied, and then the tail comes to the copy.
                Ok(_) => ledger.overtaken(self.epoch, lsn),
                Err(error) => self.unreadable(lsn, &id, &error),
            }
        }
        if !ledger.has_any_for_room() {
            self.full.succeeded(); // nothing is left to probe with
        }
        if !ledger.has_refused() && self.complained.take().is_some() {
            tracing::info!("Redis takes again what it has refused");
        }
        Apart { writes, is_set_aside: due.is_set_aside }
    }
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
