//! The background thread of the local tier: seals full segments, reclaims space, prepares files ahead.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use crate::local::catalog::Catalog;
use crate::local::catalog::cursors::Cursors;
use crate::local::catalog::hints::Hint;

use crate::error::Error;
use crate::local::journal::{Sealing, Segment, Step, Walk};
use crate::local::sharing::outbox::Outbox;
use crate::local::tier::LocalTier;

/// How often it looks around when nobody calls.
const TICK: Duration = Duration::from_secs(1);

/// Dead bodies are freed when they take this much, or a 32nd of the limit; freeing them costs a sync.
const DEAD_BODIES_BYTES_MAX: u64 = 64 << 20;

/// Fewer dead bodies than that are freed after this time.
const DEAD_BODIES_AGE_MAX: Duration = Duration::from_secs(10);

/// How often it is noted how far replication has come. What is noted late is pushed and heard again, which is harmless.
const CURSORS_AGE_MAX: Duration = Duration::from_secs(5);

/// What the sealer can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Somebody waits for room.
    MakeRoom,
    /// Seal what is pending, and end.
    Stop,
}

pub(in crate::local) struct Sealer {
    tier: Arc<LocalTier>,
    catalog: Catalog,
    tasks: Receiver<Task>,
    sealing: Receiver<Sealing>,
    /// Sealed in the journal, not yet on disk: oldest first.
    pending: VecDeque<Sealing>,
    /// Segments of which hints are left, though the file is missing: their hints go when nothing older is left.
    missing: BTreeSet<u32>,
    bodies_reaped: Instant,
    cursors_stored: Instant,
    /// What the catalog says of replication, as far as this thread has written it.
    cursors: Option<Cursors>,
}

impl Sealer {
    pub fn spawn(
        tier: Arc<LocalTier>,
        catalog: Catalog,
        missing: BTreeSet<u32>,
        tasks: Receiver<Task>,
        sealing: Receiver<Sealing>,
    ) -> std::io::Result<JoinHandle<()>> {
        let sealer = Sealer {
            tier,
            catalog,
            tasks,
            sealing,
            pending: VecDeque::new(),
            missing,
            bodies_reaped: Instant::now(),
            cursors_stored: Instant::now(),
            cursors: None,
        };
        std::thread::Builder::new().name("sealer".to_owned()).spawn(move || sealer.run())
    }

    fn run(mut self) {
        loop {
            self.pass();
            select! {
                recv(self.sealing) -> sealing => self.pending.extend(sealing),
                recv(self.tasks) -> task => match task {
                    Ok(Task::MakeRoom) => {}
                    Ok(Task::Stop) | Err(_) => break,
                },
                default(TICK) => {}
            }
        }
        self.report("sealing at close", |sealer| sealer.seal_pending());
        self.report("noting how far replication has come", |sealer| sealer.store_cursors());
        self.report("closing the catalog", |sealer| sealer.catalog.flush());
    }

    /// Everything that may be due.
    fn pass(&mut self) {
        self.tier.progress.begin();
        self.report("sealing", Self::seal_pending);
        let reaped_bytes = self.report("freeing bodies", Self::reap_bodies).unwrap_or(0);
        let mut reclaimed_bytes = self.report("reclaiming", Self::reclaim).unwrap_or(0);
        if self.tier.outbox.is_some() && self.tier.space.wants_eviction() {
            reclaimed_bytes += self.report("evicting", Self::evict).unwrap_or(0);
        }
        self.tier.space.set_catalog_bytes(self.catalog.bytes());
        self.report("preparing segments", |sealer| sealer.tier.journal.refill_spares());
        if self.cursors_stored.elapsed() > CURSORS_AGE_MAX {
            self.cursors_stored = Instant::now();
            self.tier.expire_tombstones();
            self.report("noting how far replication has come", |sealer| sealer.store_cursors());
        }
        self.tier.segments.sweep();
        self.tier.progress.done(reaped_bytes + reclaimed_bytes);
    }

    /// What fails is tried again in the next pass, or by the next open where the store is being closed: nothing is lost by waiting.
    fn report<T>(&mut self, what: &str, step: impl FnOnce(&mut Self) -> Result<T, Error>) -> Option<T> {
        match step(self) {
            Ok(done) => Some(done),
            Err(Error::Closed) => None,
            Err(error) => {
                tracing::warn!("{what}: {error}; trying again later");
                None
            }
        }
    }

    fn seal_pending(&mut self) -> Result<(), Error> {
        self.pending.extend(self.sealing.try_iter());
        if self.pending.is_empty() {
            return Ok(());
        }
        // The journal first, then the hints that refer to it.
        self.tier.flush()?;
        while let Some(sealing) = self.pending.front() {
            self.seal(sealing)?;
            self.pending.pop_front();
        }
        self.catalog.flush()
    }

    fn seal(&self, sealing: &Sealing) -> Result<(), Error> {
        let Sealing { segment, seal } = sealing;
        if seal.record_count == 0 {
            return self.tier.segments.remove(segment);
        }
        let (hints, clock) = self.hints_of(segment, seal.end)?;
        segment.write_seal(*seal).map_err(Error::io("seal", segment.path()))?;
        segment.trim(seal.end).map_err(Error::io("trim", segment.path()))?;
        segment.close_file();
        self.catalog.store(segment.number, segment.nonce, seal.end, clock, &hints)?;
        segment.set_sealed();
        Ok(())
    }

    fn hints_of(&self, segment: &Segment, end: u64) -> Result<(Vec<Hint>, u64), Error> {
        let mapping = self.tier.segments.mapping(segment)?;
        let bytes = mapping.slice(0, end).unwrap_or_default();
        let (mut hints, mut clock) = (Vec::new(), 0);
        for step in Walk::new(bytes, segment.number, segment.nonce) {
            match step {
                Step::Record { header, id, .. } => {
                    clock = clock.max(header.version.clock_at_open());
                    hints.push(Hint::of(&header, self.tier.index.fingerprint(id)));
                }
                Step::Damage { offset, end } => {
                    tracing::error!(
                        "segment {}: bytes {offset} to {end} were damaged before it was sealed",
                        segment.number
                    );
                }
            }
        }
        Ok((hints, clock))
    }

    /// The journal first, then the cursors that refer to it and to the drops in it.
    fn store_cursors(&mut self) -> Result<(), Error> {
        let Some(outbox) = &self.tier.outbox else { return Ok(()) };
        let cursors = outbox.cursors();
        let is_due = match &cursors {
            Some(_) => cursors != self.cursors,
            // Until the backlog is pushed, what the catalog says is wrong; otherwise it is merely old.
            None => outbox.has_backlog() && self.catalog.cursors()?.is_some(),
        };
        if !is_due {
            return Ok(());
        }
        self.tier.flush()?;
        self.catalog.store_cursors(cursors.as_ref())?;
        self.catalog.flush()?;
        self.cursors = cursors;
        Ok(())
    }

    fn reap_bodies(&mut self) -> Result<u64, Error> {
        // The records of evicted objects are still there: their bodies must not be overwritten.
        if self.tier.outbox.as_ref().is_some_and(Outbox::is_uncertain) {
            return Ok(0);
        }
        let dead = self.tier.bodies.dead_bytes();
        let due = dead > DEAD_BODIES_BYTES_MAX.min(self.tier.space.limit_bytes() / 32)
            || (dead > 0 && self.bodies_reaped.elapsed() > DEAD_BODIES_AGE_MAX);
        if !due {
            return Ok(0);
        }
        self.bodies_reaped = Instant::now();
        let durable = self.tier.flush()?;
        self.tier.bodies.reap(durable)
    }

    /// Evicts what is in the last, not yet full segment, too, and frees the bodies of what was evicted at once.
    fn evict(&mut self) -> Result<u64, Error> {
        let mut freed_bytes = 0;
        if self.tier.segments.record_segments() == 1 && self.tier.journal.seal_active() {
            self.seal_pending()?;
            freed_bytes += self.reclaim()?;
        }
        self.bodies_reaped = self.bodies_reaped.checked_sub(DEAD_BODIES_AGE_MAX).unwrap_or(self.bodies_reaped);
        Ok(freed_bytes + self.reap_bodies()?)
    }

    /// Reclaims the oldest segments while that is worth it; how many bytes that freed.
    fn reclaim(&mut self) -> Result<u64, Error> {
        let mut freed_bytes = 0;
        let end = self.tier.journal.end();
        while let Some(segment) = self.tier.reclaimable().filter(|segment| segment.number <= end.segment()) {
            self.forget_missing(segment.number)?;
            let hints = match self.catalog.load(segment.number)? {
                Some((_, hints)) => hints,
                None => self.hints_of(&segment, segment.bytes())?.0,
            };
            if !self.tier.is_evictable(&segment, &hints) {
                break;
            }
            let dead_bytes = segment.bytes().saturating_sub(segment.live_bytes());
            if !self.tier.evacuate(&segment, &hints)? {
                tracing::warn!(
                    "no room to copy what is live in segment {} forward; trying again later",
                    segment.number
                );
                break;
            }
            freed_bytes += dead_bytes;
            // Hints without their segment would look like a loss; a segment without hints is only walked once more.
            self.catalog.remove(segment.number)?;
            self.catalog.flush()?;
            self.tier.segments.remove(&segment)?;
            if let Some(outbox) = &self.tier.outbox {
                let directory = self.tier.segments.directory();
                self.tier.segments.sync_directory().map_err(Error::io("sync", directory))?;
                outbox.set_uncertain(false);
            }
            self.tier.journal.refill_spares()?;
        }
        Ok(freed_bytes)
    }

    /// Hints of missing segments said what they had superseded. With nothing older left, that is of no use any more.
    fn forget_missing(&mut self, oldest: u32) -> Result<(), Error> {
        while let Some(number) = self.missing.first().copied().filter(|number| *number < oldest) {
            self.catalog.remove(number)?;
            self.missing.remove(&number);
        }
        Ok(())
    }
}
