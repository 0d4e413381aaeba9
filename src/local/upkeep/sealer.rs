//! The sealer, the main background thread: it seals full segments, stores hints and cursors, reclaims space, and prepares files ahead.

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

/// How often it makes a pass when nobody wakes it.
const TICK: Duration = Duration::from_secs(1);

/// How often the cursors are stored. After a crash, what was done since then is pushed and heard again, which is harmless.
const CURSORS_AGE_MAX: Duration = Duration::from_secs(5);

/// How often the same failure is logged.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// The sealer thread's state.
pub(in crate::local) struct Sealer {
    pub(super) tier: Arc<LocalTier>,
    pub(super) catalog: Catalog,
    tasks: Receiver<Task>,
    sealing: Receiver<Sealing>,
    /// Segments that take no more records and are not sealed on disk yet, oldest first.
    pending: VecDeque<Sealing>,
    /// Segments whose file is missing though there are hints of them. The hints are removed when no older segment is left.
    pub(super) missing: BTreeSet<u32>,
    /// Sessions of earlier opens that are not over, for which body segments are withheld.
    foreign: Vec<Foreign>,
    cursors_stored: Instant,
    /// The cursors that this thread has stored last.
    cursors: Option<Cursors>,
    /// The failure that was logged last, and when.
    told: Option<(String, Instant)>,
    /// Small segments are being merged.
    pub(super) is_merging: bool,
    /// The state in which nothing could be evicted: the journal's end and `Ledger::moment`.
    pub(super) barren_at: Option<(Lsn, (Lsn, Lsn, usize))>,
    /// There are records that the next open would take for clean, and that could not be written anew.
    has_unnoted: bool,
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
            has_unnoted: false,
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
        self.note_lost(true);
        self.tier.journal.close();
        self.report("sealing at close", Self::seal_pending);
        self.report("noting how far replication has come", Self::store_cursors);
        self.report("closing the catalog", |sealer| sealer.catalog.flush());
        self.catalog.close();
    }

    /// One pass: carries out everything that may be due.
    fn pass(&mut self) {
        self.tier.progress.begin();
        self.report("sealing", Self::seal_pending);
        self.report("storing hints anew", Self::store_missing_hints);
        self.report("letting damaged records go", |sealer| sealer.tier.release_lost(|lsn| sealer.hint_at(lsn)));
        self.report("noting what other nodes deleted", |sealer| sealer.tier.note_hidden());
        self.note_lost(false);
        if let Some(outbox) = &self.tier.outbox {
            self.tier.index().owed().settle_below(outbox.ledger.replicated().segment());
        }
        self.report("reclaiming", Self::reclaim);
        self.report("writing the catalog anew", |sealer| {
            let LocalTier { progress, gate, space, .. } = &*sealer.tier;
            // A small catalog is compacted even when somebody waits: it is soon done, and a store at its limit is never quiet.
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
                self.report("making room", Self::meet_unmet_demand);
                Looked::NotAsked
            }
        };
        self.tier.progress.done(looked);
        let is_time = self.cursors_stored.elapsed() > CURSORS_AGE_MAX;
        if is_time {
            self.cursors_stored = Instant::now();
            self.tier.expire_tombstones();
            self.tier.end_suspicion();
        }
        let is_lost = self.tier.outbox.as_ref().is_some_and(|outbox| outbox.continuity.is_lost());
        if is_time || self.has_unnoted || is_lost {
            self.report("noting how far replication has come", Self::store_cursors);
        }
        self.tier.segments.sweep();
        self.tier.readers.sweep();
        self.report("looking after readers", Self::end_foreign);
    }

    pub(super) fn note_lost(&mut self, also_pushed: bool) {
        let noted = self.report("noting what Redis has lost", |sealer| sealer.tier.note_lost(also_pushed));
        self.has_unnoted = noted != Some(true);
    }

    /// Runs a step and logs its failure. The next pass, or the next open, tries again: nothing is lost by waiting.
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

    /// Seals what the journal has handed over, as far as that can be done now.
    pub(super) fn seal_pending(&mut self) -> Result<(), Error> {
        self.pending.extend(self.sealing.try_iter());
        if self.pending.is_empty() {
            return Ok(());
        }
        // The journal must be durable before the seals and hints that refer to it.
        self.tier.flush()?;
        while let Some(sealing) = self.pending.front() {
            self.seal(sealing)?;
            self.pending.pop_front();
        }
        Ok(())
    }

    /// Seals one segment. Its hints reach the disk with the catalog's next flush; until then it is a segment without hints.
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

    /// Stores a segment's hints. If that fails, `store_missing_hints` does it later, or the next open walks the segment.
    fn store_hints(&self, segment: &Segment, end: u64) {
        let stored = self
            .hints_of(segment, end)
            .and_then(|(hints, clock)| self.catalog.store(segment.number, segment.nonce, end, clock, &hints));
        if let Err(error) = stored {
            tracing::debug!("{}: its hints are stored later: {error}", segment.path().display());
        }
    }

    /// Makes the hints of a segment from its records, and their greatest version clock.
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

    /// After the catalog was reopened: stores the hints that it lacks, and removes those of segments that are gone.
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

    /// The hints of a sealed segment, from the catalog, or made from the segment itself.
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

    /// Stores the cursors if they have changed, after making the journal durable with the drops that they imply.
    pub(super) fn store_cursors(&mut self) -> Result<(), Error> {
        let Some(outbox) = &self.tier.outbox else { return Ok(()) };
        let cursors = outbox.cursors().filter(|_| !self.has_unnoted);
        let is_due = match &cursors {
            Some(_) => cursors != self.cursors,
            // In the other cases they are merely old.
            None => (outbox.are_cursors_wrong() || self.has_unnoted) && self.catalog.cursors()?.is_some(),
        };
        if !is_due {
            return Ok(());
        }
        // To remove them is right whatever becomes of the journal, also when it takes no writes any more.
        if cursors.is_some() {
            self.tier.flush()?;
        }
        self.catalog.store_cursors(cursors.as_ref())?;
        self.catalog.flush()?;
        self.cursors = cursors;
        Ok(())
    }

    /// Removes the hints of missing segments that are older than all others: they only told what those segments superseded.
    pub(super) fn forget_missing(&mut self, oldest: u32) -> Result<(), Error> {
        while let Some(number) = self.missing.first().copied().filter(|number| *number < oldest) {
            self.catalog.remove(number)?;
            self.missing.remove(&number);
        }
        Ok(())
    }

    /// Stops withholding the body segments of sessions that are over.
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

/// Makes the store refuse writes if the sealer panics: without a sealer it would only seem to work.
struct FailIfPanicked(Arc<LocalTier>);

impl Drop for FailIfPanicked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.journal.fail(Error::Config("the sealer thread has panicked".to_owned()));
            // Wakes those who wait: they try again and get the error.
            self.0.progress.done(Looked::Made);
        }
    }
}
