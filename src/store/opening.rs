//! Opening a store, and attaching to one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::options::{BackendKind, StoreConfig};
use super::{Inner, ObjectStore, attaching};
use crate::backend::{Backend, Waiters, spawn_duplicator};
use crate::error::Error;
use crate::fork;
use crate::local::{LocalBackend, Report, Underlying};
use crate::memory::MemoryBackend;
use crate::object::IdBytes;
use crate::redis::RedisBackend;
use crate::replication::TieredBackend;

impl ObjectStore {
    /// Opens the store that the config describes.
    ///
    /// # Errors
    ///
    /// As [`ObjectStoreBuilder::open`](crate::ObjectStoreBuilder::open).
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// use scaler_object_storage::StoreConfig;
    ///
    /// # let directory = tempfile::tempdir().expect("a directory");
    /// let mut config = StoreConfig::default(); // backend `local`
    /// config.local.path = directory.path().join("objects");
    /// config.local.max_size_mb = 1000;
    /// let store = ObjectStore::open(&config)?;
    /// store.close()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn open(config: &StoreConfig) -> Result<Self, Error> {
        Self::open_under(config, Underlying::default())
    }

    pub(crate) fn open_under(config: &StoreConfig, under: Underlying) -> Result<Self, Error> {
        fork::watch();
        let waiters = Arc::<Waiters>::default();
        let (backend, local): (Arc<dyn Backend>, _) = match config.backend {
            BackendKind::Memory => (Arc::new(MemoryBackend::open(&config.memory)?), None),
            BackendKind::Local => {
                let local = Arc::new(LocalBackend::open(&config.local, under)?);
                (Arc::clone(&local) as Arc<dyn Backend>, Some(local))
            }
            BackendKind::Redis => (Arc::new(RedisBackend::open(&config.redis, Arc::clone(&waiters))?), None),
            BackendKind::Tiered => {
                let tiered = TieredBackend::open(&config.local, &config.redis, under, Arc::clone(&waiters))?;
                let local = Arc::clone(tiered.local());
                (tiered as Arc<dyn Backend>, Some(local))
            }
        };
        let id_bytes = if config.backend == BackendKind::Redis { IdBytes::REDIS } else { IdBytes::ORDINARY };
        let may_not_wait = matches!(config.backend, BackendKind::Redis | BackendKind::Tiered);
        Self::assembled(backend, local, waiters, id_bytes, may_not_wait)
    }

    /// Makes a store of these parts, with a duplicator if the backend has threads that may not wait.
    fn assembled(
        backend: Arc<dyn Backend>,
        local: Option<Arc<LocalBackend>>,
        waiters: Arc<Waiters>,
        id_bytes: IdBytes,
        may_not_wait: bool,
    ) -> Result<Self, Error> {
        let duplicator = match may_not_wait {
            false => None,
            true => match spawn_duplicator(&waiters, &backend) {
                Ok(thread) => Some(thread),
                Err(error) => {
                    let _ = backend.close();
                    return Err(Error::io("start the threads of", backend.place())(error));
                }
            },
        };
        let (closed, duplicator, generation) = (AtomicBool::new(false), Mutex::new(duplicator), fork::generation());
        let (operations, count_attached) = Default::default();
        let inner =
            Inner { backend, local, waiters, id_bytes, closed, duplicator, operations, count_attached, generation };
        Ok(ObjectStore { inner: Arc::new(inner) })
    }

    /// Attaches to the store in this directory that another process keeps, whatever its settings are; None where no process keeps it. No
    /// keeper is started, neither now nor when the one that is there ends: calls fail with [`Error::Detached`] then. For tools.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn attach_kept(directory: &Path) -> Result<Option<Self>, Error> {
        fork::watch();
        let waiters = Arc::<Waiters>::default();
        let attached = attaching::attach_kept(&StoreConfig::default(), directory.to_path_buf(), Arc::clone(&waiters))?;
        attached.map(|backend| Self::assembled(backend, None, waiters, IdBytes::ORDINARY, true)).transpose()
    }

    /// Reads a directory that nobody has open, and changes nothing in it: writes are refused. Others may read it in the same way meanwhile, and
    /// whoever would open it waits. The report says what an open would repair, and what is lost. Takes as long, and as much memory, as an
    /// open without its catalog: every segment of records is walked.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] where a process has it open, [`Error::Config`] where there is no store, [`Error::Io`], [`Error::UnknownFormat`].
    pub fn read_directory(directory: &Path) -> Result<(Self, Arc<Report>), Error> {
        fork::watch();
        let report = Arc::<Report>::default();
        let backend: Arc<dyn Backend> = Arc::new(LocalBackend::read(directory, Arc::clone(&report))?);
        Self::assembled(backend, None, Arc::default(), IdBytes::ORDINARY, false).map(|store| (store, report))
    }

    /// Attaches to the store in the config's directory that another process of this machine keeps open (backends `local` and `tiered`): a
    /// server, or a keeper, which is started where there is none. All processes that attach share one store: one copy of each object, one
    /// presence in Redis. Large objects are read and written in the store's files, without a copy.
    ///
    /// The keeper may be killed and replaced: calls go to the next one, bytes that were handed out stay valid and unchanged.
    ///
    /// # Errors
    ///
    /// [`Error::Detached`] where no keeper can be reached or started, [`Error::Config`] where its settings are others than the config's.
    pub fn attach(config: &StoreConfig) -> Result<Self, Error> {
        fork::watch();
        let waiters = Arc::<Waiters>::default();
        let backend: Arc<dyn Backend> = attaching::attach(config, Arc::clone(&waiters))?;
        Self::assembled(backend, None, waiters, IdBytes::ORDINARY, true)
    }
}
