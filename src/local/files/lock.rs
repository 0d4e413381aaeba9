//! One directory, one process: the directory lock. Its file also tells whether the computer was started anew, and proves that the file
//! system shows writes through maps.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::mapping::Mapping;
use super::space::Space;
use crate::error::Error;
use crate::fork;

const RETRY: Duration = Duration::from_millis(50);

/// Nobody has to be told why something takes less time than this.
const TOLD_MIN: Duration = Duration::from_millis(500);

/// The file's length. It is written in place and never cut, so that a full disk does not refuse it.
const TEXT_BYTES: usize = 128;

/// Holds a directory for this process. The lock goes with the process, however it ends.
pub(crate) struct DirectoryLock {
    file: Option<File>,
    path: PathBuf,
    generation: u64,
    /// Identifies this computer's current start.
    boot: String,
    /// The computer was started anew since the store was last recovered: what was not synced may be lost.
    pub rebooted: bool,
}

impl DirectoryLock {
    /// Waits up to `patience` for the lock.
    pub fn acquire(directory: &Path, patience: Duration) -> Result<Self, Error> {
        let path = directory.join("LOCK");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        // Before the lock is taken: a child that is forked while waiting for the lock would share it.
        fork::close_in_child(file.as_raw_fd());
        match lock(&file, directory, &path, patience) {
            Ok((boot, rebooted)) => {
                Ok(DirectoryLock { file: Some(file), path, generation: fork::generation(), boot, rebooted })
            }
            Err(error) => {
                fork::keep_in_child(file.as_raw_fd());
                Err(error)
            }
        }
    }

    /// Shares the directory with others that only read it, and keeps everybody from opening it meanwhile. Writes nothing.
    pub fn share(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("LOCK");
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Config(format!("{}: there is no store in it", directory.display())),
            _ => Error::io("open", &path)(error),
        })?;
        fork::close_in_child(file.as_raw_fd());
        let shared = loop {
            match flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => break Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    break Err(Error::Locked { path: directory.to_path_buf(), holder: holder(&file) });
                }
                Err(error) => break Err(Error::io("lock", &path)(error.into())),
            }
        };
        let found = shared.and_then(|()| {
            let recovered = recovered_in(&file).map_err(Error::io("read", &path))?;
            let boot = boot_id();
            Ok((recovered != boot || boot.is_empty(), boot))
        });
        match found {
            Ok((rebooted, boot)) => {
                Ok(DirectoryLock { file: Some(file), path, generation: fork::generation(), boot, rebooted })
            }
            Err(error) => {
                fork::keep_in_child(file.as_raw_fd());
                Err(error)
            }
        }
    }

    /// Notes that the store was recovered in the computer's current start. To be called only after recovery, which may be killed itself.
    pub fn set_recovered(&mut self) -> Result<(), Error> {
        let Some(file) = &self.file else { return Ok(()) };
        write(file, &self.boot).map_err(Error::io("write", &self.path))
    }

    /// Refuses a file system on which a write does not show through a map (some network file systems). Uses the lock file, whose blocks are
    /// allocated: a full disk may refuse to fill a hole that is written through a map.
    pub fn check_mapping(&self) -> Result<(), Error> {
        let Some(file) = &self.file else { return Ok(()) };
        let failed = |action| Error::io(action, &self.path);
        let before = read(file).map_err(failed("read"))?;
        let mapping =
            Mapping::new(file, TEXT_BYTES as u64, Space::new(u64::MAX).lease_existing(0)).map_err(failed("map"))?;
        let shows = |bytes: &[u8]| mapping.slice(0, TEXT_BYTES as u64) == Some(bytes);
        let showed_before = shows(&before);
        let mut probe = before;
        if let Some(last) = probe.last_mut() {
            *last = b' ';
        }
        file.write_all_at(&probe, 0).map_err(failed("write"))?;
        let showed_probe = shows(&probe);
        file.write_all_at(&before, 0).map_err(failed("write"))?;
        if showed_before && showed_probe && shows(&before) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{}: what is written to a file does not show through a map of it; use a directory on a local file system",
            self.path.display()
        )))
    }
}

/// Waits for the lock and takes it. Identifies the computer's current start, and says whether the store was last recovered in another.
fn lock(file: &File, directory: &Path, path: &Path, patience: Duration) -> Result<(String, bool), Error> {
    let deadline = Instant::now() + patience;
    let mut is_told = false;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            // Nobody else will close a store that this process has open.
            Err(Errno::WOULDBLOCK) if !is_told && is_own(file) => {
                let holder = format!("{} (this one)", std::process::id());
                return Err(Error::Locked { path: directory.to_path_buf(), holder });
            }
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                if !std::mem::replace(&mut is_told, true) && patience >= TOLD_MIN {
                    tracing::info!(
                        "{} is in use by process {}: waiting up to {:.1} s for its end (local.lock_wait_ms)",
                        directory.display(),
                        holder(file),
                        patience.as_secs_f64()
                    );
                }
                sleep(RETRY);
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Locked { path: directory.to_path_buf(), holder: holder(file) });
            }
            Err(error) => return Err(Error::io("lock", path)(error.into())),
        }
    }
    let boot = boot_id();
    let recovered = recovered_in(file).map_err(Error::io("read", path))?;
    write(file, &recovered).map_err(Error::io("write", path))?;
    let rebooted = recovered != boot || boot.is_empty();
    Ok((boot, rebooted))
}

/// The process id that stands in the file, for people: the holder may be writing these bytes at this moment.
fn holder(file: &File) -> String {
    let holder = text(file).ok().and_then(|text| Some(text.lines().next()?.trim().to_owned()));
    holder.filter(|holder| !holder.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Identifies this computer's current start. If it cannot be read, every open takes the computer for started anew, which only makes it check more.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// In which start of the computer the store was last recovered.
fn recovered_in(file: &File) -> io::Result<String> {
    Ok(text(file)?.lines().nth(1).unwrap_or_default().trim().to_owned())
}

/// Whether this process holds the lock, by the kernel's table of locks; false where that cannot be told.
fn is_own(file: &File) -> bool {
    let Ok(found) = file.metadata() else { return false };
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", found.ino());
    let own = std::process::id().to_string();
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default(); // without it nothing is known
    // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`
    locks.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some("FLOCK") && words.nth(2) == Some(own.as_str()) && words.next() == Some(place.as_str())
    })
}

/// The file's bytes, filled up with zeros to the length that it has once it is written.
fn read(file: &File) -> io::Result<[u8; TEXT_BYTES]> {
    let mut bytes = [0; TEXT_BYTES];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn text(file: &File) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read(file)?).trim_end_matches(['\0', '\n']).to_owned())
}

/// Writes who holds the lock, and in which start of the computer the store was last recovered.
fn write(file: &File, recovered: &str) -> io::Result<()> {
    let mut bytes = format!("{}\n{recovered}\n", std::process::id()).into_bytes();
    bytes.resize(TEXT_BYTES, b'\n');
    file.write_all_at(&bytes, 0)
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if self.generation == fork::generation() {
            // A child that is forked between this and the close keeps the descriptor, but not the lock.
            let _ = flock(&file, FlockOperation::Unlock);
            fork::keep_in_child(file.as_raw_fd());
        } else {
            // A forked child: the handler has closed the descriptor, and its number may be another file's by now.
            std::mem::forget(file);
        }
    }
}
