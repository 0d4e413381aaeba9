//! Change counters, in a file that the keeper and attached processes map: they tell an attached process that what it remembers may be stale.
//!
//! ```text
//! <directory>/counters      0  epoch       u64, in the machine's byte order, as all here: raised by each keeper, and when anything may be stale
//!                           8  heartbeat   u64  milliseconds of the monotonic clock when the keeper was last seen alive
//!                        4096  65 536 counters, u64, by the low bits of the fingerprint: raised when one of their ids changes
//! ```
//!
//! The file outlives keepers: a process that remembers what an earlier keeper said finds a different epoch.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::time::{ClockId, clock_gettime};

use crate::random::random_u64;

const NAME: &str = "counters";

const COUNTERS: usize = 1 << 16;

/// Offset of the first counter.
const COUNTERS_AT: usize = 4096;

const FILE_BYTES: usize = COUNTERS_AT + COUNTERS * size_of::<u64>();

/// A keeper without a heartbeat for longer than this counts as dead: its counters may miss changes.
const HEARTBEAT_AGE_MAX_MS: u64 = 1000;

/// The mapped file of change counters.
pub(crate) struct Counters {
    map: MmapRaw,
}

impl Counters {
    /// Bytes that the file takes on disk.
    pub const BYTES: u64 = FILE_BYTES as u64;

    /// The directory's counters, made where there are none, and their file. The caller holds the directory's lock.
    pub fn open(directory: &Path) -> io::Result<(Counters, File)> {
        let path = directory.join(NAME);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) if file.metadata()?.len() == FILE_BYTES as u64 => return Ok((Counters::map(&file)?, file)),
            // Of another length it is nobody's: no process maps it.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Made anew it would leave processes with counters that nobody raises.
            Err(error) => return Err(error),
        }
        // Made under another name and then renamed, so that nobody maps a part of it.
        let temporary = directory.join(format!("{NAME}.{:016x}", random_u64()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
        // Zeros are written instead of only setting the length: a full disk may refuse to fill a hole.
        let made = file.write_all_at(&vec![0; FILE_BYTES], 0).and_then(|()| std::fs::rename(&temporary, &path));
        if let Err(error) = made {
            std::fs::remove_file(&temporary)?;
            return Err(error);
        }
        Ok((Counters::map(&file)?, file))
    }

    /// Bytes that the directory's counters file takes on disk; 0 if there is none.
    pub fn bytes_in(directory: &Path) -> io::Result<u64> {
        match std::fs::metadata(directory.join(NAME)) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Maps the counters in a file that another process has opened.
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

    /// The epoch and an id's counter. The answer to a lookup that begins after this call may be remembered with them: any later change
    /// raises one of the two.
    pub fn now(&self, fingerprint: u64) -> (u64, u64) {
        (self.at(0).load(Ordering::Acquire), self.counter(fingerprint).load(Ordering::Acquire))
    }

    /// An id changes. To be called under the lock that keeps others from looking the id up meanwhile.
    pub fn raise(&self, fingerprint: u64) {
        self.counter(fingerprint).fetch_add(1, Ordering::Release);
    }

    /// Makes everything stale that is remembered.
    pub fn raise_epoch(&self) {
        self.at(0).fetch_add(1, Ordering::Release);
    }

    /// The keeper's heartbeat.
    pub fn beat(&self) {
        self.at(8).store(monotonic_ms(), Ordering::Release);
    }

    /// Whether the last heartbeat is recent.
    pub fn is_alive(&self) -> bool {
        // A heartbeat of an earlier boot can lie ahead of this clock: the difference then wraps to a huge age.
        monotonic_ms().wrapping_sub(self.at(8).load(Ordering::Acquire)) <= HEARTBEAT_AGE_MAX_MS
    }
}

/// The coarse clock: as precise as the system's tick, and read as quickly as memory.
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
    fn a_file_that_cannot_be_opened_is_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(NAME);
        std::os::unix::fs::symlink(NAME, &path).unwrap();
        let refused = Counters::open(place.path()).map(drop).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ELOOP), "{refused}");
        assert!(path.is_symlink());
    }

    #[test]
    fn a_file_of_another_length_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(NAME), b"short").unwrap();
        let (_, file) = Counters::open(place.path()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), FILE_BYTES as u64);
    }
}
