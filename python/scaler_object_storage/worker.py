# Scaler has no types, and need not be installed.
# mypy: disable-error-code="import-not-found, import-untyped"
"""The machine's store linked into Scaler's workers: a task's arguments and results do not go through a socket to a server.

    scaler_worker_manager baremetal_native ... --preload 'scaler_object_storage.worker:link("config.toml")'

Without a file, ``--preload scaler_object_storage.worker:link``, the settings are those of a server without a file.
"""

import logging
import multiprocessing
import os
import threading
from multiprocessing import util
from typing import TYPE_CHECKING, Callable, Optional, Set, Type, TypeVar, Union

from scaler.config.types.address import AddressConfig
from scaler.io.mixins import SyncObjectStorageConnector
from scaler.utility.exceptions import ObjectStorageException
from scaler.utility.identifiers import ClientID, ObjectID
from scaler.worker.agent.processor.processor import Processor

from scaler_object_storage._native import CancelToken, Object, ObjectStore, read_config
from scaler_object_storage.exceptions import ConfigError, ObjectStoreError, TooLargeError, UnansweredError, UnreachableError

if TYPE_CHECKING:
    from scaler.protocol.capnp import Task

    from scaler_object_storage._native import _RedisSettings

__all__ = ["LinkedObjectStorageConnector", "link"]

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# How long the store is given for an object that the node does not hold. Then the object storage server is asked: Redis may be away, may
# not answer, or may be full, so that only the server has the object. Most of it is time for a large object.
_PATIENCE_SECONDS_MAX = 1.0

# After it was in vain it is halved, down to this, until something comes through Redis again.
_PATIENCE_SECONDS_MIN = 0.05

# Generous: the server may have much to push before the probe.
_SHARED_SECONDS_MAX = 10.0

# Without Redis in between: the server has acknowledged the probe.
_SHARED_HERE_SECONDS_MAX = 0.5

# How often a write is made whose answer was lost with its keeper, until the object storage server is used for it.
_ATTEMPTS_MAX = 5

# Shorter objects are `bytes`: a view costs more than it saves.
_VIEW_BYTES_MIN = 64 << 10

# Scaler kills a processor three seconds after it asked it to end. What Redis does not have by then is pushed by the keeper.
_CLOSE_SECONDS_MAX = 2.0

# Smaller results are never too large: the least limits of all, a max_object_size_mb of 1 and a max_size_mb of 16, are above.
_CHECKED_BYTES_MIN = 1 << 20

# The signal that asks it to is not handled while a call of the backend `redis` waits for Redis.
_CONNECT_TIMEOUT_MS, _RESPONSE_TIMEOUT_MS = 1000, 2000


def link(config_path: Optional[Union[str, "os.PathLike[str]"]] = None, copy: bool = False) -> None:
    """Attaches the processor that runs this to the store that the config file describes, in the place of its connection to the
    object storage server.

    The file is one that the server takes; without it, the settings are the defaults and what the environment says. With ``tiered``, every process of this machine that is linked shares one store, and the
    server of the machine does where it keeps the same directory; where there is none, a keeper is started. With ``local`` the object
    storage server must keep the same directory. With ``redis`` nothing is kept on the machine.

    Large arguments are handed to the client's serializer as a read-only ``memoryview`` of the store's pages. Scaler's own serializer takes
    that; ``copy=True`` is for those that want ``bytes``.

    Where the store cannot be linked, the log says why and the processor goes on with its object storage server: nothing is raised.
    """
    _log_where_scaler_logs()
    try:
        processor = multiprocessing.current_process()
        if not isinstance(processor, Processor):
            raise ConfigError("link() is for --preload of Scaler's workers, it does nothing in other processes")
        store = _store(config_path or os.environ.get("SCALER_OBJECT_STORAGE_CONFIG") or os.devnull)
        try:
            _check_shared(store, processor._connector_storage)
        except BaseException:
            store.close()
            raise
    except Exception as error:  # Scaler ends a processor whose preload raises, and starts the next one
        logger.error("object store not linked, the object storage server is used instead: %s", error)
        return
    connector = LinkedObjectStorageConnector(store, processor._connector_storage, copy)
    processor._connector_storage = connector
    _fail_tasks_with_too_large_results(processor, connector)
    if not copy:
        _hand_over_views(processor)
    util.Finalize(None, _close, args=(store,), exitpriority=0)
    info = store.info()
    logger.info("object store linked: %s backend, %s", info.backend, info.place)


class LinkedObjectStorageConnector(SyncObjectStorageConnector):  # type: ignore[misc]
    """What a processor uses to store and read objects, through the store of its machine.

    What the store refuses, or what does not come to it, goes to the object storage server.
    """

    def __init__(self, store: ObjectStore, server: SyncObjectStorageConnector, copy: bool = False) -> None:
        self._store = store
        self._server = server
        self._copy = copy
        self._destroyed = CancelToken()
        self._patience_seconds = _PATIENCE_SECONDS_MAX
        self._told: Set[Type[Exception]] = set()

    def destroy(self) -> None:
        """Ends blocked calls. The store stays open for whoever opened it: this may run in a signal handler, and must not block."""
        self._destroyed.cancel()
        self._server.destroy()

    @property
    def address(self) -> AddressConfig:
        return self._server.address

    def set_object(self, object_id: ObjectID, payload: bytes) -> None:
        self._check_not_destroyed()
        try:
            self._written(lambda: self._store.put(object_id, payload))
        except ObjectStoreError as error:
            self._tell(error)
            self._server.set_object(object_id, payload)

    def get_object(self, object_id: ObjectID, max_payload_length: int = 2**64 - 1) -> Union[bytes, memoryview]:
        """The object, as soon as it exists: a view of it where it is large, unless copies were asked for."""
        found = self._find(object_id)
        if found is None:
            payload: bytes = self._server.get_object(object_id, max_payload_length)
            return payload
        data = found.data if len(found) <= max_payload_length else found.data[:max_payload_length]
        return data if len(data) >= _VIEW_BYTES_MIN and not self._copy else bytes(data)

    def delete_object(self, object_id: ObjectID) -> bool:
        """Deletes the object; whether it existed, as far as the last attempt could tell."""
        self._check_not_destroyed()
        try:
            return self._written(lambda: self._store.delete(object_id))
        except ObjectStoreError as error:
            self._tell(error)
            existed: bool = self._server.delete_object(object_id)
            return existed

    def duplicate_object_id(self, object_id: ObjectID, new_object_id: ObjectID) -> None:
        """Duplicates the object, as soon as it exists."""
        self._check_not_destroyed()
        try:
            if self._written(lambda: self._store.duplicate_here(object_id, new_object_id)):
                return
            if self._find(object_id) is not None and self._written(lambda: self._store.duplicate(object_id, new_object_id)):
                return
        except ObjectStoreError as error:
            self._tell(error)
        self._server.duplicate_object_id(object_id, new_object_id)

    def check_size(self, payload: bytes, connect: Callable[[], SyncObjectStorageConnector]) -> None:
        """Raises ValueError where neither the store nor the object storage server takes an object of this size. ``connect`` makes a connection
        to that server, which it closes where the object is too large.

        The exception is a task's, which a client unpickles that need not have this package.
        """
        if len(payload) < _CHECKED_BYTES_MIN:
            return
        try:
            # Announced and given up again: nothing is stored.
            self._store.writer(os.urandom(32), len(payload)).discard()
            return
        except TooLargeError as error:
            reason = str(error)
        except ObjectStoreError:
            return  # what it is shows when the result is stored
        refusal = self._refusal_of_server(payload, connect)
        if refusal is not None:
            raise ValueError(
                f"the result of this task is too large: {reason}; raise redis.max_object_size_mb or local.max_size_mb of the store at "
                f"{self._store.info().place}. The object storage server at {self.address} does not take it either: {refusal}"
            )

    def _refusal_of_server(self, payload: bytes, connect: Callable[[], SyncObjectStorageConnector]) -> Optional[str]:
        """Why the object storage server does not take this; None if it does. A text, as the exception itself cannot be pickled."""
        probe = ObjectID(os.urandom(32))
        try:
            server = connect()
            try:
                server.set_object(probe, payload)
                server.delete_object(probe)
            finally:
                server.destroy()
        except Exception as error:
            return repr(error)
        return None

    def _written(self, write: Callable[[], _Result]) -> _Result:
        """Makes the write again where its keeper was lost in the middle of it: Scaler writes an id once."""
        for _ in range(_ATTEMPTS_MAX - 1):
            try:
                return write()
            except UnansweredError as error:
                self._check_not_destroyed()
                logger.info("%s; once more", error)
        return write()

    def _find(self, object_id: ObjectID) -> Optional[Object]:
        """The object; None where only the server can have it, or tell when it comes to exist."""
        self._check_not_destroyed()
        try:
            found = self._store.get_here(object_id)
            if found is not None:
                return found
            # Not `get`: signals are handled while this waits for Redis.
            found = self._store.wait(object_id, self._patience_seconds, self._destroyed)
        except ObjectStoreError as error:
            self._tell(error)
            return None
        self._check_not_destroyed()
        if found is not None:
            self._patience_seconds = _PATIENCE_SECONDS_MAX
        else:
            self._tell(UnreachableError(f"object {object_id.hex()} has not come through Redis in {self._patience_seconds} s"))
            self._patience_seconds = max(self._patience_seconds / 2, _PATIENCE_SECONDS_MIN)
        return found

    def _check_not_destroyed(self) -> None:
        if self._destroyed.cancelled:
            raise ObjectStorageException("connector is closed.")

    def _tell(self, error: ObjectStoreError) -> None:
        """Once for each kind of error."""
        if type(error) not in self._told:
            self._told.add(type(error))
            logger.warning("%s; the object storage server at %s is used instead", error, self.address)


def _store(config_path: Union[str, "os.PathLike[str]"]) -> ObjectStore:
    settings = read_config(config_path)
    backend = settings.get("backend", "local")
    if backend == "memory":
        raise ConfigError('backend "memory" keeps a worker\'s results from everybody else; use "tiered", "local" or "redis"')
    if backend != "redis":
        return ObjectStore.attach_config(config_path)
    redis: "_RedisSettings" = settings.setdefault("redis", {})
    redis.setdefault("connect_timeout_ms", _CONNECT_TIMEOUT_MS)
    redis.setdefault("response_timeout_ms", _RESPONSE_TIMEOUT_MS)
    redis.setdefault("connection_pool_size", 2)  # a processor reads one object after the other
    return ObjectStore(**settings)


def _fail_tasks_with_too_large_results(processor: Processor, connector: LinkedObjectStorageConnector) -> None:
    """Where Scaler makes bytes of a result, an exception is the task's. Where it stores them, it is the end of the processor, and the client
    hears of nothing but that. A Scaler that makes bytes elsewhere goes on as it does."""
    cache = getattr(processor, "_object_cache", None)
    serialize = getattr(cache, "serialize", None)
    if cache is None or serialize is None:
        return

    def connect() -> SyncObjectStorageConnector:
        of_scaler = {"security_config": processor._security_config} if hasattr(processor, "_security_config") else {}
        identity = ClientID.generate_client_id()
        return processor._backend.create_sync_object_storage_connector(identity=identity, address=connector.address, **of_scaler)

    def serialize_checked(client: object, result: object) -> bytes:
        payload: bytes = serialize(client, result)
        connector.check_size(payload, connect)
        return payload

    cache.serialize = serialize_checked


def _hand_over_views(processor: Processor) -> None:
    """Scaler makes `bytes` of what it has read before a serializer sees it. In its place, what was read is handed over as it is; a Scaler
    that does this elsewhere goes on making copies."""
    required = getattr(processor, "_Processor__get_required_object_ids_for_task", None)
    if required is None or not hasattr(processor, "_Processor__cache_required_object_ids"):
        return

    def cache_required_object_ids(task: "Task") -> None:
        for object_id in required(task):
            if not processor._object_cache.has_object(object_id):
                content = processor._connector_storage.get_object(object_id)
                processor._object_cache.add_object(task.source, object_id, content)

    processor._Processor__cache_required_object_ids = cache_required_object_ids


def _check_shared(store: ObjectStore, server: SyncObjectStorageConnector) -> None:
    """Clients write through their servers: what one writes that has another Redis, or none, a task would wait for for ever."""
    probe = ObjectID(os.urandom(32))
    info = store.info()
    is_local = info.backend == "local"
    seconds_max = _SHARED_HERE_SECONDS_MAX if is_local else _SHARED_SECONDS_MAX
    server.set_object(probe, b"")
    try:
        if store.get(probe) is None and store.wait(probe, seconds_max) is None and store.get(probe) is None:
            raise ConfigError(
                f"what the object storage server at {server.address} stores does not come to {info.place}: "
                + (
                    "with the backend local it must be a server on this machine that keeps the same directory"
                    if is_local
                    else "both must have the same Redis, database and key_prefix; or that server cannot write to its Redis at the moment"
                )
            )
    except UnreachableError as error:
        logger.warning("%s; linked without knowing whether %s shares it", error, server.address)
    finally:
        try:
            server.delete_object(probe)
        except Exception as error:  # Whether the store is shared is known all the same.
            logger.warning("the empty object %s stays on %s: %s", probe.hex(), server.address, error)


def _close(store: ObjectStore) -> None:
    """When the processor ends, for whatever reason but a kill: it waits until Redis has what it has written, as long as Scaler lets it."""
    closing = threading.Thread(target=store.close, name="object store closing", daemon=True)
    closing.start()
    closing.join(_CLOSE_SECONDS_MAX)
    logger.info("object store closed" if not closing.is_alive() else "object store left: its keeper pushes what Redis does not have yet")


def _log_where_scaler_logs() -> None:
    """In its processes Scaler sets up a logger of its own and not the root logger."""
    ours, scaler = logging.getLogger("scaler_object_storage"), logging.getLogger("scaler")
    if scaler.handlers and not scaler.propagate and not ours.handlers:
        for handler in scaler.handlers:
            ours.addHandler(handler)
        ours.setLevel(min(handler.level for handler in scaler.handlers))
        ours.propagate = False
