//! sled: hints, cursors, settings.

pub(crate) mod cursors;
pub(crate) mod hints;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::error::Error;
use crate::random::random_u64;
use cursors::Cursors;
use hints::{Hint, decode_chunk, encode_chunks};

/// sled's page cache. What the catalog holds is read once, at open.
const CACHE_BYTES: u64 = 4 << 20;

/// Larger batches make sled take memory out of proportion.
const BATCH_ENTRIES_MAX: usize = 100;

/// Smaller catalogs are not worth opening twice.
const SLIMMED_BYTES_MIN: u64 = 8 << 20;

/// The key of the entry that closes a segment's hints, behind all chunks.
const CLOSING: u32 = u32::MAX;

const CURSORS_KEY: &[u8] = b"replication";

const SEED_KEY: &[u8] = b"fingerprint_seed";

/// sled's tree of hints, and of settings: what is needed to open quickly, and can be rebuilt from the journal.
///
/// ```text
/// tree "hints"     segment u32 BE, number u32 BE      -> chunk of hints
///                  segment u32 BE, 0xffffffff         -> nonce, end, hint count, clock, growth, checksum of the chunks:
///                                                        8 bytes LE each
/// tree "settings"  "fingerprint_seed"                 -> u64 LE
/// tree "cursors"   "replication"                      -> cursors.rs
/// ```
pub(crate) struct Catalog {
    path: PathBuf,
    database: sled::Db,
    hints: sled::Tree,
    cursors: sled::Tree,
    seed: u64,
}

/// What the hints of one segment say of it as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    pub nonce: u64,
    pub end: u64,
    pub hint_count: u64,
    /// Greatest version clock of the segment's records.
    pub clock: u64,
    /// Objects that the segment adds, less those that it deletes: about what it makes the index grow by.
    pub growth: i64,
}

impl Catalog {
    /// Opens the catalog, or sets one that will not open aside and begins an empty one.
    pub fn open(path: &Path) -> Result<Self, Error> {
        match Self::open_existing(path) {
            Ok(catalog) => Ok(catalog),
            Err(error) => {
                let aside = aside(path);
                tracing::warn!("{error}; set aside as {}, rebuilding it from the journal", aside.display());
                std::fs::rename(path, &aside).map_err(Error::io("rename", path))?;
                Self::open_existing(path)
            }
        }
    }

    fn open_existing(path: &Path) -> Result<Self, Error> {
        guarded(path, || {
            let database = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?;
            let hints = database.open_tree("hints")?;
            let settings = database.open_tree("settings")?;
            let cursors = database.open_tree("cursors")?;
            let seed = match settings.get(SEED_KEY)?.as_deref().and_then(|value| value.first_chunk()) {
                Some(seed) => u64::from_le_bytes(*seed),
                None => {
                    let seed = random_u64();
                    hints.clear()?; // fingerprints made with another seed
                    settings.insert(SEED_KEY, &seed.to_le_bytes())?;
                    seed
                }
            };
            Ok(Catalog { path: path.to_path_buf(), database, hints, cursors, seed })
        })
    }

    /// Gives back the memory that reading took: sled keeps what it has read, whatever its cache is told to be.
    pub fn slimmed(self) -> Result<Self, Error> {
        if self.bytes() < SLIMMED_BYTES_MIN {
            return Ok(self);
        }
        let path = self.path.clone();
        drop(self);
        // Sound: it only returns free memory of the allocator to the system.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        unsafe {
            libc::malloc_trim(0);
        }
        Self::open_existing(&path)
    }

    /// What fingerprints are made with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Stores the hints of a sealed segment, all or, as far as `load` can tell, none.
    pub fn store(&self, segment: u32, nonce: u64, end: u64, clock: u64, hints: &[Hint]) -> Result<(), Error> {
        guarded(&self.path, || {
            let chunks = encode_chunks(hints);
            for (batch_number, batch_chunks) in chunks.chunks(BATCH_ENTRIES_MAX).enumerate() {
                let mut batch = sled::Batch::default();
                for (number, chunk) in batch_chunks.iter().enumerate() {
                    batch.insert(&key(segment, (batch_number * BATCH_ENTRIES_MAX + number) as u32), chunk.as_slice());
                }
                self.hints.apply_batch(batch)?;
            }
            let growth = hints.iter().map(Hint::growth).sum();
            let closing = Closing { nonce, end, hint_count: hints.len() as u64, clock, growth };
            let value = closing.encode(checksum(chunks.iter().map(Vec::as_slice)));
            self.hints.insert(key(segment, CLOSING), value)?;
            Ok(())
        })
    }

    /// The hints of a segment; None where there are none, or they are not whole.
    pub fn load(&self, segment: u32) -> Result<Option<(Closing, Vec<Hint>)>, Error> {
        guarded(&self.path, || {
            let mut hasher = Xxh3::new();
            let mut hints = Vec::new();
            for entry in self.hints.scan_prefix(segment.to_be_bytes()) {
                let (key, value) = entry?;
                if key.ends_with(&CLOSING.to_be_bytes()) {
                    let closing = Closing::decode(&value, hasher.digest());
                    return Ok(closing
                        .filter(|closing| closing.hint_count == hints.len() as u64)
                        .map(|it| (it, hints)));
                }
                hasher.update(&value);
                if decode_chunk(&value, &mut hints).is_none() {
                    return Ok(None);
                }
            }
            Ok(None)
        })
    }

    /// The segments of which there are hints, whole or not, in ascending order.
    pub fn segments(&self) -> Result<Vec<u32>, Error> {
        guarded(&self.path, || {
            let mut segments = Vec::new();
            let mut next = Some(0u32);
            while let Some(from) = next {
                let Some((key, _)) = self.hints.range(from.to_be_bytes()..).next().transpose()? else { break };
                let Some(segment) = key.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else { break };
                segments.push(segment);
                next = segment.checked_add(1);
            }
            Ok(segments)
        })
    }

    /// About how many objects there are: for making room for them, nothing else.
    pub fn object_count_estimate(&self, segments: &[u32]) -> Result<u64, Error> {
        guarded(&self.path, || {
            let mut objects = 0i64;
            for segment in segments {
                let value = self.hints.get(key(*segment, CLOSING))?;
                let growth = value.as_deref().and_then(Closing::decode_growth).unwrap_or(0);
                objects = objects.saturating_add(growth);
            }
            Ok(objects.max(0) as u64)
        })
    }

    pub fn remove(&self, segment: u32) -> Result<(), Error> {
        guarded(&self.path, || {
            // The closing entry goes first: without it the rest counts as nothing.
            self.hints.remove(key(segment, CLOSING))?;
            let keys: Vec<_> = self.hints.scan_prefix(segment.to_be_bytes()).keys().collect::<Result<_, _>>()?;
            for keys in keys.chunks(BATCH_ENTRIES_MAX) {
                let mut batch = sled::Batch::default();
                keys.iter().for_each(|key| batch.remove(key));
                self.hints.apply_batch(batch)?;
            }
            Ok(())
        })
    }

    /// How far replication has come; None where it is not known.
    pub fn cursors(&self) -> Result<Option<Cursors>, Error> {
        guarded(&self.path, || Ok(self.cursors.get(CURSORS_KEY)?.as_deref().and_then(Cursors::decode)))
    }

    /// Notes how far replication has come; None where nothing that was noted holds any more.
    pub fn store_cursors(&self, cursors: Option<&Cursors>) -> Result<(), Error> {
        guarded(&self.path, || {
            match cursors {
                Some(cursors) => self.cursors.insert(CURSORS_KEY, cursors.encode())?,
                None => self.cursors.remove(CURSORS_KEY)?,
            };
            Ok(())
        })
    }

    /// Makes the catalog durable.
    pub fn flush(&self) -> Result<(), Error> {
        guarded(&self.path, || {
            self.database.flush()?;
            // sled's own flush only starts the writing of what is in the page cache.
            let file = self.path.join("db");
            File::open(&file).and_then(|file| file.sync_data()).map_err(sled::Error::Io)
        })
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        guarded(&self.path, || self.database.size_on_disk()).unwrap_or(0)
    }
}

impl Closing {
    fn encode(&self, checksum: u64) -> Vec<u8> {
        [self.nonce, self.end, self.hint_count, self.clock, self.growth as u64, checksum]
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect()
    }

    fn decode_growth(value: &[u8]) -> Option<i64> {
        value.get(32..)?.first_chunk().map(|bytes| i64::from_le_bytes(*bytes))
    }

    fn decode(value: &[u8], checksum: u64) -> Option<Closing> {
        let field = |index: usize| Some(u64::from_le_bytes(*value.get(index * 8..)?.first_chunk()?));
        (field(5)? == checksum).then_some(())?;
        let growth = field(4)? as i64;
        Some(Closing { nonce: field(0)?, end: field(1)?, hint_count: field(2)?, clock: field(3)?, growth })
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

/// sled panics on some kinds of damage: that is an error like any other here.
fn guarded<T>(path: &Path, call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, Error> {
    let failed = |reason| Error::Catalog { path: path.to_path_buf(), reason };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed("sled panicked".to_owned())),
    }
}

/// A name for a catalog that will not open, not taken yet.
fn aside(path: &Path) -> PathBuf {
    let name = |number: u32| path.with_extension(format!("damaged-{number}"));
    (1..).map(name).find(|candidate| !candidate.exists()).unwrap_or_else(|| name(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::journal::{BodyPlace, Flags, Kind, Lsn};

    fn hints(count: u32) -> Vec<Hint> {
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
        let catalog = Catalog::open(&directory.path().join("catalog")).unwrap();
        catalog.store(7, 11, 5000, 99, &hints(50_000)).unwrap();
        catalog.store(9, 12, 64, 0, &[]).unwrap();
        assert_eq!(catalog.segments().unwrap(), [7, 9]);
        let (closing, loaded) = catalog.load(7).unwrap().unwrap();
        assert_eq!(closing, Closing { nonce: 11, end: 5000, hint_count: 50_000, clock: 99, growth: 50_000 });
        assert_eq!(loaded, hints(50_000));
        assert_eq!(catalog.load(9).unwrap().unwrap().1, []);
        assert!(catalog.load(8).unwrap().is_none());

        catalog.hints.remove(key(7, 3)).unwrap();
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
        let catalog = Catalog::open(&path).unwrap();
        assert!(catalog.segments().unwrap().is_empty());
        assert!(directory.path().join("catalog.damaged-1").exists());
    }
}
