//! The `local` backend: opens a directory into a [`LocalTier`], runs its upkeep threads, and closes both. `tiered` and the keeper stand on it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::Underlying;
use super::bodies::Bodies;
use super::catalog::Catalog;
use super::catalog::cursors::Cursors;
use super::files::counters::Counters;
use super::files::disk::ReadOnlyDisk;
use super::files::lock::DirectoryLock;
use super::files::numbers::Numbers;
use super::files::readers::Readers;
use super::files::space::{Lease, Space};
use super::files::turn::Turn;
use super::gate::Gate;
use super::index::Fingerprints;
use super::index::liveness::Liveness;
use super::index::payloads::Payloads;
use super::journal::{Journal, JournalOptions, Lsn, SegmentKind, Segments};
use super::opening::directory;
use super::opening::place::make_directory;
use super::opening::recovery::{self, Recovery};
use super::opening::report::Report;
use super::options::{Durability, LocalOptions};
use super::shared::{Placed, Reserved};
use super::sharing::outbox::{Outbox, OutboxOptions};
use super::tier::{LocalTier, Release, Tally, Task};
use super::upkeep::expiry::Expiry;
use super::upkeep::pace::Pace;
use super::upkeep::progress::Progress;
use super::upkeep::reaper;
use super::upkeep::room::Room;
use super::upkeep::sealer::{Sealer, SealerParts};
use super::work::Work;
use super::write::Restored;
use super::writer::LocalWriter;
use crate::backend::{Backend, ListPosition, Listed, OnStored, Page, Stats, Usage, Writer};
use crate::error::Error;
use crate::fork;
use crate::object::Object;
use crate::random::random_u64;
use crate::version::Version;

/// An open store of one process: the tier, and the threads that end with it.
pub(crate) struct LocalBackend {
    tier: Arc<LocalTier>,
    directory: PathBuf,
    generation: u64,
    running: Mutex<Option<Running>>,
    /// The room of the counters file, which is never removed once it exists.
    counters_room: OnceLock<Arc<Lease>>,
    /// Of a directory that is only read.
    shared_lock: Mutex<Option<DirectoryLock>>,
}

/// The upkeep threads and the directory lock, which end when the store is closed.
struct Running {
    sealer: JoinHandle<()>,
    tasks: Sender<Task>,
    reaper: JoinHandle<()>,
    stop_reaper: Sender<()>,
    lock: DirectoryLock,
}

/// A recovered tier whose upkeep threads are not started yet, and what they are started with.
pub(in crate::local) struct RecoveredTier {
    pub tier: Arc<LocalTier>,
    pub parts: SealerParts,
    tasks: Sender<Task>,
    lock: DirectoryLock,
}

impl RecoveredTier {
    pub fn open(options: &LocalOptions, under: Underlying, outbox: Option<OutboxOptions>) -> Result<Self, Error> {
        let Underlying { disk, fingerprint_mask, on_locked, report } = under;
        let directory = options.directory()?;
        let journal_directory = directory.join("journal");
        directory::check_format(&directory)?;
        let opened = Arc::new(AtomicU32::new(0));
        let is_read = report.is_some();
        let mut lock = if is_read {
            DirectoryLock::share(&directory)?
        } else {
            make_directory(&directory)?;
            directory::make_journal(&directory, &journal_directory)?;
            let limit = Instant::now() + Duration::from_millis(options.lock_wait_ms);
            // A keeper has taken its turn before it opens.
            let turn = if on_locked.is_none() { Turn::take(&directory, limit)? } else { None };
            let lock = DirectoryLock::acquire(&directory, limit.saturating_duration_since(Instant::now()))?;
            drop(turn);
            lock
        };
        if let Some(on_locked) = on_locked {
            on_locked(Arc::clone(&opened))?;
        }
        let (numbers, (readers, mut foreign), catalog) = if is_read {
            let readers = (Readers::none(&directory), Vec::new());
            (Numbers::read(&directory)?, readers, Catalog::none(&directory.join("catalog")))
        } else {
            lock.check_mapping()?;
            let (numbers, readers) = (Numbers::open(&directory)?, Readers::open(&directory)?);
            directory::write_format(&directory)?;
            (numbers, readers, Catalog::open(&directory.join("catalog")))
        };
        let noted = numbers.noted();
        let found = directory::list(&journal_directory, &catalog, noted.below, &disk, report.as_deref())?;
        let limit_bytes = match is_read {
            true => u64::MAX,
            false => directory::limit_bytes(options.max_size_mb, &directory, found.bytes)?,
        };
        let space = Space::new(limit_bytes);
        catalog.set_limit(space.limit_bytes());
        foreign.iter_mut().for_each(|session| session.count(&space));
        let set_aside = found.damaged;
        let open_files = Arc::default();
        let (map, spares, next_number) = found.into_segments(&space, &disk, &open_files);
        for segment in map.values().filter(|segment| segment.kind != SegmentKind::Records) {
            segment.set_withheld(foreign.iter().any(|session| session.uses(segment.number)));
        }
        let cursors = if catalog.is_open() { catalog.cursors()? } else { None };
        let next_number = next_number.max(cursors.as_ref().map_or(0, |found| found.replicated.segment() + 1));
        let segments = Segments::new(
            journal_directory,
            Arc::clone(&disk),
            Arc::clone(&space),
            open_files,
            map,
            numbers,
            next_number,
        );
        let segments = Arc::new(segments);
        let bodies = Arc::new(Bodies::new(Arc::clone(&segments), Arc::clone(&space)));
        let payloads = Payloads::default();
        let recovery = Recovery::new(&segments, &space, &catalog, &bodies, &payloads, fingerprint_mask);
        let recovery = recovery.from(noted.from).telling(opened).reporting(report.clone());
        let (index, outcome) = recovery.run(lock.rebooted)?;
        if !is_read {
            lock.set_recovered()?;
        }

        let (sealing, to_seal) = unbounded();
        let (tasks, to_do) = bounded(1);
        let node = random_u64();
        let end = Lsn::new(next_number, 0);
        // Cursors that were stored with another prefix may be of another Redis, whose clock differs.
        let is_of_it = |found: &&Cursors| outbox.as_ref().is_none_or(|outbox| outbox.prefix == found.prefix);
        let past = cursors.as_ref().filter(is_of_it);
        let object_ttl_ms = match &outbox {
            Some(outbox) => outbox.object_ttl_ms,
            None => options.object_ttl_seconds.saturating_mul(1000),
        };
        let journal_options = JournalOptions {
            segment_bytes_max: space.segment_bytes_max(),
            clock: outcome.clock,
            past: past.map(Cursors::past).unwrap_or_default(),
            object_ttl_ms,
            is_shared: outbox.is_some(),
            node,
            end,
            syncs_each: options.durability == Durability::Disk,
        };
        let tally = Tally {
            segments: Arc::clone(&segments),
            space: Arc::clone(&space),
            bodies: Arc::clone(&bodies),
            payloads: AtomicU64::new(outcome.payloads),
            payload_bytes: AtomicU64::new(outcome.payload_bytes),
            damaged_objects: AtomicU64::new(outcome.damaged_objects + set_aside),
        };
        let changes = Arc::clone(index.changes());
        let outbox = outbox.map(|options| Outbox::new(options, cursors, end, changes));
        let continuity = outbox.as_ref().map(|outbox| Arc::clone(&outbox.continuity));
        let tier = Arc::new(LocalTier {
            journal: Journal::new(Arc::clone(&segments), journal_options, sealing),
            segments,
            room: Room::new(Arc::clone(&space), Arc::clone(index.owed()), continuity),
            space,
            bodies,
            liveness: Liveness::new(index, payloads, tally),
            readers,
            progress: Progress::default(),
            work: Work::default(),
            record_pace: Pace::default(),
            body_pace: Pace::default(),
            gate: Gate::default(),
            durability: options.durability,
            expiry: (outbox.is_none() && !is_read).then(|| Expiry::new(object_ttl_ms)),
            outbox,
            wake: tasks.clone(),
            lost: Mutex::default(),
            before_reaping: Mutex::default(),
            reaping: Mutex::default(),
        });
        if tier.expiry.is_some() {
            tier.journal.set_time_here();
        }
        if let Some(report) = &report {
            tier.journal.refuse_writes("the directory is only read");
            for (id, lsn) in &outcome.orphans {
                report.note_repair(format!(
                    "object {id}: its older record at {lsn} is dropped, as what superseded it is lost"
                ));
            }
        } else {
            tier.adopt_spares(spares);
            tier.bury(&outcome.orphans);
        }
        if let Some(outbox) = &tier.outbox {
            tier.restore_tombstones(outbox.ledger.replicated(), |segment| {
                recovery::hints(&tier.segments, &catalog, segment, tier.index().fingerprints())
            })?;
        }
        catalog.slim();
        let parts = SealerParts { catalog, missing: outcome.missing, foreign, tasks: to_do, sealing: to_seal };
        Ok(RecoveredTier { tier, parts, tasks, lock })
    }
}

impl LocalBackend {
    /// Opens the directory, and makes it where it does not exist.
    pub fn open(options: &LocalOptions, under: Underlying) -> Result<Self, Error> {
        Self::open_with(options, under, None)
    }

    /// Reads the directory, and changes nothing in it: every write is refused. Others may read it as well, and nobody can open it meanwhile. What
    /// an open would change is noted in the report.
    pub fn read(directory: &Path, report: Arc<Report>) -> Result<Self, Error> {
        let options = LocalOptions { path: directory.to_path_buf(), ..LocalOptions::default() };
        let under = Underlying { disk: Arc::new(ReadOnlyDisk), report: Some(report), ..Underlying::default() };
        let RecoveredTier { tier, lock, .. } = RecoveredTier::open(&options, under, None)?;
        Ok(LocalBackend {
            tier,
            directory: directory.to_path_buf(),
            generation: fork::generation(),
            running: Mutex::new(None),
            counters_room: OnceLock::new(),
            shared_lock: Mutex::new(Some(lock)),
        })
    }

    /// As `open`, for a store whose objects are shared with other nodes through the outbox.
    pub fn open_with(options: &LocalOptions, under: Underlying, outbox: Option<OutboxOptions>) -> Result<Self, Error> {
        let directory = options.directory()?;
        let RecoveredTier { tier, parts, tasks, lock } = RecoveredTier::open(options, under, outbox)?;
        let counters_bytes =
            Counters::bytes_in(&directory).map_err(Error::io("look at the counters in", &directory))?;
        let counters_room =
            if counters_bytes > 0 { tier.space.lease_existing(counters_bytes).into() } else { OnceLock::new() };
        let sealer = Sealer::new(Arc::clone(&tier), parts)
            .spawn()
            .map_err(Error::io("start the sealer thread of", &directory))?;
        let (stop_reaper, stopped) = bounded(0);
        let reaper = match reaper::spawn(Arc::clone(&tier), stopped) {
            Ok(reaper) => reaper,
            Err(error) => {
                // The channel has room for one message, and nobody else sends before the store is open.
                let _ = tasks.send(Task::Stop);
                let _ = sealer.join();
                return Err(Error::io("start the reaper thread of", &directory)(error));
            }
        };
        let running = Mutex::new(Some(Running { sealer, tasks, reaper, stop_reaper, lock }));
        let shared_lock = Mutex::default();
        Ok(LocalBackend { tier, directory, generation: fork::generation(), running, counters_room, shared_lock })
    }

    /// The tier; `Forked` in a child of the process that opened it.
    #[inline]
    pub fn tier(&self) -> Result<&Arc<LocalTier>, Error> {
        if self.generation == fork::generation() { Ok(&self.tier) } else { Err(Error::Forked) }
    }
}

/// The counters of a directory whose lock this process holds, and their file.
pub(crate) fn open_counters(directory: &Path) -> Result<(Counters, File), Error> {
    Counters::open(directory).map_err(Error::io("open the counters in", directory))
}

/// What the keeper of the directory needs in order to serve attached processes.
impl LocalBackend {
    /// The place, in a body segment that other processes can map, of bytes that this store has handed out; None where they are a copy.
    pub fn placed(&self, data: &Bytes) -> Result<Option<Placed>, Error> {
        self.tier()?.placed(data)
    }

    /// Registers a callback that is called before each reaping, to drop what attached processes have given back.
    pub fn before_reaping(&self, release: Release) {
        self.tier.before_reaping.lock().push(release);
    }

    /// Reserves a stretch of a body segment, for an object whose body an attached process writes itself.
    pub fn reserve(&self, id: &[u8], data_bytes: u64, metadata_bytes: u32) -> Result<Reserved, Error> {
        self.tier()?.reserve(id, data_bytes, metadata_bytes)
    }

    /// Counts the file of an attached process against the limit until the returned guard is dropped, even beyond the limit: without that file
    /// the process could free nothing.
    pub fn count_file(&self, bytes: u64) -> Arc<Lease> {
        self.tier.space.lease_existing(bytes)
    }

    /// The counters of an open store that had no room for them before, and their file.
    pub fn make_counters(&self) -> Result<(Counters, File), Error> {
        // Once the store is closed, they are another process's to make.
        let _inside = self.tier()?.gate.enter()?;
        open_counters(&self.directory)
    }

    /// From now on every change of an object raises its counter. Returns the fingerprint function, which picks an id's counter.
    pub fn share_changes(&self, counters: Counters) -> Fingerprints {
        self.counters_room.get_or_init(|| self.count_file(Counters::BYTES));
        self.tier.index().changes().share(counters);
        self.tier.index().fingerprints()
    }

    /// The epoch and an id's counter. The answer to a lookup that begins after this call may be remembered with them, if `may_remember`,
    /// asked after the lookup, allows it.
    pub fn changes_now(&self, id: &[u8]) -> Option<(u64, u64)> {
        let index = self.tier.index();
        index.changes().now(index.fingerprint(id))
    }

    /// Whether attached processes may remember what they are told now of an object.
    pub fn may_remember(&self, id: &[u8]) -> bool {
        self.tier.may_remember(id)
    }

    /// Shows attached processes that this one is alive.
    pub fn beat(&self) {
        self.tier.index().changes().beat();
    }
}

impl Backend for LocalBackend {
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        let tier = self.tier()?;
        let _inside = tier.gate.enter()?;
        tier.put(id, data, metadata, stored)
    }

    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        Ok(Box::new(LocalWriter::new(Arc::clone(self.tier()?), id, data_bytes, metadata)?))
    }

    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.tier()?.get(id)
    }

    fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        self.tier()?.contains(id)
    }

    fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        let tier = self.tier()?;
        let _inside = tier.gate.enter()?;
        tier.delete(id)
    }

    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error> {
        let tier = self.tier()?;
        let _inside = tier.gate.enter()?;
        tier.duplicate(original, new, stored)
    }

    fn list(&self, from: &ListPosition, limit: usize) -> Result<Page, Error> {
        self.tier()?.list(from, limit)
    }

    fn describe(&self, id: &[u8], verify: bool) -> Result<Option<Listed>, Error> {
        self.tier()?.describe(id, verify)
    }

    fn restore(
        &self,
        id: &[u8],
        object: &Object,
        version: Version,
        deadline_ms: u64,
        stored: OnStored<'_>,
    ) -> Result<bool, Error> {
        let tier = self.tier()?;
        let _inside = tier.gate.enter()?;
        tier.restore(id, object, &Restored { version, deadline_ms }, stored)
    }

    fn usage(&self) -> Usage {
        let LocalTier { liveness, space, .. } = &*self.tier;
        Usage {
            objects: liveness.index.object_count(),
            payloads: liveness.counts.payloads.load(Ordering::Relaxed),
            payload_bytes: liveness.counts.payload_bytes.load(Ordering::Relaxed),
            capacity_bytes: space.limit_bytes(),
            physical_bytes: space.physical_bytes(),
            damaged_objects: liveness.counts.damaged_objects.load(Ordering::Relaxed),
        }
    }

    fn add_stats(&self, stats: &mut Stats) -> Result<(), Error> {
        stats.set_usage(self.usage());
        self.tier()?.add_stats(stats);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.tier()?.flush().map(drop)
    }

    fn clear(&self) -> Result<(), Error> {
        let tier = self.tier()?;
        let _inside = tier.gate.enter()?;
        tier.clear()
    }

    fn close(&self) -> Result<(), Error> {
        let Some(running) = self.running.lock().take() else {
            if self.generation == fork::generation() {
                self.tier.gate.close();
                drop(self.shared_lock.lock().take());
            }
            return Ok(());
        };
        if self.generation != fork::generation() {
            // These are the parent's threads and locks: joining would wait for ever.
            std::mem::forget(running);
            return Err(Error::Forked);
        }
        let Running { sealer, tasks, reaper, stop_reaper, lock } = running;
        self.tier.gate.close();
        drop(stop_reaper);
        if reaper.join().is_err() {
            tracing::error!("the reaper of {} panicked; the next open frees what it left", self.directory.display());
        }
        let flushed = self.tier.flush().map(drop);
        // A sealer that panicked does not hear this; it shows below.
        let _ = tasks.send(Task::Stop);
        if sealer.join().is_err() {
            tracing::error!("the sealer of {} panicked; the next open repairs what it left", self.directory.display());
            self.tier.journal.close();
        }
        // Releases what is held for attached processes: nothing is written here any more, and the next open reads their slots.
        drop(std::mem::take(&mut *self.tier.before_reaping.lock()));
        let noted = self.tier.readers.close(&self.tier.bodies.read_segments());
        drop(lock);
        flushed.and(noted)
    }

    fn place(&self) -> String {
        self.directory.display().to_string()
    }

    fn name(&self) -> &'static str {
        "local"
    }
}
