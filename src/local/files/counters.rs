//! What tells attached processes that something they remember may have changed: a file that they and the keeper map.
//!
//! ```text
//! <directory>/counters      0  epoch       u64, of the machine's byte order, as all here: raised when trust changes at large, and by each keeper
//!                           8  heartbeat   u64  milliseconds of the monotonic clock when the keeper was last seen alive
//!                        4096  65 536 counters, u64: raised when an id changes whose fingerprint ends so
//! ```
//!
//! The file stays, whoever keeps the directory: a process that remembers what an earlier keeper said finds another epoch.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::time::{ClockId, clock_gettime};

use crate::random::random_u64;

const NAME: &str = "counters";

const COUNTERS: usize = 1 << 16;

/// Where they begin.
const COUNTERS_AT: usize = 4096;

const FILE_BYTES: usize = COUNTERS_AT + COUNTERS * size_of::<u64>();

/// A keeper that has not been seen alive for longer may have missed what others did.
const HEARTBEAT_AGE_MAX_MS: u64 = 1000;

pub(crate) struct Counters {
    map: MmapRaw,
}

impl Counters {
    /// The directory's counters, made where there are none, and their file. The caller holds the directory's lock.
    pub fn open(directory: &Path) -> io::Result<(Counters, File)> {
        let path = directory.join(NAME);
        if let Ok(file) = OpenOptions::new().read(true).write(true).open(&path)
            && file.metadata()?.len() == FILE_BYTES as u64
        {
            return Ok((Counters::map(&file)?, file));
        }
        // Under another name, so that nobody maps a part of it.
        let temporary = directory.join(format!("{NAME}.{:016x}", random_u64()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary)?;
        // Written, and not only made so long: a full disk may refuse to fill a hole.
        let made = file.write_all_at(&vec![0; FILE_BYTES], 0).and_then(|()| std::fs::rename(&temporary, &path));
        if let Err(error) = made {
            std::fs::remove_file(&temporary)?;
            return Err(error);
        }
        Ok((Counters::map(&file)?, file))
    }

    /// Maps counters that another process has opened.
    pub fn map(file: &File) -> io::Result<Counters> {
        if file.metadata()?.len() != FILE_BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not as long as a file of counters"));
        }
        Ok(Counters { map: MmapOptions::new().len(FILE_BYTES).map_raw(file)? })
    }

    fn at(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset < FILE_BYTES);
        // Sound: every caller's offset is within the map and aligned; every process uses the words as atomics only.
        unsafe { &*self.map.as_ptr().add(offset).cast::<AtomicU64>() }
    }

    fn counter(&self, fingerprint: u64) -> &AtomicU64 {
        self.at(COUNTERS_AT + (fingerprint as usize % COUNTERS) * size_of::<u64>())
    }

    /// The epoch and an id's counter, as they are: what is looked up after this and remembered with it is no newer than what they say.
    pub fn now(&self, fingerprint: u64) -> (u64, u64) {
        (self.at(0).load(Ordering::Acquire), self.counter(fingerprint).load(Ordering::Acquire))
    }

    /// Something about an id changes. To be called where nobody can look it up meanwhile.
    pub fn raise(&self, fingerprint: u64) {
        self.counter(fingerprint).fetch_add(1, Ordering::Release);
    }

    /// Nothing that is remembered may be relied on.
    pub fn raise_epoch(&self) {
        self.at(0).fetch_add(1, Ordering::Release);
    }

    /// The keeper is alive.
    pub fn beat(&self) {
        self.at(8).store(monotonic_ms(), Ordering::Release);
    }

    /// Whether the keeper was seen alive a moment ago.
    pub fn is_alive(&self) -> bool {
        // A heartbeat of another clock is never a moment ago.
        monotonic_ms().wrapping_sub(self.at(8).load(Ordering::Acquire)) <= HEARTBEAT_AGE_MAX_MS
    }
}

/// As precise as the system's tick, and no slower than a memory access.
fn monotonic_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    (now.tv_sec as u64).wrapping_mul(1000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_seen_through_every_map_and_stay() {
        let place = tempfile::tempdir().unwrap();
        let (counters, file) = Counters::open(place.path()).unwrap();
        let other = Counters::map(&file).unwrap();
        let before = other.now(7 << 16 | 3);
        counters.raise(3);
        assert_eq!(other.now(7 << 16 | 3), (before.0, before.1 + 1));
        assert_eq!(other.now(4).1, 0);
        assert!(!other.is_alive());
        counters.beat();
        assert!(other.is_alive());
        let (again, _) = Counters::open(place.path()).unwrap();
        again.raise_epoch();
        assert_eq!(other.now(3), (before.0 + 1, 1), "the same file");
    }

    #[test]
    fn a_file_of_another_length_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(NAME), b"short").unwrap();
        let (_, file) = Counters::open(place.path()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), FILE_BYTES as u64);
    }
}
