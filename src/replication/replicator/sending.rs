//! Sending a batch, and reporting to the ledger what became of each of its records.

use std::time::{Duration, Instant};

use super::gathering::{BUDGET, Batch, BatchKind, EXTRA_MAX, Sending};
use super::{COMPLAIN_EVERY, IN_FLIGHT_WAIT, Replicator};
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::{Budget, DeleteRetry, Lsn, Obstacle, RecordFilter, RepeatedPut};
use crate::redis::{Begun, Outgoing, Pushed, StoredValue, What};
use crate::version::Version;

/// How Redis's error begins when it is full.
const OUT_OF_MEMORY: &str = "OOM";

/// The pause before a write that might undo what others did is tried again, so that their events are heard first.
const LATER_WAIT: Duration = Duration::from_millis(25);

/// How often a record apart that is sent alone may break the connection.
const ALONE_TRIES_MAX: u32 = 3;

/// Most batches of a run. Between two runs there is time for everything else: settling, confirming, what others want.
const RUN_MAX: usize = 16;

/// A batch under way.
struct UnderWay {
    lsns: Vec<Lsn>,
    writes: Vec<Outgoing<'static>>,
    step: BatchKind,
    begun: Begun,
}

impl Replicator<'_> {
    /// Pushes a batch, and those that follow while they are full: each is begun before the one before it is finished, so that Redis and this
    /// thread are at work at the same time.
    pub(super) fn push(&mut self, batch: Batch) -> Result<(), Error> {
        let mut first = self.begin(batch)?;
        for _ in 1..RUN_MAX {
            let Some(batch) = self.gather_behind() else { break };
            let mut second = self.begin(batch)?;
            self.finish(first, Some(&mut second.begun))?;
            first = second;
        }
        self.finish(first, None)
    }

    /// Begins to push a batch.
    fn begin(&mut self, Batch { writes: gathered, step }: Batch) -> Result<UnderWay, Error> {
        let (mut lsns, mut writes) = (Vec::with_capacity(gathered.len()), Vec::with_capacity(gathered.len()));
        let mut sending = Sending { step, apart: Vec::new(), records: 0, bytes: 0 };
        for (lsn, write) in gathered {
            // Whoever asked for the object before it was deleted should get it.
            if matches!(write.what, What::Delete) && self.backend.flights.is_in_flight(&write.id) {
                self.outbox.ledger.postpone(self.epoch, lsn, &write.id, IN_FLIGHT_WAIT);
                continue;
            }
            if self.outbox.ledger.is_apart(lsn) {
                sending.apart.push((lsn, write.id.clone()));
            }
            sending.records += 1;
            sending.bytes += write.bytes();
            lsns.push(lsn);
            writes.push(write);
        }
        if let BatchKind::Walk { lane, to, .. } = step {
            self.outbox.ledger.sending(self.epoch, lane, to);
        }
        self.sending.push_back(sending);
        self.sent = writes.iter().map(|write| write.version).fold(self.sent, Version::max);
        let Some(link) = &mut self.link else { return Err(Error::Closed) };
        let begun = self.pusher.begin(link, &writes)?;
        Ok(UnderWay { lsns, writes, step, begun })
    }

    /// Finishes a batch, and reports to the ledger what became of it. `behind`: the batch that was begun after it.
    fn finish(&mut self, batch: UnderWay, behind: Option<&mut Begun>) -> Result<(), Error> {
        let UnderWay { lsns, writes, step, begun } = batch;
        let Some(link) = &mut self.link else { return Err(Error::Closed) };
        let pushed = self.pusher.finish(link, &writes, begun, behind, Some(self.backend))?;
        self.sending.pop_front();
        if !writes.is_empty() {
            self.extra_max = EXTRA_MAX;
        }
        for ((lsn, write), pushed) in lsns.into_iter().zip(&writes).zip(pushed) {
            self.pushed(lsn, write, pushed);
        }
        match step {
            BatchKind::Walk { lane, to, .. } => {
                self.outbox.ledger.advance(self.epoch, lane, to);
                self.caution.passed(lane, to);
                self.scout = None;
            }
            BatchKind::Scout(to) => self.scout = Some(to),
            BatchKind::Nowhere => {}
        }
        Ok(())
    }

    /// Reports what became of one record.
    pub(super) fn pushed(&mut self, lsn: Lsn, write: &Outgoing<'_>, pushed: Result<Pushed, String>) {
        let ledger = &self.outbox.ledger;
        match pushed {
            Ok(Pushed::Applied { .. } | Pushed::Same) => {
                self.backend.counters.pushes.add(1);
                self.backend.counters.pushed_bytes.add(write.bytes() as u64);
                if matches!(write.what, What::Put { .. }) {
                    self.full.succeeded();
                }
                // Before it can settle and be evicted: a fetch that read what stood in Redis before is stale.
                if !self.backend.is_unversioned() {
                    self.backend.flights.note_version(&write.id, write.version);
                }
                if lsn != Lsn::default() {
                    ledger.pushed(self.epoch, lsn, &write.id, Instant::now());
                }
            }
            Ok(Pushed::Older(standing)) => {
                self.backend.counters.overtaken.add(1);
                let learnt =
                    standing.version().map_or(Ok(()), |version| self.refused_for(lsn, write, version, &standing));
                match learnt {
                    Ok(()) => ledger.overtaken(self.epoch, lsn),
                    // It is tried and refused again until the object here can be dropped.
                    Err(error) => self.unreadable(lsn, &write.id, &error),
                }
                if self.backend.waiters.has_any(&write.id) {
                    self.backend.fetch(&write.id, None);
                }
            }
            Ok(Pushed::Later) => ledger.postpone(self.epoch, lsn, &write.id, LATER_WAIT),
            Ok(Pushed::Overtaken) => {
                self.backend.counters.overtaken.add(1);
                ledger.overtaken(self.epoch, lsn);
            }
            Err(reason) => {
                ledger.hold(self.epoch, lsn, &write.id, Obstacle::Refused);
                self.backend.counters.refusals.add(1);
                self.backend.health.refused(&reason);
                if reason.starts_with(OUT_OF_MEMORY) && self.full.remaining().is_zero() {
                    self.full.failed();
                }
                if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                    self.complained = Some(Instant::now());
                    tracing::warn!(
                        "Redis refuses object {}: {reason}; it stays here and is tried again, as {} others are",
                        ObjectId::new(&write.id),
                        ledger.held_count().saturating_sub(1)
                    );
                }
            }
        }
    }

    /// A write was refused because of a newer version in Redis, which is applied here like an event. But a version too far ahead to have been given
    /// by a clock in step with Redis's says nothing about which write was later: then the write is repeated with a version above it, unless it
    /// may have been in Redis before, as whoever wrote what stands there may have known of it.
    pub(super) fn refused_for(
        &self,
        lsn: Lsn,
        write: &Outgoing<'_>,
        by: Version,
        standing: &StoredValue,
    ) -> Result<(), Error> {
        let tier = self.backend.tier()?;
        let may_have_stood = write.version.node != self.node || self.outbox.ledger.may_have_stood(lsn);
        if may_have_stood || !tier.is_too_far_ahead(by) {
            return self.backend.apply_version(&write.id, by, !standing.is_object());
        }
        match &write.what {
            What::Delete => tier.delete_above(&write.id, by, DeleteRetry::Refused),
            What::Put { object, body_hash, deadline_ms } => {
                let again = RepeatedPut { lsn, above: by, deadline_ms: *deadline_ms };
                let body_hash = *body_hash.get_or_init(|| object.raw().hash());
                tier.put_above(&write.id, &object.to_object(), body_hash, &again)
            }
        }
    }

    /// Deals with a round that failed: drops a broken connection, and notes which records may have broken it.
    pub(super) fn failed(&mut self, error: &Error) {
        tracing::debug!("replication: {error}");
        self.backend.health.cannot_push(error);
        let sending = std::mem::take(&mut self.sending).into_iter().reduce(Sending::and);
        if !error.is_cut_off() {
            return; // nothing is wrong with the connection
        }
        if self.link.take().is_some() {
            self.backend.counters.disconnects.add(1);
        }
        let Some(Sending { step, apart, records, bytes }) = sending.filter(|sending| sending.records > 0) else {
            return;
        };
        match (step, apart.as_slice()) {
            (_, [(lsn, id)]) if records == 1 => self.broke_alone(*lsn, &id.clone(), bytes, error),
            (BatchKind::Walk { lane, from, to, .. }, _) if apart.len() < records => {
                if self.caution.failed(lane, from, to, records)
                    && let Ok(tier) = self.backend.tier()
                    && let Ok(found) = tier.dirty_records(from, to, RecordFilter::All, Budget { records: 1, ..BUDGET })
                    && let Some(dirty) = found.dirty.into_iter().next()
                {
                    self.caution.forget();
                    self.set_aside(dirty.lsn, &dirty.id, bytes, error);
                }
            }
            _ => self.extra_max = (records / 8).max(1),
        }
    }

    /// The connection broke while this record apart was sent alone. One that was set aside for that is set aside again at once.
    pub(super) fn broke_alone(&mut self, lsn: Lsn, id: &[u8], bytes: usize, error: &Error) {
        let tries = if self.alone.0 == lsn { self.alone.1 + 1 } else { 1 };
        self.alone = (lsn, tries);
        if tries >= ALONE_TRIES_MAX || self.outbox.ledger.is_set_aside(lsn) {
            self.set_aside(lsn, id, bytes, error);
        }
    }

    /// Sets a record apart that breaks the connection each time, and logs its name.
    pub(super) fn set_aside(&mut self, lsn: Lsn, id: &[u8], bytes: usize, error: &Error) {
        tracing::warn!(
            "object {} with {bytes} bytes breaks the connection each time that it is sent: {error}; it stays here, is left out and tried again \
             later; look whether something on the way drops large packets, or proto-max-bulk-len is below its size",
            ObjectId::new(id)
        );
        self.alone = (Lsn::default(), 0);
        self.extra_max = EXTRA_MAX;
        self.outbox.ledger.hold(self.outbox.ledger.epoch(), lsn, id, Obstacle::SetAside);
    }
}
