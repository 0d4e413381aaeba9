//! What the threads of a keeper share.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::presence::SlotFile;
use super::sessions::Session;
use crate::backend::KeeperStats;
use crate::error::{Error, is_disk_full};
use crate::local::{Counters, Fingerprints, LocalBackend, slots};
use crate::node::socket;
use crate::store::ObjectStore;

/// How often it is looked for processes that have ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a keeper behaves.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct KeeperOptions {
    /// Whether it ends when a server wants the directory: one that was started for attached processes alone does. Default: false.
    pub yields: bool,
}

impl KeeperOptions {
    /// Ends when a server wants the directory.
    #[must_use]
    pub fn yielding(mut self) -> Self {
        self.yields = true;
        self
    }
}

pub(super) struct Shared {
    /// Present once it is open.
    pub store: OnceLock<ObjectStore>,
    /// What tells processes of changes; their file, for them to map. Absent while there is no room for it.
    pub counters: OnceLock<File>,
    making_counters: Mutex<()>,
    pub fingerprints: OnceLock<[u64; 2]>,
    /// How far opening is, in parts of a thousand.
    pub opened: Arc<AtomicU32>,
    pub directory: PathBuf,
    pub socket: (u64, u64),
    pub expected: Vec<(String, String)>,
    pub options: KeeperOptions,
    pub sessions: Arc<Sessions>,
    /// Whether there was no room when a file was made last.
    is_without_room: AtomicBool,
    pub streams: Mutex<HashMap<u64, Arc<UnixStream>>>,
    /// Connections that have not greeted yet, and when they are cut off.
    pub silent: Mutex<HashMap<u64, Instant>>,
    pub threads: AtomicUsize,
    pub closing: AtomicBool,
    pub yielding: AtomicBool,
    /// Present where a server of this process can be replaced.
    pub replacing: OnceLock<Replacing>,
}

/// How a server gives way to another process that wants to go on in its place.
pub(super) struct Replacing {
    /// Whether the server is one for this address.
    pub accepts: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// Takes the connection over which it is handed over.
    pub begin: Box<dyn Fn(UnixStream) + Send + Sync>,
}

/// The sessions of attached processes. They are the store's, until they are over or the store is closed: what they hold stays theirs, whether
/// or not anybody listens to them.
pub(super) struct Sessions {
    pub all: Mutex<HashMap<u64, Arc<Session>>>,
    /// When the last process ended, or since when there was none.
    pub empty_since: Mutex<Instant>,
    /// When it was last looked for those that are over.
    pub looked: Mutex<Instant>,
}

impl Shared {
    /// For a keeper that has begun to listen on the socket of this identity (device and inode).
    pub fn new(
        directory: PathBuf,
        socket: (u64, u64),
        expected: Vec<(String, String)>,
        options: KeeperOptions,
        opened: Arc<AtomicU32>,
    ) -> Self {
        Shared {
            store: OnceLock::new(),
            counters: OnceLock::new(),
            making_counters: Mutex::default(),
            fingerprints: OnceLock::new(),
            opened,
            directory,
            socket,
            expected,
            options,
            sessions: Arc::new(Sessions::new()),
            is_without_room: AtomicBool::new(false),
            streams: Mutex::default(),
            silent: Mutex::default(),
            threads: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            yielding: AtomicBool::new(false),
            replacing: OnceLock::new(),
        }
    }

    pub fn unlink(&self) {
        if let Err(error) = socket::unlink(&self.directory, self.socket)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("removing the socket in {}: {error}", self.directory.display());
        }
    }

    /// How fingerprints are made of ids.
    pub fn fingerprints(&self) -> [u64; 2] {
        self.fingerprints.get().copied().unwrap_or_default()
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Makes the slots of a session; the file is for the process. None where the disk has no room for them, or for the counters.
    pub fn make_slots(&self) -> Result<Option<(SlotFile, File)>, Error> {
        let local = self.store.get().and_then(ObjectStore::local);
        if let Some(local) = local
            && !self.has_counters(local)?
        {
            return Ok(None);
        }
        let room = local.map(|local| local.count_file(slots::FILE_BYTES as u64));
        self.room_for(SlotFile::make(&self.directory, room))
    }

    /// Whether there are counters, made now where there was no room for them before.
    fn has_counters(&self, local: &LocalBackend) -> Result<bool, Error> {
        let _making = self.making_counters.lock();
        if self.counters.get().is_some() {
            return Ok(true);
        }
        let Some((counters, file)) = self.room_for(local.make_counters())? else { return Ok(false) };
        // Before any process has them: from here on every change raises them.
        self.share_changes(local, Ok(counters));
        // The first.
        let _ = self.counters.set(file);
        Ok(true)
    }

    /// Has every change raise the counters.
    pub fn share_changes(&self, local: &LocalBackend, counters: io::Result<Counters>) {
        match counters {
            Ok(counters) => {
                let Fingerprints { seed, mask } = local.share_changes(counters);
                // Once.
                let _ = self.fingerprints.set([seed, mask]);
            }
            // They ask each time.
            Err(error) => tracing::warn!("{}: {error}; attached processes remember nothing", self.directory.display()),
        }
    }

    /// A file that was made; None where the disk had no room for it, which is said once.
    pub fn room_for<T>(&self, made: Result<T, Error>) -> Result<Option<T>, Error> {
        match made {
            Ok(made) => {
                if self.is_without_room.swap(false, Ordering::Relaxed) {
                    tracing::info!("{}: there is room for sessions again", self.directory.display());
                }
                Ok(Some(made))
            }
            Err(error) if matches!(&error, Error::Io { source, .. } if is_disk_full(source)) => {
                if !self.is_without_room.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "{error}: until there is room, processes that attach have large objects sent to them, and send theirs"
                    );
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub fn add(&self, session: &Arc<Session>) {
        self.sessions.all.lock().insert(session.id, Arc::clone(session));
    }

    pub fn find(&self, id: u64) -> Option<Arc<Session>> {
        self.sessions.all.lock().get(&id).cloned()
    }

    pub fn look_after_sessions(&self) {
        self.sessions.look_after();
    }
}

impl Sessions {
    fn new() -> Self {
        let now = Instant::now();
        Sessions { all: Mutex::default(), empty_since: Mutex::new(now), looked: Mutex::new(now) }
    }

    fn all(&self) -> Vec<Arc<Session>> {
        self.all.lock().values().cloned().collect()
    }

    /// How many processes are attached, and what they hold.
    pub fn stats(&self) -> KeeperStats {
        let sessions = self.all();
        let mut stats = KeeperStats { attached: sessions.len() as u64, ..KeeperStats::default() };
        for session in sessions {
            session.add_stats(&mut stats);
        }
        stats
    }

    /// Ends those of processes that have ended.
    fn look_after(&self) {
        for session in self.all() {
            session.release();
            if session.is_over() {
                let ended = {
                    let mut sessions = self.all.lock();
                    let ended = sessions.remove(&session.id);
                    if sessions.is_empty() {
                        *self.empty_since.lock() = Instant::now();
                    }
                    ended
                };
                drop(ended);
            }
        }
    }

    /// Drops what processes have given back, and what they only remember of bodies that are dead; every now and then, all that those have held
    /// that have ended.
    pub fn release(&self, is_dead: &dyn Fn(u32, u64) -> bool) {
        let is_due = {
            let mut looked = self.looked.lock();
            let is_due = looked.elapsed() >= LOOK_EVERY;
            if is_due {
                *looked = Instant::now();
            }
            is_due
        };
        if is_due {
            self.look_after();
        }
        for session in self.all() {
            session.take_back(is_dead);
        }
    }
}
