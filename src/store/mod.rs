//! The front door: [`ObjectStore`] checks ids, calls the backend, and answers waiters. Backends are known through one trait alone.

#[cfg(feature = "async")]
mod asynchronous;
mod attaching;
mod info;
mod listing;
mod opening;
mod options;
mod parking;
mod stats;
mod wait;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub(crate) use attaching::expectations;
pub use info::Info;
pub use listing::Objects;
pub use options::{BackendKind, ObjectStoreBuilder, StoreConfig};
pub use parking::Parked;
use stats::OperationCounts;
#[cfg(feature = "python")]
pub(crate) use wait::Wait;
#[cfg(not(feature = "python"))]
use wait::Wait;
pub use wait::{CancelToken, Waited};
pub use writer::ObjectWriter;

use crate::backend::{Backend, OnStored, Patience, Usage, Waiters, Writer, join_duplicator, waking};
use crate::error::Error;
use crate::fork;
use crate::id::ObjectId;
use crate::local::{LocalBackend, Reserved};
use crate::object::{IdBytes, METADATA_BYTES_MAX, Object};

/// A store of objects: the crate's front door. Cloning is cheap and gives another handle on the same store; every method may be
/// called from any thread.
///
/// An id is 1 to [`ID_BYTES_MAX`](crate::ID_BYTES_MAX) bytes of any value. The `redis` backend takes 0 to
/// [`REDIS_ID_BYTES_MAX`](crate::REDIS_ID_BYTES_MAX), as the Python one did; what has such an id is not seen by `tiered` nodes.
///
/// Operations on one id take effect one after the other: a get that starts after an acknowledged put or delete sees it. Bytes
/// that were handed out never change, whatever becomes of the id.
#[derive(Clone)]
pub struct ObjectStore {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    /// The backend with a directory on this node: that of `local`, or the local tier's of `tiered`.
    local: Option<Arc<LocalBackend>>,
    waiters: Arc<Waiters>,
    id_bytes: IdBytes,
    closed: AtomicBool,
    /// The thread that makes duplicates for those threads of the backend that may not wait; None if the backend has no such threads.
    duplicator: Mutex<Option<JoinHandle<()>>>,
    operations: OperationCounts,
    /// Set by the keeper, where there is one.
    count_attached: Mutex<Option<stats::CountAttached>>,
    /// The fork generation of the process that opened the store.
    generation: u64,
}

impl ObjectStore {
    /// A builder with every setting at its default.
    pub fn builder() -> ObjectStoreBuilder {
        ObjectStoreBuilder::default()
    }

    /// The backend with a directory on this node, for the keeper; None if there is none.
    pub(crate) fn local(&self) -> Option<&LocalBackend> {
        self.inner.local.as_deref()
    }

    /// Reserves room for an object whose body an attached process writes; `commit_reserved` makes it exist.
    pub(crate) fn reserve(&self, id: &[u8], data_bytes: u64, metadata_bytes: u32) -> Result<Reserved, Error> {
        self.inner.id_bytes.check(id)?;
        if metadata_bytes as usize > METADATA_BYTES_MAX {
            let (bytes, bytes_max) = (u64::from(metadata_bytes), METADATA_BYTES_MAX as u64);
            return Err(Error::TooLarge { id: ObjectId::new(id), bytes, bytes_max });
        }
        let backend = self.backend()?;
        backend.check_size(id, data_bytes.saturating_add(u64::from(metadata_bytes)))?;
        let Some(local) = self.local() else {
            let reason = format!("the {} backend has no files to write it to", backend.name());
            return Err(Error::WriteFailed { id: ObjectId::new(id), reason });
        };
        local.reserve(id, data_bytes, metadata_bytes)
    }

    /// Makes an object of what an attached process has written, and answers its waiters.
    pub(crate) fn commit_reserved(&self, reserved: Reserved, body_hash: u128) -> Result<(), Error> {
        let (id, bytes) = (reserved.id().to_vec(), reserved.data_bytes());
        self.waking(&id, |stored| reserved.commit(body_hash, stored))?;
        self.inner.operations.put(bytes);
        Ok(())
    }

    pub(crate) fn place(&self) -> String {
        self.inner.backend.place()
    }

    pub(crate) fn usage(&self) -> Usage {
        self.inner.backend.usage()
    }

    pub(crate) fn drain(&self, limit: Duration) -> Result<bool, Error> {
        self.backend()?.drain(limit)
    }

    /// Whether this is a forked child of the process that opened the store.
    pub(crate) fn is_forked(&self) -> bool {
        self.inner.is_forked()
    }

    /// The backend; an error if the store is closed, or in a forked child.
    fn backend(&self) -> Result<&dyn Backend, Error> {
        if self.inner.is_forked() {
            return Err(Error::Forked);
        }
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        Ok(&*self.inner.backend)
    }

    /// Passes a result on, but makes a miss an error if the store was closed meanwhile: closing may have taken the object away.
    fn unless_closed<T: Default + PartialEq>(&self, found: T) -> Result<T, Error> {
        if found == T::default() {
            self.backend()?;
        }
        Ok(found)
    }

    /// Stores an object, or overwrites it, and wakes whoever waits for it. When it returns, the write is as safe as the
    /// [`Durability`](crate::Durability) says.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::TooLarge`], [`Error::InvalidId`]; [`Error::Io`] and [`Error::WritesRefused`] where the disk refuses.
    /// After an error, what stood under the id before still does, except if the disk refuses to sync ([`Error::Io`] with the action `sync`): then
    /// the object is readable, whoever waited for it is answered, and a later open may or may not find it. With `redis` also [`Error::Refused`],
    /// and [`Error::Unreachable`], after which the object may have been stored all the same.
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"greeting", b"Hello, World!", b"text/plain")?;
    /// assert!(store.contains(b"greeting")?);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn put(&self, id: &[u8], data: &[u8], metadata: &[u8]) -> Result<(), Error> {
        self.inner.id_bytes.check(id)?;
        check_metadata(id, metadata)?;
        let backend = self.backend()?;
        self.waking(id, |stored| backend.put(id, data, metadata, stored))?;
        self.inner.operations.put(data.len() as u64);
        Ok(())
    }

    /// Begins an object whose data arrives in pieces: `data_bytes` of them in all.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// let mut writer = store.writer(b"large", 3_000_000, b"")?;
    /// for _ in 0..3 {
    ///     writer.write(&[7; 1_000_000])?;
    /// }
    /// writer.commit()?; // before this nothing exists
    /// assert_eq!(store.get(b"large")?.expect("committed").data.len(), 3_000_000);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<ObjectWriter, Error> {
        self.inner.id_bytes.check(id)?;
        check_metadata(id, metadata)?;
        let writer = self.backend()?.writer(id, data_bytes, metadata)?;
        Ok(ObjectWriter::new(self.clone(), id, data_bytes, writer))
    }

    /// The object, or None. Large objects share the store's bytes; nothing is copied.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidId`], [`Error::Io`]. With `redis`, and with `tiered` for what is not on this node, [`Error::Unreachable`] where
    /// Redis does not say whether it has the object; with `redis`, [`Error::Refused`] where it refuses to.
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"greeting", b"Hello, World!", b"text/plain")?;
    /// let object = store.get(b"greeting")?.expect("just stored");
    /// assert_eq!((&object.data[..], &object.metadata[..]), (&b"Hello, World!"[..], &b"text/plain"[..]));
    /// assert_eq!(store.get(b"nothing")?, None);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.inner.id_bytes.check(id)?;
        let found = self.backend()?.get(id);
        self.counted(&found)?;
        found
    }

    /// Counts a hit or a miss. The result stays where it is, as moving it would cost more than all of this. A miss is an error if the store was
    /// closed meanwhile: closing may have taken the object away.
    #[inline(always)]
    fn counted(&self, found: &Result<Option<Object>, Error>) -> Result<(), Error> {
        match found {
            Ok(Some(object)) => self.inner.operations.hit(object.data.len() as u64),
            Ok(None) => {
                self.inner.operations.missed();
                self.backend()?;
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// As `get`, where `get_here` has found nothing, and has counted that.
    pub(crate) fn get_elsewhere(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        let found = self.backend()?.get_elsewhere(id)?;
        self.unless_closed(found)
    }

    /// As [`get`](Self::get), but never waits for Redis: None also where the object is not on this node.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    #[inline]
    pub fn get_here(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        self.inner.id_bytes.check(id)?;
        let found = self.backend()?.get_here(id);
        self.counted(&found)?;
        found
    }

    /// Whether the object exists.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        self.inner.id_bytes.check(id)?;
        let found = self.backend()?.contains(id)?;
        self.unless_closed(found)
    }

    /// Deletes an object. Returns whether it existed. Bytes of it that were handed out stay valid. With `tiered` it is deleted everywhere;
    /// for an object that is not on this node, false is also returned if Redis does not answer within a tenth of a second.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidId`], [`Error::Io`], [`Error::WritesRefused`]; with `redis` also [`Error::Refused`] and [`Error::Unreachable`], as
    /// with [`put`](Self::put).
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"greeting", b"Hello, World!", b"")?;
    /// let object = store.get(b"greeting")?.expect("just stored");
    /// assert!(store.delete(b"greeting")?);
    /// assert!(!store.delete(b"greeting")?);
    /// assert_eq!(object.data, "Hello, World!"); // what was read stays
    /// # Ok::<(), Error>(())
    /// ```
    pub fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        self.inner.id_bytes.check(id)?;
        let found = self.backend()?.delete(id)?;
        self.inner.operations.deleted();
        self.unless_closed(found)
    }

    /// As [`delete`](Self::delete), but never waits for Redis: if it is not known on this node whether the object existed, None is
    /// returned, and `answer` is called later, on another thread. `answer` must not block.
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete).
    pub fn delete_later(&self, id: &[u8], answer: impl FnOnce(bool) + Send + 'static) -> Result<Option<bool>, Error> {
        self.inner.id_bytes.check(id)?;
        let existed = self.backend()?.delete_later(id, Box::new(answer))?;
        self.inner.operations.deleted();
        match existed {
            Some(existed) => self.unless_closed(existed).map(Some),
            None => Ok(None),
        }
    }

    /// Makes `new` share the content of `original`, overwriting `new`. False, with nothing changed, if `original` does not exist.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get) and [`put`](Self::put).
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"greeting", b"Hello, World!", b"")?;
    /// assert!(store.duplicate(b"greeting", b"welcome")?);
    /// store.delete(b"greeting")?;
    /// assert_eq!(store.get(b"welcome")?.expect("duplicated").data, "Hello, World!");
    /// # Ok::<(), Error>(())
    /// ```
    pub fn duplicate(&self, original: &[u8], new: &[u8]) -> Result<bool, Error> {
        self.inner.id_bytes.check(original)?;
        self.inner.id_bytes.check(new)?;
        let backend = self.backend()?;
        if original == new {
            return backend.contains(original);
        }
        if self.waking(new, |stored| backend.duplicate(original, new, stored))? {
            self.inner.operations.duplicated();
            return Ok(true);
        }
        let Some(object) = backend.get(original)? else { return self.unless_closed(false) };
        // The get may have brought it here, so it is tried again; otherwise its content is put.
        self.waking(new, |stored| match backend.duplicate(original, new, &mut *stored)? {
            true => Ok(()),
            false => backend.put(new, &object.data, &object.metadata, stored),
        })?;
        self.inner.operations.duplicated();
        Ok(true)
    }

    /// As [`duplicate`](Self::duplicate), but never waits for Redis: false also if `original` is not on this node.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn duplicate_here(&self, original: &[u8], new: &[u8]) -> Result<bool, Error> {
        self.inner.id_bytes.check(original)?;
        self.inner.id_bytes.check(new)?;
        let backend = self.backend()?;
        if original == new {
            return Ok(backend.get_here(original)?.is_some());
        }
        let found = self.waking(new, |stored| backend.duplicate(original, new, stored))?;
        if found {
            self.inner.operations.duplicated();
        }
        self.unless_closed(found)
    }

    /// Blocks until the object exists, and returns it; or until `deadline` or `cancel`, whichever is given and comes first.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); [`Error::Closed`] where the store is closed meanwhile.
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// use std::time::{Duration, Instant};
    /// use scaler_object_storage::Waited;
    ///
    /// let writer = store.clone();
    /// let thread = std::thread::spawn(move || writer.put(b"result", b"42", b""));
    /// match store.wait(b"result", Some(Instant::now() + Duration::from_secs(10)), None)? {
    ///     Waited::Object(object) => assert_eq!(object.data, "42"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # thread.join().expect("no panic")?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn wait(&self, id: &[u8], deadline: Option<Instant>, cancel: Option<&CancelToken>) -> Result<Waited, Error> {
        let wait = match Wait::begin(self, id)? {
            Ok(object) => return Ok(Waited::Object(object)),
            Err(wait) => wait,
        };
        let ended = wait.until(deadline, cancel)?;
        wait.end(ended)
    }

    /// Makes everything acknowledged so far survive a power loss, whatever the [`Durability`](crate::Durability).
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Closed`].
    pub fn flush(&self) -> Result<(), Error> {
        self.backend()?.flush()
    }

    /// Deletes every object. Whoever waits goes on waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Closed`].
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.put(b"greeting", b"Hello, World!", b"")?;
    /// store.clear()?;
    /// assert_eq!(store.count()?, (0, 0));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn clear(&self) -> Result<(), Error> {
        self.backend()?.clear()
    }

    /// Closes the store for every handle: later calls fail with [`Error::Closed`], blocked waits end with it, bytes handed out stay
    /// valid. Dropping the last handle does the same. Closing twice is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the last writes cannot be made durable; the store is closed all the same.
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// store.close()?;
    /// assert!(matches!(store.get(b"greeting"), Err(Error::Closed)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn close(&self) -> Result<(), Error> {
        self.inner.close()
    }

    /// As [`close`](Self::close), without waiting for Redis to have what it lacks: the next process that opens the directory pushes it.
    #[cfg(feature = "server")]
    pub(crate) fn close_undrained(&self) -> Result<(), Error> {
        self.inner.close_by(|backend| backend.close_undrained())
    }

    /// Whether the store can be used no more: it is closed, or this is a forked child of the process that opened it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.backend().is_err()
    }

    /// Runs a write to `id`, then answers its waiters, then the waiters of the duplicates that these make, and so on.
    fn waking<T>(&self, id: &[u8], write: impl FnOnce(OnStored<'_>) -> Result<T, Error>) -> Result<T, Error> {
        waking(&self.inner.waiters, self.backend()?, Patience::Caller, id, write)
    }
}

fn check_metadata(id: &[u8], metadata: &[u8]) -> Result<(), Error> {
    if metadata.len() > METADATA_BYTES_MAX {
        return Err(Error::TooLarge {
            id: ObjectId::new(id),
            bytes: metadata.len() as u64,
            bytes_max: METADATA_BYTES_MAX as u64,
        });
    }
    Ok(())
}

impl Inner {
    fn is_forked(&self) -> bool {
        self.generation != fork::generation()
    }

    fn close(&self) -> Result<(), Error> {
        self.close_by(|backend| backend.close())
    }

    fn close_by(&self, close: impl FnOnce(&dyn Backend) -> Result<(), Error>) -> Result<(), Error> {
        if self.is_forked() {
            return Err(Error::Forked);
        }
        self.closed.store(true, Ordering::Release);
        self.waiters.clear();
        self.waiters.set_duplicator(None);
        // It holds what attached processes hold.
        drop(self.count_attached.lock().take());
        let duplicator = self.duplicator.lock().take();
        // Ends whatever the duplicator may be waiting for.
        let closed = close(&*self.backend);
        if let Some(duplicator) = duplicator {
            join_duplicator(duplicator);
        }
        closed
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.is_forked() {
            // The parent's threads may have left any lock taken, and there is no thread here to join.
            std::mem::forget((Arc::clone(&self.backend), Arc::clone(&self.waiters)));
            std::mem::forget(self.count_attached.get_mut().take());
            if let Some(duplicator) = self.duplicator.get_mut().take() {
                std::mem::forget(duplicator);
            }
        } else if let Err(error) = self.close() {
            tracing::error!("closing the object store: {error}");
        }
    }
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStore").field("place", &self.inner.backend.place()).finish_non_exhaustive()
    }
}
