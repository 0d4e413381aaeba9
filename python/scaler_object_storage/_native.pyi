import os
import sys
from asyncio import Future
from types import TracebackType
from typing import Callable, Literal, Optional, Tuple, Type, TypedDict, Union, final

if sys.version_info >= (3, 12):
    from collections.abc import Buffer as _Buffer
else:
    _Buffer = Union[bytes, bytearray, memoryview]

__all__ = ["CancelToken", "Info", "Object", "ObjectStore", "ObjectWriter", "Ticket", "__version__", "read_config"]

__version__: str

_Path = Union[str, "os.PathLike[str]"]

class _MemorySettings(TypedDict, total=False):
    max_size_mb: int

class _LocalSettings(TypedDict, total=False):
    path: _Path
    max_size_mb: int
    durability: Literal["process", "disk"]
    lock_wait_ms: int
    keeper_command: _Path
    keeper_response_timeout_ms: int
    keeper_idle_seconds: int

class _RedisSettings(TypedDict, total=False):
    url: str
    max_object_size_mb: int
    key_prefix: str
    connection_pool_size: int
    compression: Literal["lz4", "none"]
    value_format: Literal["tiered", "python"]
    connect_timeout_ms: int
    response_timeout_ms: int
    object_ttl_seconds: int
    tombstone_ttl_seconds: int
    wait_replicas: int
    drain_timeout_ms: int
    settle_ms: int
    tls_ca: _Path
    tls_cert: _Path
    tls_key: _Path

class _Settings(TypedDict, total=False):
    backend: Literal["memory", "local", "redis", "tiered"]
    memory: _MemorySettings
    local: _LocalSettings
    redis: _RedisSettings

def read_config(path: _Path) -> _Settings:
    """The settings that :meth:`ObjectStore.from_config` would open, as arguments for :class:`ObjectStore`: those that the file or the
    environment gives, and always ``local["path"]``."""

@final
class Object:
    """What is stored under an id: data and metadata, either of which may be empty.

    It stays valid and unchanged whatever becomes of the id and of the store.
    """

    @property
    def data(self) -> memoryview:
        """The payload, read-only. Large ones share the store's own pages: nothing is copied."""

    @property
    def metadata(self) -> bytes:
        """What the writer said about the payload; the store does not interpret it."""

    def __bytes__(self) -> bytes:
        """The payload, copied."""

    def __len__(self) -> int:
        """Bytes of the payload."""

@final
class Info:
    """What a store holds and who waits."""

    @property
    def backend(self) -> Literal["memory", "local", "redis", "tiered"]: ...
    @property
    def place(self) -> str:
        """The directory, the address of Redis, or ``memory``."""

    @property
    def objects(self) -> int: ...
    @property
    def payloads(self) -> int:
        """Payloads stored for the objects; objects that share one count it once."""

    @property
    def payload_bytes(self) -> int:
        """Bytes of the payloads, metadata included."""

    @property
    def capacity_bytes(self) -> int:
        """The most bytes that the store may take."""

    @property
    def physical_bytes(self) -> int:
        """Bytes that it takes now, with what is dead but not yet reclaimed."""

    @property
    def damaged_objects(self) -> int:
        """Objects found damaged since the store was opened; each is a miss and a line in the log."""

    @property
    def waiting_requests(self) -> int: ...
    @property
    def waiting_ids(self) -> int: ...
    @property
    def oldest_wait(self) -> float:
        """How long the oldest request has waited, in seconds."""

@final
class CancelToken:
    """Ends waits from another thread."""

    def __new__(cls) -> CancelToken: ...
    def cancel(self) -> None:
        """Ends every wait that was given this token, now and later."""

    @property
    def cancelled(self) -> bool: ...

@final
class Ticket:
    """A parked request. Dropping the ticket takes the request back."""

    def take_back(self) -> bool:
        """Takes the request back; False where it has been answered, or is being answered just now."""

@final
class ObjectWriter:
    """An object whose data arrives in pieces. Nothing exists before :meth:`commit`.

    As a context manager it commits at the end of the block, and discards what was written if the block raises.
    """

    def write(self, piece: _Buffer) -> int:
        """Appends a piece of the data; its length, as files return it."""

    def commit(self) -> None:
        """Makes the object exist, and wakes whoever waits for it."""

    def discard(self) -> None:
        """Leaves no trace of it. After a commit this does nothing."""

    def __enter__(self) -> ObjectWriter: ...
    def __exit__(
        self,
        type: Optional[Type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None: ...

@final
class ObjectStore:
    """A store of objects. Every method may be called from any thread, and lets other threads run meanwhile.

    The settings are those of the section ``[object_storage_server]`` of the config file, with the same names, defaults and
    limits: ``ObjectStore(backend="tiered", local={"path": "/var/lib/objects"}, redis={"url": "redis://host:6379/0"})``.

    Ids have 1 to 512 bytes, with the backend ``redis`` 0 to 65 535. A buffer that is handed over must not be changed until the method returns.
    """

    def __new__(
        cls,
        *,
        backend: Literal["memory", "local", "redis", "tiered"] = "local",
        memory: Optional[_MemorySettings] = None,
        local: Optional[_LocalSettings] = None,
        redis: Optional[_RedisSettings] = None,
    ) -> ObjectStore: ...
    @staticmethod
    def from_config(path: _Path) -> ObjectStore:
        """Opens the store that the server would open with this config file: environment variables (``SCALER_OBJECT_STORAGE_*``)
        come before the file."""

    @staticmethod
    def attach(
        *,
        backend: Literal["local", "tiered"] = "local",
        local: Optional[_LocalSettings] = None,
        redis: Optional[_RedisSettings] = None,
    ) -> ObjectStore:
        """Attaches to the store in the directory that another process of this machine keeps open: a server, or a keeper, which is started
        where there is none, and ends when nobody has been attached for a minute (``local["keeper_idle_seconds"]``).

        All processes that attach share one store. Every method means the same; large objects are read and written where they stand. The
        keeper may end and be replaced in the meantime: a write whose answer is lost with it raises :class:`UnansweredError`, what was read
        stays valid. Signal handlers run while a call waits for the keeper, and what they raise, the call raises."""

    @staticmethod
    def attach_config(path: _Path) -> ObjectStore:
        """As :meth:`attach`, with the settings that :meth:`from_config` would take."""

    def put(self, id: _Buffer, data: _Buffer, metadata: _Buffer = b"") -> None:
        """Stores an object, or overwrites it, and wakes whoever waits for it. When it returns, the write is as safe as the
        durability says."""

    def writer(self, id: _Buffer, data_bytes: int, metadata: _Buffer = b"") -> ObjectWriter:
        """Begins an object whose data arrives in pieces: ``data_bytes`` of them in all."""

    def get(self, id: _Buffer) -> Optional[Object]:
        """The object, or None."""

    def get_here(self, id: _Buffer) -> Optional[Object]:
        """As :meth:`get`, but never waits for Redis: None also where the object is not on this node."""

    def get_bytes(self, id: _Buffer) -> Optional[bytes]:
        """The payload, copied; or None."""

    def contains(self, id: _Buffer) -> bool:
        """Whether the object exists; also ``id in store``."""

    def __contains__(self, id: _Buffer, /) -> bool: ...
    def delete(self, id: _Buffer) -> bool:
        """Deletes an object; whether it existed. What was read of it stays valid."""

    def delete_later(self, id: _Buffer, answer: Callable[[bool], object]) -> Optional[bool]:
        """As :meth:`delete`, but never waits for Redis: where it is not known on this node whether the object existed, it returns
        None, and ``answer`` is told later, on another thread."""

    def duplicate(self, original: _Buffer, new: _Buffer) -> bool:
        """Makes ``new`` share the content of ``original``, overwriting it; False, and nothing changed, where ``original`` does
        not exist."""

    def duplicate_here(self, original: _Buffer, new: _Buffer) -> bool:
        """As :meth:`duplicate`, but never waits for Redis: False also where ``original`` is not on this node."""

    def wait(
        self, id: _Buffer, timeout: Optional[float] = None, cancel: Optional[CancelToken] = None
    ) -> Optional[Object]:
        """Blocks until the object exists, and returns it; None after ``timeout`` seconds, or when ``cancel`` is cancelled.

        Signal handlers run meanwhile, so Ctrl-C ends it."""

    def get_or_park(self, id: _Buffer, answer: Callable[[Object], object]) -> Union[Object, Ticket]:
        """The object if it exists; otherwise ``answer`` is called with it, on another thread, as soon as it does."""

    def duplicate_or_park(
        self, original: _Buffer, new: _Buffer, done: Callable[[Optional[Exception]], object]
    ) -> Optional[Ticket]:
        """Duplicates if ``original`` exists, and returns None; otherwise does so as soon as it exists, and then calls ``done``, on
        another thread, with None or with what went wrong."""

    def get_async(self, id: _Buffer) -> Future[Optional[Object]]:
        """As :meth:`get`, for asyncio: ``await store.get_async(id)``. What is in this process is there at once; everything else is
        done on a thread of the loop's executor. Needs a running event loop, as all of these do."""

    def wait_async(self, id: _Buffer) -> Future[Object]:
        """The object as soon as it exists, without a thread that waits: ``await asyncio.wait_for(store.wait_async(id), 10)``.
        Cancelling it takes the request back. Raises :class:`ClosedError` where the store is closed meanwhile."""

    def put_async(self, id: _Buffer, data: _Buffer, metadata: _Buffer = b"") -> Future[None]:
        """As :meth:`put`. The buffers must not be changed before it is done, also where it is cancelled: what has begun comes to its
        end."""

    def contains_async(self, id: _Buffer) -> Future[bool]:
        """As :meth:`contains`."""

    def delete_async(self, id: _Buffer) -> Future[bool]:
        """As :meth:`delete`."""

    def duplicate_async(self, original: _Buffer, new: _Buffer) -> Future[bool]:
        """As :meth:`duplicate`."""

    def info(self) -> Info:
        """What the store holds and who waits."""

    def count(self) -> Tuple[int, int]:
        """How many objects there are, and the bytes of their data and metadata. Backend ``redis``: by looking at every object (some
        seconds for a million), where :meth:`info` tells what counters say, which may be off. ``tiered``: what is on this node."""

    def flush(self) -> None:
        """Makes everything acknowledged so far survive a power loss, whatever the durability."""

    def clear(self) -> None:
        """Deletes every object. Whoever waits goes on waiting."""

    def close(self) -> None:
        """Closes the store: later calls raise :class:`ClosedError`, and so do blocked waits; what was read stays valid. Closing twice
        is fine, and so is not closing at all: open stores are closed when the interpreter exits."""

    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> ObjectStore: ...
    def __exit__(
        self,
        type: Optional[Type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None: ...
