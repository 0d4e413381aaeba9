//! By what a keeper sees that a process has its session still: a file of slots, which is locked until then, or, where there is no room for one, a
//! pipe.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;
use crate::local::slots::{self, Slots};
use crate::local::{Lease, is_locked};

/// A session's file of slots.
pub(super) struct SlotFile {
    path: PathBuf,
    pub slots: Slots,
    /// Its share of what the directory may take.
    _room: Option<Arc<Lease>>,
}

impl SlotFile {
    /// Makes one. The other file is for the process, which must get the only copy: it has the lock.
    pub fn make(directory: &Path, room: Option<Arc<Lease>>) -> Result<(SlotFile, File), Error> {
        let sessions = directory.join(slots::DIRECTORY);
        match std::fs::create_dir(&sessions) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("make", &sessions)(error));
            }
            _ => {}
        }
        let (path, file, slots) = Slots::create(&sessions).map_err(Error::io("begin a session in", &sessions))?;
        Ok((SlotFile { path, slots, _room: room }, file))
    }

    /// Whether no process can use it any more.
    pub fn is_over(&self) -> bool {
        match is_locked(&self.path) {
            Ok(is_locked) => !is_locked,
            Err(error) => {
                tracing::debug!("{}: {error}; looked at again later", self.path.display());
                false
            }
        }
    }

    pub fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("{}: {error}; the next open removes it", self.path.display());
        }
    }
}

/// The end of a pipe whose other end a process has that got no file of slots.
pub(super) struct Lifeline(OwnedFd);

impl Lifeline {
    /// Makes one. The other end is for the process, which must get the only copy.
    pub fn make() -> io::Result<(Lifeline, OwnedFd)> {
        let (own, other) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Lifeline(own), other))
    }

    /// Whether no process has the other end any more.
    pub fn is_over(&self) -> bool {
        let mut ends = [PollFd::new(&self.0, PollFlags::IN)];
        match retry_on_intr(|| poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))) {
            Ok(_) => ends.iter().any(|end| end.revents().contains(PollFlags::HUP)),
            Err(error) => {
                tracing::debug!("looking whether a process is attached still: {error}; looked at again later");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifeline_is_over_when_nobody_has_its_other_end() {
        let (lifeline, end) = Lifeline::make().unwrap();
        let copy = end.try_clone().unwrap();
        assert!(!lifeline.is_over());
        drop(end);
        assert!(!lifeline.is_over(), "a child has it");
        // A process that writes to it does not end by that.
        rustix::io::write(&copy, b"noise").unwrap();
        assert!(!lifeline.is_over());
        drop(copy);
        assert!(lifeline.is_over());
    }
}
