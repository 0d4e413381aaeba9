//! One directory, one process: the directory lock.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Error;
use crate::fork;

const RETRY: Duration = Duration::from_millis(50);

/// Holds a directory for this process. The lock goes with the process, however it ends.
pub(crate) struct DirectoryLock {
    file: Option<File>,
    generation: u64,
    /// Identifies this computer's current start.
    boot: String,
    /// It started since the store was last recovered: what was not synced may be lost.
    pub rebooted: bool,
}

impl DirectoryLock {
    /// Waits up to `patience` for the lock.
    pub fn acquire(directory: &Path, patience: Duration) -> Result<Self, Error> {
        let path = directory.join("LOCK");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        // From here on: a child that is forked while the lock is waited for would share it.
        fork::close_in_child(file.as_raw_fd());
        match lock(&mut file, directory, &path, patience) {
            Ok((boot, rebooted)) => {
                Ok(DirectoryLock { file: Some(file), generation: fork::generation(), boot, rebooted })
            }
            Err(error) => {
                fork::keep_in_child(file.as_raw_fd());
                Err(error)
            }
        }
    }

    /// Notes that the store is recovered from whatever ended the computer's earlier start. Not before: an open may be killed, too.
    pub fn set_recovered(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        write(file, &self.boot)
    }
}

/// Waits for the lock and takes it. Identifies the computer's current start, and says whether the store was last recovered in another.
fn lock(file: &mut File, directory: &Path, path: &Path, patience: Duration) -> Result<(String, bool), Error> {
    let deadline = Instant::now() + patience;
    loop {
        match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => sleep(RETRY),
            Err(Errno::WOULDBLOCK) => {
                let holder = read(file).lines().next().unwrap_or("unknown").to_owned();
                return Err(Error::Locked { path: directory.to_path_buf(), holder });
            }
            Err(error) => return Err(Error::io("lock", path)(error.into())),
        }
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let recovered = read(file).lines().nth(1).unwrap_or_default().to_owned();
    write(file, &recovered).map_err(Error::io("write", path))?;
    let rebooted = recovered != boot;
    Ok((boot, rebooted))
}

fn read(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(1024).read_to_string(&mut text));
    if read.is_err() { String::new() } else { text }
}

/// Writes who holds the lock, and in which start of the computer the store was last recovered.
fn write(file: &mut File, recovered: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{}\n{recovered}\n", std::process::id()).as_bytes())
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
