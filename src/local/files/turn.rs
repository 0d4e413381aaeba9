//! Who opens a directory next: the queue for its lock.
//!
//! ```text
//! <directory>/starting   locked (`flock`) by who is about to open the directory, until it has
//! ```
//!
//! Who keeps the directory for others holds the turn until it listens, so that processes which wait behind it find it listening.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
    /// Of the process that took it.
    generation: u64,
}

impl Turn {
    /// Takes it if nobody has it.
    pub fn try_take(directory: &Path) -> Result<Option<Turn>, Error> {
        let path = directory.join("starting");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(Error::io("open", &path))?;
        // A child that is forked meanwhile must not have it.
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

    /// Waits for it; None where the time is over.
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

    /// A copy for a child that becomes the keeper. Whoever has one has the turn: `hand_on` is to be called once the child has it.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.as_fd().try_clone_to_owned()
    }

    /// A child has a copy, and keeps the turn with it.
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
            // Also where a child that was forked by chance has a copy: otherwise it would go with the last descriptor.
            let _ = flock(&file, FlockOperation::Unlock);
            fork::keep_in_child(file.as_raw_fd());
        } else {
            // A forked child: the handler has closed the descriptor, and its number may be another file's by now.
            std::mem::forget(file);
        }
    }
}
