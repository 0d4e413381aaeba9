//! Sending a batch, and reporting to the ledger what became of each of its records.

use std::time::{Duration, Instant};

use super::gathering::{Batch, BatchKind, Sending};
use super::wanted::Wanted;
use super::{COMPLAIN_EVERY, IN_FLIGHT_WAIT, Replicator};
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::{DeleteRetry, Lsn, Obstacle, RepeatedPut};
use crate::redis::{Begun, Link, Outgoing, Pushed, StoredValue, What};
use crate::version::Version;

/// How Redis's error begins when it is full.
const OUT_OF_MEMORY: &str = "OOM";

/// The pause before a write that might undo what others did is tried again, so that their events are heard first.
const LATER_WAIT: Duration = Duration::from_millis(25);

/// How long a run begins batches. Between two runs there is time for everything else: what others want, settling, confirming, and those who wait for
/// room.
const RUN_TIME: Duration = Duration::from_millis(100);

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
        let until = Instant::now() + RUN_TIME;
        let mut first = self.begin(batch)?;
        while Instant::now() < until {
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
        let mut sending =
            Sending { step, apart: Vec::new(), batches: 1, records: 0, bytes: 0, first: None, ahead: Vec::new() };
        for (lsn, write) in gathered {
            // Whoever asked for the object before it was deleted should get it.
            if matches!(write.what, What::Delete) && self.backend.flights.is_in_flight(&write.id) {
                self.outbox.ledger.postpone(self.epoch, lsn, &write.id, IN_FLIGHT_WAIT);
                continue;
            }
            if self.outbox.ledger.is_apart(lsn) {
                sending.apart.push((lsn, write.id.clone()));
            } else {
                if matches!(step, BatchKind::Scout(_)) {
                    sending.ahead.push(lsn);
                }
                sending.first.get_or_insert_with(|| (lsn, write.id.clone()));
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
        for ((lsn, write), pushed) in lsns.into_iter().zip(&writes).zip(pushed) {
            self.caution_apart.passed(lsn);
            if pushed.is_ok() && lsn > self.reached {
                (self.reached, self.has_progressed) = (lsn, true);
            }
            let is_ahead = matches!(step, BatchKind::Scout(_)) && !self.outbox.ledger.is_apart(lsn);
            match pushed {
                // It need not stand apart: the tail comes to it.
                Err(reason) if is_ahead => self.complain(write, &reason),
                Ok(Pushed::Incomplete(reason)) if is_ahead => {
                    self.outbox.ledger.may_stand(self.epoch, lsn);
                    self.complain(write, &reason);
                }
                pushed => self.pushed(lsn, write, pushed),
            }
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
            // Others may have read it, though they have not heard of it.
            Ok(Pushed::Incomplete(reason)) => {
                ledger.may_stand(self.epoch, lsn);
                self.refused(lsn, write, &reason);
            }
            Err(reason) => self.refused(lsn, write, &reason),
        }
    }

    /// Redis refuses the write, though it takes others: it is tried again later.
    fn refused(&mut self, lsn: Lsn, write: &Outgoing<'_>, reason: &str) {
        let why = if reason.starts_with(OUT_OF_MEMORY) { Obstacle::Full } else { Obstacle::Refused };
        self.outbox.ledger.hold(self.epoch, lsn, &write.id, why);
        self.complain(write, reason);
    }

    /// Counts a refusal, and logs it now and then.
    fn complain(&mut self, write: &Outgoing<'_>, reason: &str) {
        self.backend.counters.refusals.add(1);
        self.backend.health.refused(reason);
        if reason.starts_with(OUT_OF_MEMORY) && self.full.remaining().is_zero() {
            self.full.failed();
        }
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::warn!(
                "Redis refuses object {}: {reason}; it stays here and is tried again, as {} others are",
                ObjectId::new(&write.id),
                self.outbox.ledger.held_count().saturating_sub(1)
            );
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

    /// Deals with a round that failed: drops a broken connection, and notes what may have been sent, and which records may have broken it.
    pub(super) fn failed(&mut self, error: &Error) {
        tracing::debug!("replication: {error}");
        self.backend.health.cannot_push(error);
        let sending = std::mem::take(&mut self.sending).into_iter().reduce(Sending::and);
        let wanted = self.sending_wanted.take();
        let is_refused = sending.as_ref().is_some_and(|sending| sending.batches == 1)
            && self.pusher.is_unanswered()
            && self.link.as_ref().is_some_and(Link::has_refused_all);
        let is_to_wrong_server = self.link.as_ref().is_some_and(Link::is_to_wrong_server);
        if error.is_cut_off() && self.link.take().is_some() {
            self.backend.counters.disconnects.add(1);
        }
        if is_refused {
            return self.outbox.ledger.refused(self.epoch); // nothing was carried out
        }
        let apart = sending.iter().flat_map(|it| it.apart.iter().map(|(lsn, _)| lsn).chain(&it.ahead));
        let others = apart.chain(wanted.iter().map(|wanted| &wanted.lsn)).copied();
        self.outbox.ledger.failed(self.epoch, others);
        if error.is_cut_off() && !is_to_wrong_server {
            wanted.into_iter().for_each(|wanted| self.suspect_wanted(wanted, error));
            sending.into_iter().for_each(|sending| self.suspect(sending, error));
        }
    }

    /// The connection broke while this record was under way, alone.
    fn suspect_wanted(&mut self, Wanted { lsn, id, bytes }: Wanted, error: &Error) {
        if self.caution_wanted.failed(lsn) {
            self.set_aside(lsn, &id, bytes, error);
        }
    }

    /// The connection broke while these records were under way.
    fn suspect(&mut self, Sending { step, apart, records, bytes, first, .. }: Sending, error: &Error) {
        let with_others = apart.len() < records;
        self.suspect_apart(&apart, with_others, bytes, error);
        if let BatchKind::Walk { lane, from, to, .. } = step
            && with_others
            && self.caution.failed(lane, from, to, records)
            && let Some((lsn, id)) = first
        {
            self.caution.forget();
            self.set_aside(lsn, &id, bytes, error);
        }
    }

    /// The connection broke while these records apart were under way. One that was set aside for that is set aside again at once.
    fn suspect_apart(&mut self, apart: &[(Lsn, Vec<u8>)], with_others: bool, bytes: usize, error: &Error) {
        let aside = match apart {
            [] => None,
            [(lsn, _)] if self.outbox.ledger.is_set_aside(*lsn) => Some(*lsn),
            _ => self.caution_apart.failed(apart.iter().map(|(lsn, _)| *lsn), with_others),
        };
        if let Some((lsn, id)) = apart.iter().find(|(lsn, _)| aside == Some(*lsn)) {
            self.set_aside(*lsn, id, bytes, error);
        }
    }

    /// Sets a record apart that breaks the connection each time. Its name is logged the first time.
    fn set_aside(&self, lsn: Lsn, id: &[u8], bytes: usize, error: &Error) {
        let ledger = &self.outbox.ledger;
        let object = ObjectId::new(id);
        if ledger.is_set_aside(lsn) {
            tracing::debug!("object {object} has broken the connection again: {error}");
        } else {
            tracing::warn!(
                "object {object} with {bytes} bytes breaks the connection each time that it is sent: {error}; it stays here, is left out and tried \
                 again later; look whether something on the way drops large packets, or proto-max-bulk-len is below its size"
            );
        }
        ledger.hold(ledger.epoch(), lsn, id, Obstacle::SetAside);
    }
}
