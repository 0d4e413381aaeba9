//! Reader sessions: which handed-out bytes may still be read by forked children, or by whoever kept bytes of a store that was closed.
//!
//! A fork copies every handle to handed-out bytes, and nothing tells when the copies are gone. So each handle belongs to a session, whose
//! file is locked (`flock`) through a descriptor that children inherit. A fork closes the session to new handles. Its lock is gone when
//! the parent's last handle is dropped and every child has ended or has executed another program; only then is what its handles held
//! given back. ("Forks" in docs/node.md: a handle is given back only if no fork lies between.)
//!
//! ```text
//! <directory>/readers/<random>   locked while somebody may read; at close, the numbers of the body segments concerned, one a line,
//!                                behind the line "closed"; without that line (the process was killed), it may be any of them
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use super::slots::{self, Slots};
use super::space::{Lease, Space};
use crate::error::Error;
use crate::fork;
use crate::random::random_u64;

/// Most sessions that forks have ended and that may still be read from, with a descriptor each at most. With so many, a further fork gets
/// no new session: bytes are handed out as copies.
const ENDED_SESSIONS_MAX: usize = 16;

const CLOSED: &str = "closed\n";

/// What a handle holds (a stretch); dropped when nobody can read the bytes any more.
pub(crate) type Held = Box<dyn Send + Sync>;

/// The handles that were handed out between two forks.
pub(crate) struct Session {
    /// `fork::count` when they were handed out.
    count: u64,
    path: PathBuf,
    /// The locked descriptor. Children have copies of it.
    file: Mutex<Option<File>>,
    /// What handles held that were dropped in this process, while children may still read the bytes.
    withheld: Mutex<Vec<Held>>,
}

/// A directory's sessions.
pub(crate) struct Readers {
    directory: PathBuf,
    sessions: Mutex<Sessions>,
    /// No session is begun.
    is_none: bool,
}

/// The session of the handles that are handed out now, and those that forks have ended.
#[derive(Default)]
struct Sessions {
    current: Option<Arc<Session>>,
    ended: Vec<Arc<Session>>,
}

/// A session of an earlier open that is not over: somebody may still read, or as an attached process write, the segments that it uses.
pub(crate) struct Foreign {
    path: PathBuf,
    uses: Uses,
    /// The room that a session's file of slots takes.
    room: Option<Arc<Lease>>,
}

/// Which body segments a session uses.
enum Uses {
    /// The segments noted in its file when the store was closed.
    Noted(Vec<u32>),
    /// Those that the slots of an attached process name at the moment.
    Slots(Slots),
    Any,
}

impl Session {
    /// Whether there was no fork since this session began, and none is under way.
    pub fn is_current(&self) -> bool {
        fork::count() == self.count
    }

    /// Keeps what a dropped handle of a session that is not current held, until the session is over.
    pub fn withhold(&self, held: Held) {
        self.withheld.lock().push(held);
    }
}

impl Readers {
    /// The directory's readers, and the sessions of earlier opens that are not over, those of attached processes among them.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Foreign>), Error> {
        let attached = files_in(&directory.join(slots::DIRECTORY))?.into_iter().flatten().map(Foreign::find_attached);
        let mut foreign = attached.filter_map(Result::transpose).collect::<Result<Vec<_>, Error>>()?;
        let directory = directory.join("readers");
        match files_in(&directory)? {
            Some(paths) => {
                for path in paths {
                    foreign.extend(Foreign::find(path)?);
                }
            }
            None => std::fs::create_dir(&directory).map_err(Error::io("make", &directory))?,
        }
        Ok((Readers { directory, sessions: Mutex::default(), is_none: false }, foreign))
    }

    /// Of a directory that is only read: there are no sessions, and large bytes are handed out as copies.
    pub fn none(directory: &Path) -> Self {
        Readers { directory: directory.join("readers"), sessions: Mutex::default(), is_none: true }
    }

    /// The session for a handle that is made at this count of forks. None where it cannot have one: then bytes are handed out as copies.
    pub fn session(&self, count: u64) -> Option<Arc<Session>> {
        if self.is_none || fork::is_under_way(count) {
            return None;
        }
        let mut sessions = self.sessions.lock();
        if let Some(current) = &sessions.current {
            if current.count == count {
                return Some(Arc::clone(current));
            }
            if sessions.ended.len() >= ENDED_SESSIONS_MAX {
                return None;
            }
        }
        let begun = match self.begin(count) {
            Ok(session) => Arc::new(session),
            Err(error) => {
                // Nothing is lost: the caller copies.
                tracing::debug!("{}: {error}; large objects are handed out as copies", self.directory.display());
                return None;
            }
        };
        let ended = sessions.current.replace(Arc::clone(&begun));
        sessions.ended.extend(ended);
        Some(begun)
    }

    fn begin(&self, count: u64) -> io::Result<Session> {
        let path = self.directory.join(format!("{:016x}", random_u64()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        if let Err(error) = retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            drop(file);
            std::fs::remove_file(&path)?;
            return Err(error.into());
        }
        Ok(Session { count, path, file: Mutex::new(Some(file)), withheld: Mutex::default() })
    }

    /// Gives back what sessions held that are over.
    pub fn sweep(&self) {
        let mut sessions = self.sessions.lock();
        let count = fork::count();
        if sessions.current.as_ref().is_some_and(|current| current.count != count) {
            let ended = sessions.current.take();
            sessions.ended.extend(ended);
        }
        sessions.ended.retain(|session| !self.is_over(session));
    }

    fn is_over(&self, session: &Arc<Session>) -> bool {
        if Arc::strong_count(session) > 1 {
            return false; // a handle here
        }
        let mut file = session.file.lock();
        // From here on only the children's copies of the descriptor keep the lock.
        *file = None;
        match is_locked(&session.path) {
            Ok(true) => false,
            Ok(false) => {
                self.forget(&session.path);
                true
            }
            Err(error) => {
                tracing::debug!("{}: {error}; looked at again later", session.path.display());
                false
            }
        }
    }

    fn forget(&self, path: &Path) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::debug!("{}: {error}; the next open removes it", path.display());
        }
    }

    /// The store is being closed: notes which body segments are still read from, for the next open.
    pub fn close(&self, segments: &[u32]) -> Result<(), Error> {
        self.sweep();
        let sessions = std::mem::take(&mut *self.sessions.lock());
        for session in sessions.current.into_iter().chain(sessions.ended) {
            let is_read = Arc::strong_count(&session) > 1 || !session.withheld.lock().is_empty();
            if !is_read && session.count == fork::count() {
                *session.file.lock() = None;
                self.forget(&session.path);
                continue;
            }
            let mut text = CLOSED.to_owned();
            segments.iter().for_each(|number| text.push_str(&format!("{number}\n")));
            let written =
                File::options().write(true).open(&session.path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(Error::io("write", &session.path))?;
        }
        Ok(())
    }
}

/// Whether anybody has the file locked.
pub(crate) fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The files of a directory; None where there is no such directory.
fn files_in(directory: &Path) -> Result<Option<Vec<PathBuf>>, Error> {
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            let paths = entries.map(|entry| Ok(entry.map_err(Error::io("list", directory))?.path()));
            paths.collect::<Result<Vec<_>, Error>>().map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("list", directory)(error)),
    }
}

impl Foreign {
    /// Whether the session is over: then its file is removed.
    fn is_removed(path: &Path) -> Result<bool, Error> {
        if is_locked(path).map_err(Error::io("look at", path))? {
            return Ok(false);
        }
        std::fs::remove_file(path).map_err(Error::io("remove", path))?;
        Ok(true)
    }

    /// The session of an attached process.
    fn find_attached(path: PathBuf) -> Result<Option<Foreign>, Error> {
        if Self::is_removed(&path)? {
            return Ok(None);
        }
        let file = File::options().read(true).write(true).open(&path).map_err(Error::io("open", &path))?;
        let uses = match Slots::map(&file) {
            Ok(slots) => Uses::Slots(slots),
            // Locked, but not a file of slots: it may use any segment.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Uses::Any,
            Err(error) => return Err(Error::io("map", &path)(error)),
        };
        Ok(Some(Foreign { path, uses, room: None }))
    }

    fn find(path: PathBuf) -> Result<Option<Foreign>, Error> {
        if Self::is_removed(&path)? {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let segments = text.strip_prefix(CLOSED).map(|numbers| numbers.lines().filter_map(|it| it.parse().ok()));
        let uses = segments.map_or(Uses::Any, |segments| Uses::Noted(segments.collect()));
        Ok(Some(Foreign { path, uses, room: None }))
    }

    /// Counts the file of an attached process against the limit until the session is over.
    pub fn count(&mut self, space: &Arc<Space>) {
        if matches!(self.uses, Uses::Slots(_)) {
            self.room = Some(space.lease_existing(slots::FILE_BYTES as u64));
        }
    }

    /// Whether somebody may use this body segment.
    pub fn uses(&self, segment: u32) -> bool {
        match &self.uses {
            Uses::Noted(segments) => segments.contains(&segment),
            Uses::Slots(slots) => slots.has(segment),
            Uses::Any => true,
        }
    }

    /// Whether the session is over. False also if that cannot be determined now: it is asked again later.
    pub fn is_over(&self) -> bool {
        match is_locked(&self.path) {
            Ok(true) => false,
            Ok(false) => {
                if let Err(error) = std::fs::remove_file(&self.path) {
                    tracing::debug!("{}: {error}; the next open removes it", self.path.display());
                }
                true
            }
            Err(error) => {
                tracing::debug!("{}: {error}; looked at again later", self.path.display());
                false
            }
        }
    }
}
