//! The background thread that seals full segments, reclaims space, and prepares files ahead.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::progress::Looked;
use crate::backend::Patience;
use crate::error::Error;
use crate::local::catalog::Catalog;
use crate::local::catalog::cursors::Cursors;
use crate::local::catalog::hints::Hint;
use crate::local::files::readers::Foreign;
use crate::local::journal::{Lsn, Sealing, Segment, SegmentKind, Step, Walk};
use crate::local::tier::{LocalTier, Task};

/// How often it looks around when nobody calls.
const TICK: Duration = Duration::from_secs(1);

/// How often it is noted how far replication has come. What is noted late is pushed and heard again, which is harmless.
const CURSORS_AGE_MAX: Duration = Duration::from_secs(5);

/// How often the same failure is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);

pub(in crate::local) struct Sealer {
    pub(super) tier: Arc<LocalTier>,
    pub(super) catalog: Catalog,
    tasks: Receiver<Task>,
    sealing: Receiver<Sealing>,
    /// Sealed in the journal, not yet on disk: oldest first.
    pending: VecDeque<Sealing>,
    /// Segments of which hints are left, though the file is missing: their hints go when nothing older is left.
    pub(super) missing: BTreeSet<u32>,
    /// Sessions of earlier opens from which somebody may read.
    foreign: Vec<Foreign>,
    cursors_stored: Instant,
    /// What the catalog says of replication, as far as this thread has written it.
    cursors: Option<Cursors>,
    /// What was told last, and when.
    told: Option<(String, Instant)>,
    /// Small segments are being merged.
    pub(super) is_merging: bool,
    /// When nothing could be evicted: the journal's end, and how far replication was.
    pub(super) barren_at: Option<(Lsn, (Lsn, Lsn, usize))>,
}

/// What the sealer is made of.
pub(in crate::local) struct SealerParts {
    pub catalog: Catalog,
    pub missing: BTreeSet<u32>,
    pub foreign: Vec<Foreign>,
    pub tasks: Receiver<Task>,
    pub sealing: Receiver<Sealing>,
}

impl Sealer {
    pub fn new(tier: Arc<LocalTier>, parts: SealerParts) -> Self {
        let SealerParts { catalog, missing, foreign, tasks, sealing } = parts;
        Sealer {
            tier,
            catalog,
            tasks,
            sealing,
            pending: VecDeque::new(),
            missing,
            foreign,
            cursors_stored: Instant::now(),
            cursors: None,
            told: None,
            is_merging: false,
            barren_at: None,
        }
    }

    pub fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("sealer".to_owned()).spawn(move || {
            let watch = FailIfPanicked(Arc::clone(&self.tier));
            self.run();
            drop(watch);
        })
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
        self.report("sealing at close", Self::seal_pending);
        self.report("noting how far replication has come", Self::store_cursors);
        self.report("closing the catalog", |sealer| sealer.catalog.flush());
        self.catalog.close();
    }

    /// Everything that may be due.
    fn pass(&mut self) {
        self.tier.progress.begin();
        self.report("sealing", Self::seal_pending);
        self.report("storing hints anew", Self::store_missing_hints);
        self.report("letting damaged records go", |sealer| sealer.tier.release_lost(|lsn| sealer.hint_at(lsn)));
        self.report("noting what other nodes deleted", |sealer| sealer.tier.note_hidden());
        if let Some(outbox) = &self.tier.outbox {
            self.tier.index().owed().settle_below(outbox.ledger.replicated().segment());
        }
        self.report("reclaiming", Self::reclaim);
        self.report("writing the catalog anew", |sealer| {
            let LocalTier { progress, gate, space, .. } = &*sealer.tier;
            // A small one is soon done, and makes room: a store that is used to its limit all the time is never quiet.
            let is_small = sealer.catalog.is_small();
            sealer.catalog.compact(space, || (!is_small && !progress.is_quiet()) || gate.is_closing())
        });
        self.tier.space.set_catalog_bytes(self.catalog.bytes());
        self.report("preparing segments", |sealer| sealer.tier.refill_spares());
        let looked = match self.tier.progress.wanted() {
            Some(wanted) => {
                let made = self.report("making room", |sealer| sealer.make_room(wanted, Patience::Caller));
                made.unwrap_or(Looked::Failed)
            }
            None => {
                self.report("making room", Self::grant_wish);
                Looked::NotAsked
            }
        };
        self.tier.progress.done(looked);
        if self.cursors_stored.elapsed() > CURSORS_AGE_MAX {
            self.cursors_stored = Instant::now();
            self.tier.expire_tombstones();
            self.report("noting how far replication has come", Self::store_cursors);
        }
        self.tier.segments.sweep();
        self.tier.readers.sweep();
        self.report("looking after readers", Self::end_foreign);
    }

    /// What fails is tried again in the next pass, or by the next open where the store is being closed: nothing is lost by waiting.
    pub(super) fn report<T>(&mut self, what: &str, step: impl FnOnce(&mut Self) -> Result<T, Error>) -> Option<T> {
        let error = match step(self) {
            Ok(done) => return Some(done),
            Err(Error::Closed) => return None,
            Err(error) => error,
        };
        let text = format!("{what}: {error}; trying again later");
        let is_told = self.told.as_ref().is_some_and(|(told, when)| *told == text && when.elapsed() < TELL_AGAIN);
        if is_told {
            tracing::debug!("{text}");
        } else {
            tracing::warn!("{text}");
            self.told = Some((text, Instant::now()));
        }
        None
    }

    pub(super) fn seal_pending(&mut self) -> Result<(), Error> {
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
        Ok(())
    }

    /// Its hints reach the disk with the catalog's next flush; before that it is a segment without.
    fn seal(&self, sealing: &Sealing) -> Result<(), Error> {
        let Sealing { segment, seal } = sealing;
        if seal.record_count == 0 {
            return self.tier.segments.remove(segment);
        }
        segment.write_seal(*seal).map_err(Error::io("seal", segment.path()))?;
        segment.trim(seal.end).map_err(Error::io("trim", segment.path()))?;
        segment.close_file();
        self.store_hints(segment, seal.end);
        segment.set_sealed();
        Ok(())
    }

    /// Stores a segment's hints. Without them the next open walks the segment; they are stored when the catalog is open again.
    fn store_hints(&self, segment: &Segment, end: u64) {
        let stored = self
            .hints_of(segment, end)
            .and_then(|(hints, clock)| self.catalog.store(segment.number, segment.nonce, end, clock, &hints));
        if let Err(error) = stored {
            tracing::debug!("{}: its hints are stored later: {error}", segment.path().display());
        }
    }

    pub(super) fn hints_of(&self, segment: &Segment, end: u64) -> Result<(Vec<Hint>, u64), Error> {
        let mapping = self.tier.segments.mapping(segment)?;
        let bytes = mapping.slice(0, end).unwrap_or_default();
        let (mut hints, mut clock) = (Vec::new(), 0);
        for step in Walk::new(bytes, segment.number, segment.nonce) {
            match step {
                Step::Record { header, id, .. } => {
                    clock = clock.max(header.version.clock_at_open());
                    hints.push(Hint::of(&header, self.tier.index().fingerprint(id)));
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

    /// After the catalog failed and is open again: hints that it lacks are stored, those of segments that are gone go.
    fn store_missing_hints(&mut self) -> Result<(), Error> {
        if !self.catalog.take_fresh() {
            return Ok(());
        }
        let hinted: BTreeSet<u32> = self.catalog.segments()?.into_iter().collect();
        let segments = self.tier.segments.load();
        for segment in segments.values().filter(|it| it.kind == SegmentKind::Records && it.is_sealed()) {
            let is_whole = hinted.contains(&segment.number)
                && self.catalog.load(segment.number)?.is_some_and(|(closing, _)| closing.nonce == segment.nonce);
            if !is_whole {
                self.store_hints(segment, segment.records_end());
            }
        }
        for number in hinted {
            if !segments.contains_key(&number) && !self.missing.contains(&number) {
                self.catalog.remove(number)?;
            }
        }
        self.cursors = None;
        self.catalog.flush()
    }

    /// The hints of a sealed segment, from the catalog or from the segment itself.
    pub(super) fn hints(&self, segment: &Segment) -> Result<Vec<Hint>, Error> {
        match self.catalog.load(segment.number) {
            Ok(Some((closing, hints))) if closing.nonce == segment.nonce => return Ok(hints),
            Ok(_) => {}
            Err(error) => tracing::debug!("{error}; the records of segment {} are walked", segment.number),
        }
        Ok(self.hints_of(segment, segment.records_end())?.0)
    }

    fn hint_at(&self, lsn: Lsn) -> Result<Option<Hint>, Error> {
        let Some(segment) = self.tier.segments.get(lsn.segment()).filter(|segment| segment.is_sealed()) else {
            return Ok(None);
        };
        let hints = self.hints(&segment)?;
        let found = hints.binary_search_by_key(&lsn.offset(), |hint| hint.offset);
        Ok(found.ok().and_then(|number| hints.get(number).copied()))
    }

    /// The journal first, then the cursors that refer to it and to the drops in it.
    fn store_cursors(&mut self) -> Result<(), Error> {
        let Some(outbox) = &self.tier.outbox else { return Ok(()) };
        let cursors = outbox.cursors();
        let is_due = match &cursors {
            Some(_) => cursors != self.cursors,
            // Until the backlog is pushed, what the catalog says is wrong; otherwise it is merely old.
            None => outbox.ledger.has_backlog() && self.catalog.cursors()?.is_some(),
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

    /// Hints of missing segments said what they had superseded. With nothing older left, that is of no use any more.
    pub(super) fn forget_missing(&mut self, oldest: u32) -> Result<(), Error> {
        while let Some(number) = self.missing.first().copied().filter(|number| *number < oldest) {
            self.catalog.remove(number)?;
            self.missing.remove(&number);
        }
        Ok(())
    }

    /// Ends the withholding of room that nobody can read any more.
    fn end_foreign(&mut self) -> Result<(), Error> {
        if self.foreign.is_empty() {
            return Ok(());
        }
        self.foreign.retain(|session| !session.is_over());
        let segments = self.tier.segments.load();
        let is_read = |number: u32| self.foreign.iter().any(|session| session.uses(number));
        for segment in segments.values().filter(|segment| segment.is_withheld() && !is_read(segment.number)) {
            self.tier.bodies.stop_withholding(segment)?;
        }
        Ok(())
    }
}

/// A sealer that dies leaves a store that only seems to work.
struct FailIfPanicked(Arc<LocalTier>);

impl Drop for FailIfPanicked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.journal.fail(Error::Config("the sealer thread has panicked".to_owned()));
            // Who waits tries again, and is told.
            self.0.progress.done(Looked::Made);
        }
    }
}
