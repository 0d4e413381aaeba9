//! What the program of a keeper inherits from the process that started it.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, RawFd};

use rustix::fs::{FlockOperation, flock};

/// Takes over the turn that a keeper has inherited, and leaves the process that has started it. To be called before any thread is.
///
/// # Errors
///
/// Where the descriptor is not there.
pub fn inherit_turn(descriptor: RawFd) -> io::Result<InheritedTurn> {
    // Sound: asks about a number.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // Sound: it was inherited for this, and nobody else knows of it.
    let file = unsafe { File::from_raw_fd(descriptor) };
    // Sound: there is one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(InheritedTurn { file }),
        // Sound: who waits for this process learns that the keeper is on its way.
        _ => unsafe { libc::_exit(0) },
    }
}

/// What a keeper holds until it listens.
pub struct InheritedTurn {
    file: File,
}

impl Drop for InheritedTurn {
    fn drop(&mut self) {
        unlock(&self.file);
    }
}

/// A copy of the descriptor that another child has got by chance does not keep the turn.
fn unlock(file: &File) {
    if let Err(error) = flock(file, FlockOperation::Unlock) {
        tracing::debug!("giving up the turn: {error}; it goes with the descriptor");
    }
}
