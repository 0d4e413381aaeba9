//! The keeper: the process that has a directory open, in the service of all others on the machine.
//!
//! [`accepting`] lets processes in; [`serving`] answers what one of them asks over one connection; [`sessions`] keeps what it holds, over the
//! end of any connection; [`presence`] tells whether it is there still.

mod accepting;
mod inherited;
mod presence;
mod serving;
mod sessions;
mod shared;

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use inherited::{InheritedTurn, inherit_turn};
pub use shared::KeeperOptions;
use shared::{Replacing, Shared};

use crate::error::Error;
use crate::local::{Counters, Turn, Underlying, make_directory, open_counters};
use crate::node::messages::{Head, Manner, NO_SESSION, NO_SLOT, Reply, Request, SLICE, VERSION};
use crate::node::socket::{self, Connection};
use crate::store::{ObjectStore, StoreConfig, expectations};

/// How long closing waits for calls under way.
const CALLS_WAIT_MAX: Duration = Duration::from_secs(5);

/// Lets other processes of the machine attach to a store: [`ObjectStore::attach`].
pub struct Keeper {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
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
        Self::open_then(config, |_| {})
    }

    /// As [`open`](Self::open), and does something with the store before any other process gets at it.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_then(config: &StoreConfig, then: impl FnOnce(&ObjectStore)) -> Result<(ObjectStore, Keeper), Error> {
        let directory = directory(config)?;
        make_directory(&directory)?;
        let patience = Duration::from_millis(config.local.lock_wait_ms);
        let Some(turn) = Turn::take(&directory, Instant::now() + patience)? else {
            let reason = "another process is about to keep it, and has not got there in time".to_owned();
            return Err(Error::Detached { path: directory, reason });
        };
        ask(&directory, patience, Request::Yield)?;
        Self::open_in_turn(config, KeeperOptions::default(), Box::new(turn), then)
    }

    /// Asks the server that keeps the directory, if there is one, to let this process go on in its place, at this address; None where there is
    /// none, or it is one for another address. It is handed over through the connection.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where the server is of a version that speaks otherwise; [`Error::Detached`] where it does not answer in time.
    pub fn ask_to_replace(config: &StoreConfig, address: &str) -> Result<Option<UnixStream>, Error> {
        let patience = Duration::from_millis(config.local.lock_wait_ms);
        let directory = directory(config)?;
        // It says whose the directory is, where it is another user's.
        make_directory(&directory)?;
        ask(&directory, patience, Request::Replace { address: address.to_owned() })
    }

    /// Lets another process go on in the place of this one's server: `accepts` says whether the server is one for the address that it asks for,
    /// and `begin` takes the connection over which it is to be handed over. Only the first call counts.
    pub fn let_replace(
        &self,
        accepts: impl Fn(&str) -> bool + Send + Sync + 'static,
        begin: impl Fn(UnixStream) + Send + Sync + 'static,
    ) {
        let replacing = Replacing { accepts: Box::new(accepts), begin: Box::new(begin) };
        // Whoever asks is told no until then.
        let _ = self.shared.replacing.set(replacing);
    }

    /// The same for a keeper that was started for attached processes, in the turn of the process that started it.
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::open`] and [`listen`](Self::listen).
    pub fn open_started(config: &StoreConfig, turn: InheritedTurn) -> Result<(ObjectStore, Keeper), Error> {
        Self::open_in_turn(config, KeeperOptions::default().yielding(), Box::new(turn), |_| {})
    }

    /// Listens as soon as the directory is this process's, and tells whoever asks how far opening is.
    fn open_in_turn(
        config: &StoreConfig,
        options: KeeperOptions,
        turn: Box<dyn Send>,
        then: impl FnOnce(&ObjectStore),
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
        then(&store);
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
        let own = socket::identity(&directory).map_err(Error::io("look at the socket in", &directory))?;
        let shared = Arc::new(Shared::new(directory, own, expectations(config)?, options, opened));
        if let Some((counters, file)) = shared.room_for(open_counters(&shared.directory))? {
            // What processes remember of an earlier keeper is over, before this one accepts anything.
            counters.raise_epoch();
            // The first.
            let _ = shared.counters.set(file);
        }
        let shared_accepting = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || accepting::accept(&shared_accepting, &listener));
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
        }
        let sessions = Arc::clone(&self.shared.sessions);
        store.set_count_attached(Box::new(move || sessions.stats()));
        if let Some((local, counters)) = store.local().zip(self.shared.counters.get()) {
            self.shared.share_changes(local, Counters::map(counters));
        }
        // Only once.
        let _ = self.shared.store.set(store.clone());
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

fn directory(config: &StoreConfig) -> Result<PathBuf, Error> {
    config.directory()?.ok_or_else(|| {
        let backend = config.backend.name();
        Error::Config(format!("the {backend} backend has no directory that processes could share"))
    })
}

/// Asks the directory's keeper to give way, to a process that has no session; the connection, if it will. None where there is no keeper, too.
fn ask(directory: &Path, limit: Duration, request: Request<'_>) -> Result<Option<UnixStream>, Error> {
    let failed = |error: io::Error| Error::Detached { path: directory.to_owned(), reason: error.to_string() };
    let stream = match socket::connect(directory) {
        Ok(stream) => Arc::new(stream),
        Err(error) if socket::is_nobody(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    stream.set_read_timeout(Some(SLICE)).map_err(failed)?;
    let limit = Instant::now() + limit;
    let rest = || if Instant::now() < limit { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) };
    let mut connection = Connection::new(Arc::clone(&stream));
    let greeting = Request::Greet { version: VERSION, session: NO_SESSION, expected: Vec::new() };
    for request in [greeting, request] {
        request.encode(Manner::default(), NO_SLOT, 0, &mut connection.output);
        connection.send(&[], &[], rest).map_err(failed)?;
        let Some(frame) = connection.receive(Head::check_reply, rest).map_err(failed)? else { return Ok(None) };
        match Reply::decode(frame.head, connection.fields()).map_err(|malformed| failed(malformed.into()))? {
            Reply::Done { is_so, .. } => return is_so.then(|| stream.try_clone()).transpose().map_err(failed),
            Reply::Welcome { .. } => {}
            Reply::Failed(error) => return Err(error),
            _ => return Ok(None),
        }
    }
    Ok(None)
}
