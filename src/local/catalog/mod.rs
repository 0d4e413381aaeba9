//! The catalog: a sled database with hints, cursors and settings, which opening reads instead of the journal and which can be rebuilt.

mod compaction;
pub(crate) mod cursors;
mod database;
pub(crate) mod hints;
mod size;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use crate::error::Error;
use crate::random::random_u64;
use cursors::Cursors;
use database::{Database, Unopened, guarded, open_database, replace};
use hints::{Hint, decode_chunk, encode_chunks};
use size::Size;

/// Larger batches make sled take memory out of proportion.
const BATCH_ENTRIES_MAX: usize = 100;

/// From this size on, `slim` reopens the catalog to give memory back.
const SLIMMED_BYTES_MIN: u64 = 8 << 20;

/// How often it is tried to open a catalog that failed.
const REOPEN_EVERY: Duration = Duration::from_millis(500);

/// The chunk number in the key of a segment's closing entry, which sorts behind all its chunks.
const CLOSING: u32 = u32::MAX;

const CURSORS_KEY: &[u8] = b"replication";

/// The catalog's trees in sled:
///
/// ```text
/// tree "hints"     segment u32 BE, number u32 BE      -> chunk of hints
///                  segment u32 BE, 0xffffffff         -> nonce, end, hint count, clock, growth, checksum of the chunks:
///                                                        8 bytes LE each
/// tree "settings"  "fingerprint_seed"                 -> u64 LE
/// tree "cursors"   "replication"                      -> cursors.rs
/// ```
///
/// sled returns its first error for ever, so the database is closed after an error and opened anew. Until that succeeds the store works
/// without hints: the next open walks the segments that have none.
pub(crate) struct Catalog {
    path: PathBuf,
    state: Mutex<State>,
    seed: u64,
    bytes: AtomicU64,
    /// It is never opened.
    is_none: bool,
}

struct State {
    database: Option<Database>,
    /// When it was last tried to open.
    tried: Instant,
    /// Was opened anew, and has not been compared with the journal's segments since.
    is_fresh: bool,
    size: Size,
}

/// The closing entry of a segment's hints: what is known of the segment as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentSummary {
    pub nonce: u64,
    pub end: u64,
    pub hint_count: u64,
    /// Greatest version clock of the segment's records.
    pub clock: u64,
    /// Objects that the segment adds, less those that it deletes: an estimate of how much the index grows.
    pub growth: i64,
}

impl Catalog {
    /// Opens the catalog. A damaged one is set aside and replaced by an empty one. One that cannot be opened now is tried again when it is
    /// used.
    pub fn open(path: &Path) -> Self {
        Self::clean_up(path);
        let database = match open_database(path) {
            Ok(opened) => Some(opened),
            Err(Unopened::Failed(reason)) => {
                tracing::warn!(
                    "the catalog in {} cannot be opened: {reason}; the store goes on without it, and tries again",
                    path.display()
                );
                None
            }
            Err(Unopened::Damaged(reason)) => replace(path, &reason),
        };
        let (database, seed) = match database {
            Some((database, seed)) => (Some(database), seed.unwrap_or_else(random_u64)),
            None => (None, random_u64()),
        };
        let bytes = AtomicU64::new(0);
        let state = State { database, tried: Instant::now(), is_fresh: false, size: Size::default() };
        let catalog = Catalog { path: path.to_path_buf(), state: Mutex::new(state), seed, bytes, is_none: false };
        if let Err(error) = catalog.with(|database| database.set_seed(seed)) {
            tracing::warn!("{error}; tried again later");
        }
        catalog
    }

    /// No catalog: for a directory that is only read, as sled cannot open a database without writing to it. Every segment is walked.
    pub fn none(path: &Path) -> Self {
        let state = State { database: None, tried: Instant::now(), is_fresh: false, size: Size::default() };
        let (path, bytes) = (path.to_path_buf(), AtomicU64::new(0));
        Catalog { path, state: Mutex::new(state), seed: random_u64(), bytes, is_none: true }
    }

    /// Calls sled. If the database is not open, opens it first, at most once per `REOPEN_EVERY`. After an error the database is closed.
    fn with<T>(&self, call: impl FnOnce(&Database) -> Result<T, sled::Error>) -> Result<T, Error> {
        let failed = |reason| Error::Catalog { path: self.path.clone(), reason };
        let mut state = self.state.lock();
        if state.database.is_none() {
            if self.is_none {
                return Err(failed("the directory is only read".to_owned()));
            }
            if state.tried.elapsed() < REOPEN_EVERY {
                return Err(failed("it failed, and is opened anew soon".to_owned()));
            }
            state.tried = Instant::now();
            let (database, seed) = match open_database(&self.path) {
                Ok(opened) => opened,
                Err(Unopened::Failed(reason)) => return Err(failed(reason)),
                Err(Unopened::Damaged(reason)) => replace(&self.path, &reason).ok_or_else(|| failed(reason))?,
            };
            if seed != Some(self.seed) {
                guarded(|| database.set_seed(self.seed)).map_err(failed)?;
            }
            state.database = Some(database);
            state.is_fresh = true;
            state.size.forget();
            tracing::info!("the catalog in {} is open again", self.path.display());
        }
        let Some(database) = &state.database else { return Err(failed("it is not open".to_owned())) };
        let result = guarded(|| call(database));
        if result.is_err() {
            // sled would return this error for ever.
            state.close();
        }
        result.map_err(failed)
    }

    /// Sets the store's limit, of which hints may take a share.
    pub fn set_limit(&self, bytes: u64) {
        self.state.lock().size.set_limit(bytes);
    }

    /// Whether the database was reopened since the last call: then it may lack what was stored before.
    pub fn take_fresh(&self) -> bool {
        std::mem::take(&mut self.state.lock().is_fresh)
    }

    /// Whether the database is open.
    pub fn is_open(&self) -> bool {
        self.state.lock().database.is_some()
    }

    /// Gives back the memory that reading took, by reopening: sled keeps what it has read, whatever its cache limit is.
    pub fn slim(&self) {
        if self.bytes() < SLIMMED_BYTES_MIN {
            return;
        }
        let mut state = self.state.lock();
        state.close();
        // Sound: it only returns free memory of the allocator to the system.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        unsafe {
            libc::malloc_trim(0);
        }
        match open_database(&self.path) {
            Ok((database, _)) => state.database = Some(database),
            Err(Unopened::Failed(reason) | Unopened::Damaged(reason)) => {
                tracing::warn!("the catalog in {}: {reason}; tried again later", self.path.display());
                state.tried = Instant::now();
            }
        }
    }

    /// The seed of the fingerprints.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Stores the hints of a sealed segment, atomically as far as `load` can tell. Stores none if they would exceed the hints' share.
    pub fn store(&self, segment: u32, nonce: u64, end: u64, clock: u64, hints: &[Hint]) -> Result<(), Error> {
        let chunks = encode_chunks(hints);
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        if !self.state.lock().size.admits(bytes) {
            tracing::debug!("the hints of segment {segment} would take too much room; the next open walks it");
            return Ok(());
        }
        self.with(|it| {
            for (batch_number, batch_chunks) in chunks.chunks(BATCH_ENTRIES_MAX).enumerate() {
                let mut batch = sled::Batch::default();
                for (number, chunk) in batch_chunks.iter().enumerate() {
                    batch.insert(&key(segment, (batch_number * BATCH_ENTRIES_MAX + number) as u32), chunk.as_slice());
                }
                it.hints.apply_batch(batch)?;
            }
            let growth = hints.iter().map(Hint::growth).sum();
            let closing = SegmentSummary { nonce, end, hint_count: hints.len() as u64, clock, growth };
            let value = closing.encode(checksum(chunks.iter().map(Vec::as_slice)));
            it.hints.insert(key(segment, CLOSING), value)?;
            Ok(())
        })?;
        self.state.lock().size.set(segment, bytes);
        Ok(())
    }

    /// The hints of a segment; None if there are none, or if they are incomplete.
    pub fn load(&self, segment: u32) -> Result<Option<(SegmentSummary, Vec<Hint>)>, Error> {
        let mut bytes = 0;
        let loaded = self.with(|it| {
            let mut hasher = Xxh3::new();
            let mut hints = Vec::new();
            for entry in it.hints.scan_prefix(segment.to_be_bytes()) {
                let (key, value) = entry?;
                if key.ends_with(&CLOSING.to_be_bytes()) {
                    let closing = SegmentSummary::decode(&value, hasher.digest());
                    return Ok(closing
                        .filter(|closing| closing.hint_count == hints.len() as u64)
                        .map(|it| (it, hints)));
                }
                bytes += value.len() as u64;
                hasher.update(&value);
                if decode_chunk(&value, &mut hints).is_none() {
                    return Ok(None);
                }
            }
            Ok(None)
        })?;
        self.state.lock().size.set(segment, bytes);
        Ok(loaded)
    }

    /// The segments that have hints, complete or not, in ascending order.
    pub fn segments(&self) -> Result<Vec<u32>, Error> {
        self.with(Database::segments)
    }

    /// An estimate of how many objects there are, good only for reserving memory.
    pub fn object_count_estimate(&self, segments: &[u32]) -> Result<u64, Error> {
        self.with(|it| {
            let mut objects = 0i64;
            for segment in segments {
                let value = it.hints.get(key(*segment, CLOSING))?;
                let growth = value.as_deref().and_then(SegmentSummary::decode_growth).unwrap_or(0);
                objects = objects.saturating_add(growth);
            }
            Ok(objects.max(0) as u64)
        })
    }

    pub fn remove(&self, segment: u32) -> Result<(), Error> {
        self.with(|it| {
            // The closing entry goes first: without it the rest counts as nothing.
            it.hints.remove(key(segment, CLOSING))?;
            let keys: Vec<_> = it.hints.scan_prefix(segment.to_be_bytes()).keys().collect::<Result<_, _>>()?;
            for keys in keys.chunks(BATCH_ENTRIES_MAX) {
                let mut batch = sled::Batch::default();
                keys.iter().for_each(|key| batch.remove(key));
                it.hints.apply_batch(batch)?;
            }
            Ok(())
        })?;
        self.state.lock().size.remove(segment);
        Ok(())
    }

    /// The stored cursors; None if there are none, or they are damaged.
    pub fn cursors(&self) -> Result<Option<Cursors>, Error> {
        self.with(|it| Ok(it.cursors.get(CURSORS_KEY)?.as_deref().and_then(Cursors::decode)))
    }

    /// Stores the cursors; None removes those that are stored, as they hold no longer.
    pub fn store_cursors(&self, cursors: Option<&Cursors>) -> Result<(), Error> {
        self.with(|it| {
            match cursors {
                Some(cursors) => it.cursors.insert(CURSORS_KEY, cursors.encode())?,
                None => it.cursors.remove(CURSORS_KEY)?,
            };
            Ok(())
        })
    }

    /// Makes the catalog durable.
    pub fn flush(&self) -> Result<(), Error> {
        self.with(Database::flush)
    }

    /// Bytes on disk; if sled cannot tell, the last known number.
    pub fn bytes(&self) -> u64 {
        if let Ok(bytes) = self.with(|it| it.database.size_on_disk()) {
            self.bytes.store(bytes, Ordering::Relaxed);
        }
        self.bytes.load(Ordering::Relaxed)
    }

    /// Closes the database. The next open reads from the journal what it could not write.
    pub fn close(&self) {
        self.state.lock().close();
    }
}

impl State {
    fn close(&mut self) {
        self.tried = Instant::now();
        let database = self.database.take();
        // sled's destructor panics where it cannot write.
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::debug!("sled panicked while it was closed");
        }
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.close();
    }
}

impl SegmentSummary {
    fn encode(&self, checksum: u64) -> Vec<u8> {
        [self.nonce, self.end, self.hint_count, self.clock, self.growth as u64, checksum]
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect()
    }

    fn decode_growth(value: &[u8]) -> Option<i64> {
        value.get(32..)?.first_chunk().map(|bytes| i64::from_le_bytes(*bytes))
    }

    fn decode(value: &[u8], checksum: u64) -> Option<SegmentSummary> {
        let field = |index: usize| Some(u64::from_le_bytes(*value.get(index * 8..)?.first_chunk()?));
        (field(5)? == checksum).then_some(())?;
        let growth = field(4)? as i64;
        Some(SegmentSummary { nonce: field(0)?, end: field(1)?, hint_count: field(2)?, clock: field(3)?, growth })
    }
}

fn key(segment: u32, number: u32) -> [u8; 8] {
    (u64::from(segment) << 32 | u64::from(number)).to_be_bytes()
}

fn checksum<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = Xxh3::new();
    chunks.for_each(|chunk| hasher.update(chunk));
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::journal::{BodyPlace, Flags, Kind, Lsn};

    pub fn hints(count: u32) -> Vec<Hint> {
        let hint = |n: u32| Hint {
            fingerprint: u64::from(n) << 20,
            offset: 64 + n * 104,
            record_bytes: 100,
            id_bytes: 4,
            kind: Kind::Put,
            flags: Flags::NONE,
            supersedes: Lsn::NONE,
            payload: Lsn::NONE,
            body_bytes: 0,
            body_place: BodyPlace::default(),
        };
        (0..count).map(hint).collect()
    }

    #[test]
    fn hints_come_back_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&directory.path().join("catalog"));
        catalog.store(7, 11, 5000, 99, &hints(50_000)).unwrap();
        catalog.store(9, 12, 64, 0, &[]).unwrap();
        assert_eq!(catalog.segments().unwrap(), [7, 9]);
        let (closing, loaded) = catalog.load(7).unwrap().unwrap();
        assert_eq!(closing, SegmentSummary { nonce: 11, end: 5000, hint_count: 50_000, clock: 99, growth: 50_000 });
        assert_eq!(loaded, hints(50_000));
        assert_eq!(catalog.load(9).unwrap().unwrap().1, []);
        assert!(catalog.load(8).unwrap().is_none());

        catalog.with(|it| it.hints.remove(key(7, 3))).unwrap();
        assert!(catalog.load(7).unwrap().is_none(), "a chunk is missing");
        catalog.remove(7).unwrap();
        assert_eq!(catalog.segments().unwrap(), [9]);
    }

    #[test]
    fn a_catalog_that_will_not_open_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("conf"), b"not a sled configuration").unwrap();
        std::fs::write(path.join("db"), vec![7; 100_000]).unwrap();
        let catalog = Catalog::open(&path);
        assert!(catalog.segments().unwrap().is_empty());
        assert!(directory.path().join("catalog.damaged-1").exists());
    }

    // Invariant 14.
    #[test]
    fn a_catalog_whose_lock_a_forked_child_keeps_is_copied_again_after_a_copy_was_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog");
        let catalog = Catalog::open(&path);
        catalog.store(7, 11, 5000, 99, &hints(50)).unwrap();
        catalog.flush().unwrap();
        drop(catalog);
        std::fs::write(path.join("db.copy"), b"half").unwrap();
        let held = std::fs::File::open(path.join("db")).unwrap();
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let catalog = Catalog::open(&path);
        assert!(catalog.is_open());
        assert_eq!(catalog.segments().unwrap(), [7]);
    }
}
