//! The keeper: the process that has the directory open, in the service of all others on the machine.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::messages::Reply;
use super::sessions::Session;
use super::socket::{self, Connection};
use super::starting::{self, InheritedTurn};
use super::{expectations, serving};
use crate::error::Error;
use crate::local::{Counters, Fingerprints, LocalBackend, Turn, Underlying};
use crate::store::{ObjectStore, StoreConfig};

/// How often it is looked for processes that have ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long accepting waits before it looks whether it is to end.
const ACCEPT_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How long accepting rests where no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long closing waits for calls under way.
const CALLS_WAIT_MAX: Duration = Duration::from_secs(5);

/// Threads that serve connections do not call deep.
const STACK_BYTES: usize = 512 << 10;

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

/// Lets other processes of the machine attach to a store: [`ObjectStore::attach`].
pub struct Keeper {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    /// Present once it is open.
    pub store: OnceLock<ObjectStore>,
    /// What tells processes of changes; their file, for them to map.
    pub counters: File,
    fingerprints: OnceLock<[u64; 2]>,
    /// How far opening is, in parts of a thousand.
    pub opened: Arc<AtomicU32>,
    pub directory: PathBuf,
    socket: (u64, u64),
    pub expected: Vec<(String, String)>,
    pub options: KeeperOptions,
    sessions: Arc<Sessions>,
    streams: Mutex<HashMap<u64, Arc<UnixStream>>>,
    threads: AtomicUsize,
    closing: AtomicBool,
    pub yielding: AtomicBool,
}

/// The sessions of attached processes. They are the store's, until they are over or the store is closed: what they hold stays theirs, whether
/// or not anybody listens to them.
struct Sessions {
    all: Mutex<HashMap<u64, Arc<Session>>>,
    /// When the last process ended, or since when there was none.
    empty_since: Mutex<Instant>,
    /// When it was last looked for those that are over.
    looked: Mutex<Instant>,
}

impl Keeper {
    /// Opens the store, and keeps it for all processes of the machine. A keeper that was started for attached processes alone leaves the directory to
    /// this one.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::open`] and [`listen`](Self::listen); [`Error::Detached`] where another process is on its way to keep the directory
    /// and does not get there within [`lock_wait_ms`](crate::LocalOptions::lock_wait_ms).
    pub fn open(config: &StoreConfig) -> Result<(ObjectStore, Keeper), Error> {
        let directory = directory(config)?;
        starting::make_directory(&directory)?;
        let patience = Duration::from_millis(config.local.lock_wait_ms);
        let Some(turn) = Turn::take(&directory, Instant::now() + patience)? else {
            let reason = "another process is about to keep it, and has not got there in time".to_owned();
            return Err(Error::Detached { path: directory, reason });
        };
        ask_to_yield(&directory, patience)?;
        Self::open_in_turn(config, KeeperOptions::default(), Box::new(turn))
    }

    /// The same for a keeper that was started for attached processes, in the turn of the process that started it.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::open`] and [`listen`](Self::listen).
    pub fn open_started(config: &StoreConfig, turn: InheritedTurn) -> Result<(ObjectStore, Keeper), Error> {
        Self::open_in_turn(config, KeeperOptions::default().yielding(), Box::new(turn))
    }

    /// Listens as soon as the directory is this process's, and tells whoever asks how far opening is.
    fn open_in_turn(
        config: &StoreConfig,
        options: KeeperOptions,
        turn: Box<dyn Send>,
    ) -> Result<(ObjectStore, Keeper), Error> {
        let (turn, listening) = (Mutex::new(Some(turn)), Arc::new(Mutex::new(None)));
        let (kept, to_listen) = (Arc::clone(&listening), config.clone());
        let on_locked = move |opened| {
            let keeper = Keeper::listen_with(&to_listen, options, opened)?;
            *kept.lock() = Some(keeper);
            turn.lock().take();
            Ok(())
        };
        let under = Underlying { on_locked: Some(Arc::new(on_locked)), ..Underlying::default() };
        let store = ObjectStore::open_under(config, under)?;
        let keeper = listening.lock().take().ok_or(Error::Closed)?;
        keeper.serve(&store);
        Ok((store, keeper))
    }

    /// Whether a keeper that was started for attached processes may end: nobody has been attached for this long, and everything is in Redis that
    /// should be.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::get`].
    pub fn may_end(&self, idle: Duration) -> Result<bool, Error> {
        let is_idle = self.idle() >= idle && self.shared.threads.load(Ordering::SeqCst) == 0;
        let store = self.shared.store.get().filter(|_| is_idle);
        store.map_or(Ok(false), |store| store.drain(Duration::ZERO))
    }

    /// Listens on the socket in the store's directory. `config` is what the store was opened with.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where the store has no directory (`memory`, `redis`); [`Error::Io`] where the socket cannot be made.
    pub fn listen(store: &ObjectStore, config: &StoreConfig, options: KeeperOptions) -> Result<Keeper, Error> {
        let keeper = Self::listen_with(config, options, Arc::default())?;
        keeper.serve(store);
        Ok(keeper)
    }

    fn listen_with(config: &StoreConfig, options: KeeperOptions, opened: Arc<AtomicU32>) -> Result<Keeper, Error> {
        let directory = directory(config)?;
        let listener = socket::listen(&directory).map_err(Error::io("listen in", &directory))?;
        listener.set_nonblocking(true).map_err(Error::io("listen in", &directory))?;
        let counters = Counters::open(&directory).map_err(Error::io("open the counters in", &directory))?;
        // What processes remember of an earlier keeper is over, before this one accepts anything.
        counters.0.raise_epoch();
        let own = socket::identity(&directory).map_err(Error::io("look at the socket in", &directory))?;
        let shared = Arc::new(Shared {
            store: OnceLock::new(),
            counters: counters.1,
            fingerprints: OnceLock::new(),
            opened,
            expected: expectations(config),
            directory,
            socket: own,
            options,
            sessions: Arc::new(Sessions::new()),
            streams: Mutex::default(),
            threads: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            yielding: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || accept(&accepting, &listener));
        match thread {
            Ok(thread) => Ok(Keeper { shared, accepting: Some(thread) }),
            Err(error) => {
                let failed = Error::io("start a thread that listens in", &shared.directory)(error);
                shared.unlink();
                Err(failed)
            }
        }
    }

    /// The store is open: from here on processes are let in.
    fn serve(&self, store: &ObjectStore) {
        let sessions = Arc::clone(&self.shared.sessions);
        if let Some(local) = store.local() {
            local.before_reaping(Box::new(move |is_dead| sessions.release(is_dead)));
            self.share_changes(local);
        }
        // Only once.
        let _ = self.shared.store.set(store.clone());
    }

    fn share_changes(&self, local: &LocalBackend) {
        match Counters::map(&self.shared.counters) {
            Ok(counters) => {
                let Fingerprints { seed, mask } = local.share_changes(counters);
                let _ = self.shared.fingerprints.set([seed, mask]);
            }
            // They ask each time.
            Err(error) => {
                tracing::warn!("{}: {error}; attached processes remember nothing", self.shared.directory.display())
            }
        }
    }

    /// Processes that are attached now.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.shared.sessions.all.lock().len()
    }

    /// Whether a server has asked for the directory: the keeper is to be closed, and the store.
    #[must_use]
    pub fn is_asked_to_yield(&self) -> bool {
        self.shared.yielding.load(Ordering::Acquire)
    }

    /// How long nobody has been attached; zero while somebody is.
    #[must_use]
    pub fn idle(&self) -> Duration {
        if self.attached() > 0 { Duration::ZERO } else { self.shared.sessions.empty_since.lock().elapsed() }
    }

    /// Ends the service, before the store is closed: calls under way are finished, bytes that processes hold stay as they are.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.shared.closing.store(true, Ordering::Release);
        // Nobody finds it any more.
        self.shared.unlink();
        if accepting.join().is_err() {
            tracing::error!("the thread that listens in {} panicked", self.shared.directory.display());
        }
        for stream in self.shared.streams.lock().values() {
            // One that has ended already.
            let _ = stream.shutdown(Shutdown::Read);
        }
        let limit = Instant::now() + CALLS_WAIT_MAX;
        while self.shared.threads.load(Ordering::SeqCst) > 0 && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        for stream in self.shared.streams.lock().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn unlink(&self) {
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
    fn release(&self, is_dead: &dyn Fn(u32, u64) -> bool) {
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

fn directory(config: &StoreConfig) -> Result<PathBuf, Error> {
    config.directory().ok_or_else(|| {
        let backend = config.backend.name();
        Error::Config(format!("the {backend} backend has no directory that processes could share"))
    })
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    let mut number = 0;
    while !shared.is_closing() {
        if let Some(local) = shared.store.get().and_then(ObjectStore::local) {
            local.beat();
        }
        match poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&ACCEPT_WAIT)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("waiting for processes in {}: {error}", shared.directory.display());
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        }
        match listener.accept() {
            Ok((stream, _)) => {
                number += 1;
                serve(shared, stream, number);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!("accepting a process in {}: {error}", shared.directory.display());
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Gives the connection a thread; where there is none to be had, the process is told to come again.
fn serve(shared: &Arc<Shared>, stream: UnixStream, number: u64) {
    let stream = Arc::new(stream);
    if let Err(error) = socket::check_peer(&stream).and_then(|()| stream.set_nonblocking(false)) {
        tracing::warn!("a process that connected in {} is refused: {error}", shared.directory.display());
        return;
    }
    shared.streams.lock().insert(number, Arc::clone(&stream));
    shared.threads.fetch_add(1, Ordering::SeqCst);
    let (serving, served) = (Arc::clone(shared), Arc::clone(&stream));
    let run = move || {
        let _ended = Ended { shared: &serving, number };
        if let Err(error) = serving::run(&serving, served)
            && !serving.is_closing()
        {
            tracing::info!("an attached process of {} is cut off: {error}", serving.directory.display());
        }
    };
    let spawned = std::thread::Builder::new().name("keeper call".to_owned()).stack_size(STACK_BYTES).spawn(run);
    if let Err(error) = spawned {
        tracing::warn!("no thread for one more call in {}: {error}", shared.directory.display());
        drop(Ended { shared, number });
        let mut connection = Connection::new(stream);
        Reply::Busy.encode(0, &mut connection.output);
        // It sees the end of the connection as well.
        let _ = connection.send(&[], &[], || Err(io::ErrorKind::WouldBlock.into()));
    }
}

struct Ended<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.shared.streams.lock().remove(&self.number);
        self.shared.threads.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Asks a keeper that was started for attached processes to leave the directory to this one; whether there is one that will.
fn ask_to_yield(directory: &Path, limit: Duration) -> Result<bool, Error> {
    use super::messages::{Head, Manner, NO_SLOT, Request, SLICE, VERSION};
    let failed = |error: io::Error| Error::Detached { path: directory.to_owned(), reason: error.to_string() };
    let stream = match socket::connect(directory) {
        Ok(stream) => stream,
        Err(error) if socket::is_nobody(&error) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    stream.set_read_timeout(Some(SLICE)).map_err(failed)?;
    let limit = Instant::now() + limit;
    let rest = || if Instant::now() < limit { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) };
    let mut connection = Connection::new(Arc::new(stream));
    let greeting = Request::Greet { version: VERSION, session: serving::NO_SESSION, expected: Vec::new() };
    for request in [greeting, Request::Yield] {
        request.encode(Manner::default(), NO_SLOT, 0, &mut connection.output);
        connection.send(&[], &[], rest).map_err(failed)?;
        let Some(frame) = connection.receive(Head::check_reply, rest).map_err(failed)? else { return Ok(false) };
        match Reply::decode(frame.head, connection.fields()).map_err(|malformed| failed(malformed.into()))? {
            Reply::Done { is_so, .. } => return Ok(is_so),
            Reply::Welcome { .. } => {}
            Reply::Failed(error) => return Err(error),
            _ => return Ok(false),
        }
    }
    Ok(false)
}
