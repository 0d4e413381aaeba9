//! The queue for a directory's lock: only the process that has the turn may try to become the keeper or open the directory.
//!
//! ```text
//! <directory>/starting   locked (`flock`) by the process that is about to open the directory, until it has
//! ```
//!
//! A keeper holds the turn until it listens, so that the processes queued behind it find it listening and attach.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Error;
use crate::fork;

const RETRY: Duration = Duration::from_millis(5);

/// The right to open the directory next, until dropped.
pub(crate) struct Turn {
    file: Option<File>,
    /// The fork generation of the process that took the turn.
    generation: u64,
}

impl Turn {
    /// Takes the turn if nobody has it.
    pub fn try_take(directory: &Path) -> Result<Option<Turn>, Error> {
        let path = directory.join("starting");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(Error::io("open", &path))?;
        // A child that is forked meanwhile must not inherit the lock.
        fork::close_in_child(file.as_raw_fd());
        let locked = loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Turn { file: Some(file), generation: fork::generation() })),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => break Ok(None),
                Err(error) => break Err(Error::io("lock", path)(error.into())),
            }
        };
        fork::keep_in_child(file.as_raw_fd());
        locked
    }

    /// Waits for the turn until `limit`; None at the time limit.
    pub fn take(directory: &Path, limit: Instant) -> Result<Option<Turn>, Error> {
        loop {
            if let Some(turn) = Turn::try_take(directory)? {
                return Ok(Some(turn));
            }
            if Instant::now() >= limit {
                return Ok(None);
            }
            std::thread::sleep(RETRY);
        }
    }

    /// A copy of the descriptor for a child that becomes the keeper. Any copy keeps the turn: call `hand_on` once the child has its own.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.as_fd().try_clone_to_owned()
    }

    /// Gives the turn to the child that has a copy: closes this descriptor without unlocking.
    pub fn hand_on(mut self) {
        if let Some(file) = self.file.take() {
            fork::keep_in_child(file.as_raw_fd());
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if self.generation == fork::generation() {
            // Unlocked explicitly: otherwise the lock would last until every forked child has closed its copy of the descriptor.
            let _ = flock(&file, FlockOperation::Unlock);
            fork::keep_in_child(file.as_raw_fd());
        } else {
            // A forked child: the handler has closed the descriptor, and its number may be another file's by now.
            std::mem::forget(file);
        }
    }
}
