# Scaler has no types, and need not be installed.
# mypy: disable-error-code="import-not-found, import-untyped"
"""The store linked into Scaler's workers: a task's arguments and results go through a store in the worker's own process.

    scaler_worker_manager baremetal_native ... --preload 'scaler_object_storage.worker:link("config.toml")'
"""

import logging
import multiprocessing
import os
from multiprocessing import util
from typing import TYPE_CHECKING, Optional, Set, Type, Union

from scaler.config.types.address import AddressConfig
from scaler.io.mixins import SyncObjectStorageConnector
from scaler.utility.exceptions import ObjectStorageException
from scaler.utility.identifiers import ObjectID
from scaler.worker.agent.processor.processor import Processor

from scaler_object_storage._native import CancelToken, Object, ObjectStore, read_config
from scaler_object_storage.exceptions import ConfigError, ObjectStoreError, UnreachableError

if TYPE_CHECKING:
    from scaler_object_storage._native import _Settings

__all__ = ["LinkedObjectStorageConnector", "link"]

logger = logging.getLogger(__name__)

# How long the store is given for an object that the node does not hold. Then the object storage server is asked: Redis may be away, may
# not answer, or may be full, so that only the server has the object. Most of it is time for a large object.
_PATIENCE_SECONDS_MAX = 1.0

# After it was in vain it is halved, down to this, until something comes through Redis again.
_PATIENCE_SECONDS_MIN = 0.05

# Generous: the server may have much to push before the probe.
_SHARED_SECONDS_MAX = 10.0

_SLOTS_MIN = 16

# Scaler kills a processor three seconds after it asked it to end; what is left is pushed by the next one.
_DRAIN_MS_MAX = 2000

# The signal that asks it to is not handled while a call waits for Redis, as every call of the backend `redis` does.
_CONNECT_TIMEOUT_MS, _RESPONSE_TIMEOUT_MS = 1000, 2000


def link(config_path: Union[str, "os.PathLike[str]"]) -> None:
    """Gives the processor that runs this the store that the config file describes, in the place of its connection to the object
    storage server.

    The file is one that the server takes; its backend is ``tiered`` or ``redis``, with the Redis of the servers. Where ``slots`` is
    not set, processors keep their objects apart from the server's, in ``workers`` below ``local.path``, with two slots for each core
    and at least 16: a task that waits for others keeps its processor, and the worker starts another one meanwhile.

    Where the store cannot be linked, the log says why and the processor goes on with its object storage server: nothing is raised.
    """
    _log_where_scaler_logs()
    try:
        processor = multiprocessing.current_process()
        if not isinstance(processor, Processor):
            raise ConfigError("link() is for --preload of Scaler's workers, it does nothing in other processes")
        settings = _settings(config_path, is_stopped_to_suspend=processor._resume_event is None)
        store = ObjectStore(**settings)
        try:
            _check_shared(store, processor._connector_storage)
        except BaseException:
            store.close()
            raise
    except Exception as error:  # Scaler ends a processor whose preload raises, and starts the next one
        logger.error("object store not linked, the object storage server is used instead: %s", error)
        return
    processor._connector_storage = LinkedObjectStorageConnector(store, processor._connector_storage)
    util.Finalize(None, _close, args=(store,), exitpriority=0)
    info = store.info()
    logger.info("object store linked: %s backend, %s", info.backend, info.place)


class LinkedObjectStorageConnector(SyncObjectStorageConnector):  # type: ignore[misc]
    """What a processor uses to store and read objects, through a store in its own process.

    What the store refuses, or what does not come to it, goes to the object storage server.
    """

    def __init__(self, store: ObjectStore, server: SyncObjectStorageConnector) -> None:
        self._store = store
        self._server = server
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
            self._store.put(object_id, payload)
        except ObjectStoreError as error:
            self._tell(error)
            self._server.set_object(object_id, payload)

    def get_object(self, object_id: ObjectID, max_payload_length: int = 2**64 - 1) -> bytes:
        """The object, as soon as it exists."""
        found = self._find(object_id)
        if found is None:
            payload: bytes = self._server.get_object(object_id, max_payload_length)
            return payload
        return bytes(found) if len(found) <= max_payload_length else bytes(found.data[:max_payload_length])

    def delete_object(self, object_id: ObjectID) -> bool:
        self._check_not_destroyed()
        try:
            return self._store.delete(object_id)
        except ObjectStoreError as error:
            self._tell(error)
            existed: bool = self._server.delete_object(object_id)
            return existed

    def duplicate_object_id(self, object_id: ObjectID, new_object_id: ObjectID) -> None:
        """Duplicates the object, as soon as it exists."""
        self._check_not_destroyed()
        try:
            if self._store.duplicate_here(object_id, new_object_id):
                return
            if self._find(object_id) is not None and self._store.duplicate(object_id, new_object_id):
                return
        except ObjectStoreError as error:
            self._tell(error)
        self._server.duplicate_object_id(object_id, new_object_id)

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


def _settings(config_path: Union[str, "os.PathLike[str]"], is_stopped_to_suspend: bool) -> "_Settings":
    settings = read_config(config_path)
    backend = settings.get("backend", "local")
    if backend not in ("tiered", "redis"):
        raise ConfigError(f'backend "{backend}" keeps a worker\'s results from everybody else; use "tiered" or "redis"')
    if backend == "tiered" and is_stopped_to_suspend:
        raise ConfigError(
            "with --hard-processor-suspend a processor may be stopped before it has pushed a result; "
            'use the backend "redis", or suspend without that option'
        )
    local, redis = settings["local"], settings.setdefault("redis", {})
    if "slots" not in local:
        local["path"] = os.path.join(local["path"], "workers")
        local["slots"] = max(_SLOTS_MIN, 2 * (os.cpu_count() or 1))
    local.setdefault("lock_wait_ms", 1000)
    redis["drain_timeout_ms"] = min(redis.get("drain_timeout_ms", _DRAIN_MS_MAX), _DRAIN_MS_MAX)
    redis.setdefault("connect_timeout_ms", _CONNECT_TIMEOUT_MS)
    redis.setdefault("response_timeout_ms", _RESPONSE_TIMEOUT_MS)
    redis.setdefault("connection_pool_size", 2)  # a processor reads one object after the other
    return settings


def _check_shared(store: ObjectStore, server: SyncObjectStorageConnector) -> None:
    """Clients write through their servers: what one writes that has another Redis, or none, a task would wait for for ever."""
    probe = ObjectID(os.urandom(32))
    server.set_object(probe, b"")
    try:
        if store.get(probe) is None and store.wait(probe, _SHARED_SECONDS_MAX) is None and store.get(probe) is None:
            raise ConfigError(
                f"what the object storage server at {server.address} stores does not come to {store.info().place}: "
                "both must have the same Redis, database and key_prefix; or that server cannot write to its Redis at the moment"
            )
    except UnreachableError as error:
        logger.warning("%s; linked without knowing whether %s shares it", error, server.address)
    finally:
        try:
            server.delete_object(probe)
        except Exception as error:  # Whether the store is shared is known all the same.
            logger.warning("the empty object %s stays on %s: %s", probe.hex(), server.address, error)


def _close(store: ObjectStore) -> None:
    """When the processor ends, for whatever reason but a kill: what Redis does not have yet is pushed first."""
    store.close()
    logger.info("object store closed")


def _log_where_scaler_logs() -> None:
    """In its processes Scaler sets up a logger of its own and not the root logger."""
    ours, scaler = logging.getLogger("scaler_object_storage"), logging.getLogger("scaler")
    if scaler.handlers and not scaler.propagate and not ours.handlers:
        for handler in scaler.handlers:
            ours.addHandler(handler)
        ours.setLevel(min(handler.level for handler in scaler.handlers))
        ours.propagate = False
