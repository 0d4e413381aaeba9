//! The class `ObjectStore` of the Python package.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::asynchronous;
use super::buffer::{BytesLike, copied};
use super::listing::{Listed, Objects};
use super::object::{Info, Object};
use super::opened::Opened;
use super::settings::{store_config, store_config_of_file, with_program};
use super::signals::detached;
use super::wait::{CancelToken, Ticket, deadline, wait};
use super::writer::ObjectWriter;
use crate::error::Error;
use crate::store::{Parked, StoreConfig};

/// A store of objects. Every method may be called from any thread, and lets other threads run meanwhile.
///
/// The settings are those of the section ``[object_storage_server]`` of the config file, with the same names, defaults and
/// limits: ``ObjectStore(backend="tiered", local={"path": "/var/lib/objects"}, redis={"url": "redis://host:6379/0"})``.
///
/// Ids have 1 to 512 bytes, with the backend ``redis`` 0 to 65 535. A buffer that is handed over must not be changed until the method returns.
#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct ObjectStore(Arc<Opened>);

impl ObjectStore {
    fn open(py: Python<'_>, config: &StoreConfig) -> PyResult<Self> {
        Ok(ObjectStore(Opened::new(py.detach(|| crate::ObjectStore::open(config))?)))
    }

    fn attached(py: Python<'_>, config: StoreConfig) -> PyResult<Self> {
        let config = with_program(py, config)?;
        Ok(ObjectStore(Opened::new(detached(py, || crate::ObjectStore::attach(&config))??)))
    }

    /// Runs an operation that may block, with the interpreter's lock released.
    fn detached<T: Send>(
        &self,
        py: Python<'_>,
        operation: impl FnOnce(&crate::ObjectStore) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        Ok(detached(py, || operation(&self.0.store))??)
    }
}

/// Calls a method of the store on a thread of the running event loop's executor. Returns a future of that loop.
fn in_thread<'py>(
    store: &Bound<'py, ObjectStore>,
    method: &str,
    arguments: &[&Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let py = store.py();
    let event_loop = asynchronous::running_loop(py)?;
    let (executor, method) = (py.None().into_bound(py), store.getattr(method)?);
    let call = [&executor, &method].into_iter().chain(arguments.iter().copied());
    event_loop.getattr("run_in_executor")?.call1(PyTuple::new(py, call.collect::<Vec<_>>())?)
}

#[pymethods]
impl ObjectStore {
    #[new]
    #[pyo3(signature = (*, backend = "local", memory = None, local = None, redis = None))]
    fn new(
        py: Python<'_>,
        backend: &str,
        memory: Option<&Bound<'_, PyDict>>,
        local: Option<&Bound<'_, PyDict>>,
        redis: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        Self::open(py, &store_config(backend, [("memory", memory), ("local", local), ("redis", redis)])?)
    }

    /// Opens the store that the server would open with this config file: environment variables (``SCALER_OBJECT_STORAGE_*``)
    /// come before the file.
    #[staticmethod]
    fn from_config(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Self::open(py, &store_config_of_file(path)?)
    }

    /// Attaches to the store in the directory that another process of this machine keeps open: a server, or a keeper, which is started
    /// where there is none, and ends when nobody has been attached for a minute (``local["keeper_idle_seconds"]``).
    ///
    /// All processes that attach share one store. Every method means the same; large objects are read and written where they stand. The
    /// keeper may end and be replaced in the meantime: a write whose answer is lost with it raises :class:`UnansweredError`, what was read
    /// stays valid. Signal handlers run while a call waits for the keeper, and what they raise, the call raises.
    #[staticmethod]
    #[pyo3(signature = (*, backend = "local", local = None, redis = None))]
    fn attach(
        py: Python<'_>,
        backend: &str,
        local: Option<&Bound<'_, PyDict>>,
        redis: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        Self::attached(py, store_config(backend, [("memory", None), ("local", local), ("redis", redis)])?)
    }

    /// As :meth:`attach`, with the settings that :meth:`from_config` would take.
    #[staticmethod]
    fn attach_config(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Self::attached(py, store_config_of_file(path)?)
    }

    /// Stores an object, or overwrites it, and wakes whoever waits for it. When it returns, the write is as safe as the
    /// durability says.
    #[pyo3(signature = (id, data, metadata = BytesLike::Empty), text_signature = "($self, id, data, metadata=b'')")]
    fn put(
        &self,
        py: Python<'_>,
        id: BytesLike<'_, '_>,
        data: BytesLike<'_, '_>,
        metadata: BytesLike<'_, '_>,
    ) -> PyResult<()> {
        let (id, data, metadata) = (id.as_slice(), data.as_slice(), metadata.as_slice());
        self.detached(py, |store| store.put(id, data, metadata))
    }

    /// Begins an object whose data arrives in pieces: ``data_bytes`` of them in all.
    #[pyo3(signature = (id, data_bytes, metadata = BytesLike::Empty), text_signature = "($self, id, data_bytes, metadata=b'')")]
    fn writer(
        &self,
        py: Python<'_>,
        id: BytesLike<'_, '_>,
        data_bytes: u64,
        metadata: BytesLike<'_, '_>,
    ) -> PyResult<ObjectWriter> {
        let (id, metadata) = (id.as_slice(), metadata.as_slice());
        let writer = self.detached(py, |store| store.writer(id, data_bytes, metadata))?;
        Ok(ObjectWriter::new(writer, Arc::clone(&self.0)))
    }

    /// The object, or None.
    fn get(&self, py: Python<'_>, id: BytesLike<'_, '_>) -> PyResult<Option<Object>> {
        let id = id.as_slice();
        Ok(self.detached(py, |store| store.get(id))?.map(Object))
    }

    /// As :meth:`get`, but never waits for Redis: None also where the object is not on this node.
    fn get_here(&self, py: Python<'_>, id: BytesLike<'_, '_>) -> PyResult<Option<Object>> {
        let id = id.as_slice();
        Ok(self.detached(py, |store| store.get_here(id))?.map(Object))
    }

    /// The payload, copied; or None.
    fn get_bytes<'py>(&self, py: Python<'py>, id: BytesLike<'_, '_>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let id = id.as_slice();
        self.detached(py, |store| store.get(id))?.map(|object| copied(py, &object.data)).transpose()
    }

    /// Whether the object exists; also ``id in store``.
    fn contains(&self, py: Python<'_>, id: BytesLike<'_, '_>) -> PyResult<bool> {
        let id = id.as_slice();
        self.detached(py, |store| store.contains(id))
    }

    fn __contains__(&self, py: Python<'_>, id: BytesLike<'_, '_>) -> PyResult<bool> {
        self.contains(py, id)
    }

    /// Deletes an object; whether it existed. What was read of it stays valid.
    fn delete(&self, py: Python<'_>, id: BytesLike<'_, '_>) -> PyResult<bool> {
        let id = id.as_slice();
        self.detached(py, |store| store.delete(id))
    }

    /// As :meth:`delete`, but never waits for Redis: where it is not known on this node whether the object existed, it returns
    /// None, and ``answer`` is told later, on another thread.
    fn delete_later(&self, py: Python<'_>, id: BytesLike<'_, '_>, answer: Py<PyAny>) -> PyResult<Option<bool>> {
        let (id, answers) = (id.as_slice(), self.0.answers.sender()?);
        let tell = move |existed| {
            drop(answers.send(Box::new(move |py| answer.call1(py, (existed,)).map(drop))));
        };
        self.detached(py, |store| store.delete_later(id, tell))
    }

    /// Makes ``new`` share the content of ``original``, overwriting it; False, and nothing changed, where ``original`` does
    /// not exist.
    fn duplicate(&self, py: Python<'_>, original: BytesLike<'_, '_>, new: BytesLike<'_, '_>) -> PyResult<bool> {
        let (original, new) = (original.as_slice(), new.as_slice());
        self.detached(py, |store| store.duplicate(original, new))
    }

    /// As :meth:`duplicate`, but never waits for Redis: False also where ``original`` is not on this node.
    fn duplicate_here(&self, py: Python<'_>, original: BytesLike<'_, '_>, new: BytesLike<'_, '_>) -> PyResult<bool> {
        let (original, new) = (original.as_slice(), new.as_slice());
        self.detached(py, |store| store.duplicate_here(original, new))
    }

    /// Blocks until the object exists, and returns it; None after ``timeout`` seconds, or when ``cancel`` is cancelled.
    ///
    /// Signal handlers run meanwhile, so Ctrl-C ends it.
    #[pyo3(signature = (id, timeout = None, cancel = None))]
    fn wait(
        &self,
        py: Python<'_>,
        id: BytesLike<'_, '_>,
        timeout: Option<f64>,
        cancel: Option<&Bound<'_, CancelToken>>,
    ) -> PyResult<Option<Object>> {
        let deadline = deadline(timeout)?;
        Ok(wait(py, &self.0.store, id.as_slice(), deadline, cancel.map(Bound::get))?.map(Object))
    }

    /// The object if it exists; otherwise ``answer`` is called with it, on another thread, as soon as it does.
    fn get_or_park(&self, py: Python<'_>, id: BytesLike<'_, '_>, answer: Py<PyAny>) -> PyResult<Py<PyAny>> {
        let (id, answers) = (id.as_slice(), self.0.answers.sender()?);
        let tell = move |object| {
            drop(answers.send(Box::new(move |py| answer.call1(py, (Object(object),)).map(drop))));
        };
        match self.detached(py, |store| store.get_or_park(id, tell))? {
            Parked::Ready(object) => Ok(Py::new(py, Object(object))?.into_any()),
            Parked::Waiting(ticket) => Ok(Py::new(py, Ticket::new(ticket))?.into_any()),
        }
    }

    /// Duplicates if ``original`` exists, and returns None; otherwise does so as soon as it exists, and then calls ``done``, on
    /// another thread, with None or with what went wrong.
    fn duplicate_or_park(
        &self,
        py: Python<'_>,
        original: BytesLike<'_, '_>,
        new: BytesLike<'_, '_>,
        done: Py<PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let (original, new, answers) = (original.as_slice(), new.as_slice(), self.0.answers.sender()?);
        let tell = move |result: Result<(), Error>| {
            drop(answers.send(Box::new(move |py| done.call1(py, (result.err().map(PyErr::from),)).map(drop))));
        };
        match self.detached(py, |store| store.duplicate_or_park(original, new, tell))? {
            Parked::Ready(()) => Ok(py.None()),
            Parked::Waiting(ticket) => Ok(Py::new(py, Ticket::new(ticket))?.into_any()),
        }
    }

    /// As :meth:`get`, for asyncio: ``await store.get_async(id)``. What is in this process is there at once; everything else is
    /// done on a thread of the loop's executor. Needs a running event loop, as all of these do.
    fn get_async<'py>(slf: &Bound<'py, Self>, id: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let bytes: BytesLike<'_, '_> = id.extract()?;
        match slf.get().0.store.get_at_once(bytes.as_slice())? {
            Poll::Ready(found) => asynchronous::ready(slf.py(), found.map(Object)),
            Poll::Pending => in_thread(slf, "get", &[id]),
        }
    }

    /// The object as soon as it exists, without a thread that waits: ``await asyncio.wait_for(store.wait_async(id), 10)``.
    /// Cancelling it takes the request back. Raises :class:`ClosedError` where the store is closed meanwhile.
    fn wait_async<'py>(&self, py: Python<'py>, id: BytesLike<'_, '_>) -> PyResult<Bound<'py, PyAny>> {
        asynchronous::wait(py, &self.0, id.as_slice())
    }

    /// As :meth:`put`. The buffers must not be changed before it is done, also where it is cancelled: what has begun comes to its
    /// end.
    #[pyo3(signature = (id, data, metadata = None), text_signature = "($self, id, data, metadata=b'')")]
    fn put_async<'py>(
        slf: &Bound<'py, Self>,
        id: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        metadata: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match metadata {
            Some(metadata) => in_thread(slf, "put", &[id, data, metadata]),
            None => in_thread(slf, "put", &[id, data]),
        }
    }

    /// As :meth:`contains`.
    fn contains_async<'py>(slf: &Bound<'py, Self>, id: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        in_thread(slf, "contains", &[id])
    }

    /// As :meth:`delete`.
    fn delete_async<'py>(slf: &Bound<'py, Self>, id: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        in_thread(slf, "delete", &[id])
    }

    /// As :meth:`duplicate`.
    fn duplicate_async<'py>(
        slf: &Bound<'py, Self>,
        original: &Bound<'py, PyAny>,
        new: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        in_thread(slf, "duplicate", &[original, new])
    }

    /// What the store holds and who waits.
    fn info(&self, py: Python<'_>) -> PyResult<Info> {
        Ok(detached(py, || self.0.store.info())?.into())
    }

    /// Everything worth seeing of the store, as a dictionary: what it holds, what was asked of it, who waits, how far replication is, and whether
    /// all is well (``stats["health"]``). An attached process gets the numbers of the store that it is attached to.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = self.detached(py, crate::ObjectStore::stats)?;
        let json = serde_json::to_string(&stats).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        py.import("json")?.call_method1("loads", (json,))
    }

    /// How many objects there are, and the bytes of their data and metadata. Backend ``redis``: by looking at every object (some
    /// seconds for a million), where :meth:`info` tells what counters say, which may be off. ``tiered``: what is on this node.
    fn count(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        self.detached(py, crate::ObjectStore::count)
    }

    /// All objects, one after the other, in an order of the store's own: ``for object in store.list(): print(object.id)``. They are looked
    /// up in pages, so that memory stays bounded. ``tiered``: what is on this node.
    ///
    /// An object that exists throughout is listed, with the backend ``redis`` perhaps twice; what is stored or deleted meanwhile may or may not
    /// be.
    fn list(&self) -> Objects {
        Objects::new(Arc::clone(&self.0))
    }

    /// What is known of one object, or None if it does not exist. ``verify``: all of its bytes are read and compared with their checksums; where
    /// they are wrong, its state is ``damaged``, and nothing is changed.
    #[pyo3(signature = (id, verify = false))]
    fn describe(&self, py: Python<'_>, id: BytesLike<'_, '_>, verify: bool) -> PyResult<Option<Listed>> {
        let id = id.as_slice();
        Ok(self.detached(py, |store| store.describe(id, verify))?.map(Listed))
    }

    /// Makes everything acknowledged so far survive a power loss, whatever the durability.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, crate::ObjectStore::flush)
    }

    /// Deletes every object. Whoever waits goes on waiting.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, crate::ObjectStore::clear)
    }

    /// Closes the store: later calls raise :class:`ClosedError`, and so do blocked waits; what was read stays valid. Closing twice
    /// is fine, and so is not closing at all: open stores are closed when the interpreter exits.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.0.close(py)
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.store.is_closed()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let info = detached(py, || self.0.store.info())?;
        Ok(format!("<ObjectStore: {} in {}>", info.backend, info.place))
    }
}
