import os
import sys
from asyncio import Future
from types import TracebackType
from typing import Callable, Iterator, List, Literal, Optional, Tuple, Type, TypedDict, Union, final

if sys.version_info >= (3, 12):
    from collections.abc import Buffer as _Buffer
else:
    _Buffer = Union[bytes, bytearray, memoryview]

__all__ = ["CancelToken", "Info", "Listed", "Object", "ObjectStore", "ObjectWriter", "Ticket", "__version__", "read_config"]

__version__: str

_Path = Union[str, "os.PathLike[str]"]

class _MemorySettings(TypedDict, total=False):
    max_size_mb: int
    object_ttl_seconds: int

class _LocalSettings(TypedDict, total=False):
    path: _Path
    max_size_mb: int
    durability: Literal["process", "disk"]
    object_ttl_seconds: int
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

class _HealthReason(TypedDict):
    """One thing that does not work."""

    kind: str
    """What it is, in one word: ``redis_away`` (no connection), ``not_pushed`` (Redis can be reached, and nothing can be pushed),
    ``refused`` (Redis refuses some of what it is sent, or takes less than is written), ``not_confirmed`` (too few replicas have it),
    ``not_heard`` (what other nodes do is not heard), ``writes_refused`` (the disk has failed)."""
    text: str
    """The same in a sentence, with the last error."""
    since_seconds: float
    """For how long, in seconds."""

class _Health(TypedDict):
    """Whether all is well, and what is not."""

    state: Literal["ok", "degraded"]
    """``ok``, or ``degraded`` where there is a reason."""
    reasons: List[_HealthReason]
    """What does not work, the longest standing first. Empty where all is well."""

class _OperationStats(TypedDict):
    """What was asked of a store so far, by this process, by clients of its server and by attached processes. What an attached process
    answers from what it remembers is not among it."""

    hits: int
    """Gets so far that found their object here; with ``redis``, in Redis."""
    misses: int
    """Gets so far that did not. With ``tiered`` Redis may have had it: see ``fetches``."""
    read_bytes: int
    """Bytes of data that gets have handed out so far."""
    puts: int
    """Objects put so far, streamed ones included."""
    put_bytes: int
    """Bytes of data of these."""
    deletes: int
    """Deletes so far, of objects that existed or not."""
    duplicates: int
    """Duplicates made so far."""

class _WaitStats(TypedDict):
    """Who waits for objects that do not exist yet."""

    requests: int
    """Requests that wait now."""
    ids: int
    """Different ids that these wait for."""
    oldest_seconds: float
    """How long the oldest of these has waited, in seconds; 0 where nobody waits."""
    begun: int
    """Requests that had to wait so far."""

class _LocalStats(TypedDict):
    """The journal on this node's disk."""

    live_bytes: int
    """Bytes of files that live objects take; puts wait or fail near four fifths of the capacity."""
    pinned_bytes: int
    """Dead bytes that cannot be freed yet, as somebody reads them."""
    catalog_bytes: int
    """Bytes of the catalog."""
    record_segments: int
    """Segment files of records."""
    body_segments: int
    """Segment files of large bodies."""
    mapped_segments: int
    """Segments that are mapped into memory."""
    reclaimed_segments: int
    """Segments of records reclaimed so far."""
    freed_bytes: int
    """Bytes of dead large bodies freed so far."""
    evictions: int
    """Objects evicted so far to make room, which Redis has."""
    evicted_bytes: int
    """Bytes of these."""
    expired: int
    """Objects dropped so far whose lifetime was over."""
    stalls: int
    """Puts held back so far, because room is used up faster than it is made."""
    stalled_seconds: float
    """How long they were held back, in seconds, together."""
    room_waits: int
    """Times so far that a write had to wait for room."""
    room_waited_seconds: float
    """How long these waits took, in seconds, together."""

class _ReplicationStats(TypedDict):
    """What goes to Redis and comes from other nodes."""

    is_reachable: bool
    """Whether Redis could be reached at the last try."""
    dirty_records: int
    """Writes that Redis does not have yet. One that a later write to its id has overtaken counts until its turn comes."""
    dirty_bytes: int
    """Bytes of these."""
    oldest_dirty_seconds: float
    """How long ago the oldest of these was written, in seconds, by Redis's clock; 0 where there is none."""
    is_estimate: bool
    """Whether ``dirty_records`` and ``dirty_bytes`` are an estimate: more than 65 536 records were to be looked at."""
    unsettled_bytes: int
    """Bytes of the journal that Redis may still lose, in a failover: not pushed, or acknowledged a moment ago."""
    held_records: int
    """Writes that Redis refuses now, that cannot be read now, or that break the connection; each is tried again."""
    pushes: int
    """Writes that Redis has taken so far, each time that it was sent."""
    pushed_bytes: int
    """Bytes of these, before compression."""
    overtaken: int
    """Writes so far that came too late: Redis had a newer one."""
    refusals: int
    """Times so far that Redis refused a write (no memory, no permission)."""
    connects: int
    """Connections to Redis made so far."""
    connect_failures: int
    """Tries so far to connect that failed."""
    disconnects: int
    """Connections so far that broke while something was pushed or heard."""
    events: int
    """Events of this and other nodes heard so far."""
    last_event_seconds: Optional[float]
    """How long ago the last event was heard, in seconds; none where none was heard in this open."""
    event_gaps: int
    """Times so far that events may have been missed."""
    has_suspects: bool
    """Whether objects are held here that have to be checked with Redis before they are served, as events may have been missed."""
    peers: int
    """Other nodes from which something was heard within the last minute."""
    fetches: int
    """Objects that Redis was asked for so far, as they were not here or had to be checked."""
    fills: int
    """Objects of these that are kept here since."""
    fetching: int
    """Objects that are being fetched now."""

class _RedisStats(TypedDict):
    """The connections to Redis."""

    busy_connections: int
    """Connections in use now."""
    idle_connections: int
    """Connections that wait for something to do."""
    connects: int
    """Connections made so far."""
    connect_failures: int
    """Tries so far to connect that failed."""

class _KeeperStats(TypedDict):
    """The processes that are attached to a store."""

    attached: int
    """Processes that are attached now."""
    connections: int
    """Connections of these."""
    leases: int
    """Large objects, and places for them, that these processes hold or remember."""
    waits: int
    """Requests of theirs that wait."""

class _ProcessStats(TypedDict):
    """The process that has a store open."""

    id: int
    """Its id."""
    resident_bytes: int | None
    """Memory that it takes, in bytes, mapped segments in memory included. None where the system does not say, as without /proc."""
    threads: int | None
    """Its threads. None as for memory."""
    descriptors: int | None
    """Descriptors that it has open. None where the system does not say."""
    descriptors_max: int
    """The most that it may have open."""

class _Stats(TypedDict):
    """A snapshot of a store."""

    version: str
    """The version of the program that has the store open."""
    backend: str
    """``memory``, ``local``, ``redis`` or ``tiered``."""
    place: str
    """Where the objects are: ``memory``, the directory, the address of Redis without its password, or (``tiered``) both of these."""
    open_seconds: float
    """How long the store has been open, in seconds."""
    health: _Health
    """Whether all is well, and what is not."""
    objects: int
    """Objects: with ``tiered`` those held on this node, with ``redis`` about as many as Redis holds."""
    payloads: int
    """Payloads of these objects; one that several objects share counts once. In Redis each object has its own."""
    payload_bytes: int
    """Bytes of those payloads, metadata included."""
    capacity_bytes: int
    """The most bytes that the store may take, on disk or in memory; with ``redis``, that Redis may take for everything in it (0: no
    limit)."""
    physical_bytes: int
    """Bytes that it takes now, with what is dead but not yet reclaimed; with ``redis``, that Redis takes for everything in it."""
    damaged_objects: int
    """Objects found damaged so far; each is a miss and a line in the log."""
    operations: _OperationStats
    """What was asked of the store so far."""
    waits: _WaitStats
    """Who waits for objects that do not exist yet."""
    local: Optional[_LocalStats]
    """The journal on this node's disk; none with ``memory`` and ``redis``."""
    replication: Optional[_ReplicationStats]
    """What goes to Redis and comes from other nodes; none but with ``tiered``."""
    redis: Optional[_RedisStats]
    """The connections to Redis; none but with ``redis``."""
    keeper: Optional[_KeeperStats]
    """The processes that are attached; none where the process that has the store open keeps it for nobody else."""
    process: _ProcessStats
    """The process that has the store open."""

@final
class Listed:
    """What is known of one object."""

    @property
    def id(self) -> bytes:
        """Its id; empty where that cannot be read any more, which is damage."""

    @property
    def data_bytes(self) -> int:
        """Bytes of its data. Of a value of Scaler's Redis backend, which says no more, of data and metadata together."""

    @property
    def metadata_bytes(self) -> int:
        """Bytes of its metadata."""

    @property
    def stored_at(self) -> Optional[float]:
        """When it was stored, in seconds since 1970: the clock of its version, which is Redis's where the store has one. None for a value of Scaler's
        Redis backend."""

    @property
    def version(self) -> Optional[str]:
        """Which write it is from: ``MILLISECONDS.COUNTER@NODE``."""

    @property
    def expires_at(self) -> Optional[float]:
        """When it ends by itself, in seconds since 1970 on Redis's clock; None: never, or not decided yet."""

    @property
    def state(self) -> Literal["kept", "dirty", "clean", "suspect", "remote", "damaged"]:
        """``kept`` (here, and shared with nobody), ``dirty`` (Redis may lack it), ``clean`` (Redis has it), ``suspect`` (checked before it is handed
        out), ``remote`` (in Redis alone) or ``damaged``."""

    @property
    def damage(self) -> Optional[str]:
        """What is wrong with it, where it is damaged."""

    @property
    def place(self) -> str:
        """Where it is: files of the journal and offsets in them, ``memory`` or ``Redis``."""

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

    def stats(self) -> _Stats:
        """Everything worth seeing of the store, as a dictionary: what it holds, what was asked of it, who waits, how far replication is, and whether
        all is well (``stats["health"]``). An attached process gets the numbers of the store that it is attached to."""

    def count(self) -> Tuple[int, int]:
        """How many objects there are, and the bytes of their data and metadata. Backend ``redis``: by looking at every object (some
        seconds for a million), where :meth:`info` tells what counters say, which may be off. ``tiered``: what is on this node."""

    def list(self) -> Iterator[Listed]:
        """All objects, one after the other, in an order of the store's own: ``for object in store.list(): print(object.id)``. They are looked
        up in pages, so that memory stays bounded. ``tiered``: what is on this node.

        An object that exists throughout is listed, with the backend ``redis`` perhaps twice; what is stored or deleted meanwhile may or may not
        be."""

    def describe(self, id: _Buffer, verify: bool = False) -> Optional[Listed]:
        """What is known of one object, or None if it does not exist. ``verify``: all of its bytes are read and compared with their checksums; where
        they are wrong, its state is ``damaged``, and nothing is changed."""

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
