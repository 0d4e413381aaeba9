use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::bodies::Bodies;
use super::catalog::Catalog;
use super::files::lock::DirectoryLock;
use super::files::space::Space;
use super::index::payloads::Payloads;
use super::journal::{Journal, JournalOptions, Lsn, Segments};
use super::opening::directory;
use super::opening::recovery::Recovery;
use super::options::LocalOptions;
use super::sharing::outbox::{Outbox, OutboxOptions};
use super::tier::{self, LocalTier, Totals};
use super::upkeep::sealer::{Sealer, Task};
use super::write::LocalWriter;
use super::{MAX_SIZE_MB_MIN, Underlying};
use crate::error::Error;
use crate::fork;
use crate::object::Object;
use crate::random::random_u64;
use crate::store::{Backend, OnStored, Usage, Writer};

/// A segment is this part of the limit, so that those kept in reserve are a small part of it, ...
const SEGMENTS_PER_LIMIT: u64 = 64;

/// ... and not larger than this, so that copying the live part of one stays a short task.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

const SEGMENT_BYTES_MIN: u64 = 256 << 10;

pub(crate) struct LocalBackend {
    tier: Arc<LocalTier>,
    directory: PathBuf,
    generation: u64,
    running: Mutex<Option<Running>>,
}

/// What ends when the store is closed.
struct Running {
    sealer: JoinHandle<()>,
    tasks: Sender<Task>,
    lock: DirectoryLock,
}

impl LocalBackend {
    /// Opens the directory, and makes it where it does not exist.
    pub fn open(options: &LocalOptions, under: Underlying) -> Result<Self, Error> {
        Self::open_with(options, under, None)
    }

    /// The same, for objects that are shared with other nodes.
    pub fn open_with(options: &LocalOptions, under: Underlying, outbox: Option<OutboxOptions>) -> Result<Self, Error> {
        let Underlying { disk, fingerprint_mask } = under;
        let directory = options.directory();
        let journal_directory = directory.join("journal");
        directory::check_format(&directory)?;
        std::fs::create_dir_all(&journal_directory).map_err(Error::io("make", &journal_directory))?;
        let mut lock = DirectoryLock::acquire(&directory, Duration::from_millis(options.lock_wait_ms))?;
        directory::write_format(&directory)?;
        directory::check_mapping(&journal_directory)?;

        let catalog = Catalog::open(&directory.join("catalog"))?;
        let found = directory::list(&journal_directory, &catalog, &disk)?;
        let limit_bytes = directory::limit_bytes(options.max_size_mb, &directory, found.bytes)?;
        let share = outbox.as_ref().map_or(1, |outbox| u64::from(outbox.slots.max(1)));
        let space = Space::new((limit_bytes / share).max(MAX_SIZE_MB_MIN << 20));
        let segment_bytes_max = segment_bytes_max(space.limit_bytes());
        let set_aside = found.damaged;
        let (map, next_number) = found.into_segments(&space, &disk);
        let cursors = catalog.cursors()?;
        let next_number = next_number.max(cursors.as_ref().map_or(0, |found| found.replicated.segment() + 1));
        let segments = Arc::new(Segments::new(journal_directory, disk, Arc::clone(&space), map, next_number));
        let bodies = Arc::new(Bodies::new(Arc::clone(&segments), Arc::clone(&space), segment_bytes_max));
        let payloads = Payloads::default();
        let recovery = Recovery::new(&segments, &space, &catalog, &bodies, &payloads, fingerprint_mask);
        let (index, outcome) = recovery.run(lock.rebooted)?;
        lock.set_recovered().map_err(Error::io("note the recovery in the lock file of", &directory))?;
        let catalog = catalog.slimmed()?;

        let (sealing, to_seal) = unbounded();
        let (tasks, to_do) = bounded(1);
        let node = random_u64();
        let end = Lsn::new(next_number, 0);
        let journal_options = JournalOptions { segment_bytes_max, clock: outcome.clock, node, end };
        let tier = Arc::new(LocalTier {
            journal: Journal::new(Arc::clone(&segments), journal_options, sealing),
            segments,
            space,
            bodies,
            index,
            payloads,
            totals: Totals::new(outcome.payloads, outcome.payload_bytes, outcome.damaged_objects + set_aside),
            progress: tier::Progress::default(),
            durability: options.durability,
            outbox: outbox.map(|options| Outbox::new(options, cursors, end)),
            wake: tasks.clone(),
        });
        tier.bury(&outcome.orphans)?;
        if let Some(outbox) = &tier.outbox {
            tier.restore_tombstones(outbox.dirty_from())?;
        }
        let sealer = Sealer::spawn(Arc::clone(&tier), catalog, outcome.missing, to_do, to_seal)
            .map_err(Error::io("start the sealer thread of", &directory))?;
        let running = Mutex::new(Some(Running { sealer, tasks, lock }));
        Ok(LocalBackend { tier, directory, generation: fork::generation(), running })
    }

    /// The tier, where this process is the one that opened it.
    #[inline]
    pub fn tier(&self) -> Result<&Arc<LocalTier>, Error> {
        if self.generation == fork::generation() { Ok(&self.tier) } else { Err(Error::Forked) }
    }
}

impl Backend for LocalBackend {
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        self.tier()?.put(id, data, metadata, stored)
    }

    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        self.tier()?;
        Ok(Box::new(LocalWriter::new(Arc::clone(&self.tier), id, data_bytes, metadata)?))
    }

    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.tier()?.get(id)
    }

    fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        self.tier()?.contains(id)
    }

    fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        self.tier()?.delete(id)
    }

    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error> {
        self.tier()?.duplicate(original, new, stored)
    }

    fn usage(&self) -> Usage {
        let LocalTier { index, totals, space, .. } = &*self.tier;
        Usage {
            objects: index.object_count(),
            payloads: totals.payloads.load(Ordering::Relaxed),
            payload_bytes: totals.payload_bytes.load(Ordering::Relaxed),
            capacity_bytes: space.limit_bytes(),
            physical_bytes: space.physical_bytes(),
            damaged_objects: totals.damaged_objects.load(Ordering::Relaxed),
        }
    }

    fn flush(&self) -> Result<(), Error> {
        self.tier()?.flush().map(drop)
    }

    fn clear(&self) -> Result<(), Error> {
        self.tier()?.clear()
    }

    fn close(&self) -> Result<(), Error> {
        let Some(Running { sealer, tasks, lock }) = self.running.lock().take() else { return Ok(()) };
        if self.generation != fork::generation() {
            // The parent's thread and locks: they mean nothing here, and joining would wait for ever.
            std::mem::forget((sealer, tasks, lock));
            return Err(Error::Forked);
        }
        let flushed = self.tier.flush().map(drop);
        self.tier.journal.close();
        // A sealer that panicked does not hear this; it shows below.
        let _ = tasks.send(Task::Stop);
        if sealer.join().is_err() {
            tracing::error!("the sealer of {} panicked; the next open repairs what it left", self.directory.display());
        }
        drop(lock);
        flushed
    }

    fn place(&self) -> String {
        self.directory.display().to_string()
    }

    fn name(&self) -> &'static str {
        "local"
    }
}

/// The largest segment for a store with this limit.
fn segment_bytes_max(limit_bytes: u64) -> u64 {
    let part = (limit_bytes / SEGMENTS_PER_LIMIT).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    1 << part.ilog2()
}
