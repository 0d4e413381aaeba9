"""The API of Scaler's Python Redis backend, on the stores of this package.

>>> from scaler_object_storage.redis_backend import RedisObjectStorageBackend
>>> backend = RedisObjectStorageBackend(redis_url="redis://localhost:6379/0")
>>> backend.put(b"my_object", b"Hello, World!", b"text/plain")
True
>>> backend.get(b"my_object")
(b'Hello, World!', b'text/plain')

``scaler.object_storage.redis_backend`` has the same classes. Both share one set of objects with every store,
server or backend that uses the same Redis and ``key_prefix``, and read what Scaler's Python Redis backend wrote there.
"""

import logging
import math
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Type, TypeVar, Union

from scaler_object_storage._native import ObjectStore
from scaler_object_storage.exceptions import ClosedError, DeniedError, ForkedError, TooLargeError, UnreachableError

if TYPE_CHECKING:
    from scaler_object_storage._native import _LocalSettings, _RedisSettings

if sys.version_info >= (3, 12):
    from collections.abc import Buffer
else:
    Buffer = Union[bytes, bytearray, memoryview]

__all__ = ["RedisObjectStorageBackend", "TieredObjectStorageBackend"]

_logger = logging.getLogger(__name__)

_Self = TypeVar("_Self", bound="_Backend")

_MIB = 1 << 20

# The store's own limit counts metadata too: so much of it, in MiB, is let through beside the data.
_METADATA_SIZE_MB_MAX = 1

# As ids are written in keys.
_HEXADECIMAL_DIGITS = tuple("0123456789abcdef")

# The longest id that a local tier holds, in bytes.
_LOCAL_ID_BYTES_MAX = 512

# How long `clear` waits for what was on its way to Redis, and how often it looks.
_CLEAR_WAIT_SECONDS_MAX = 1.0
_CLEAR_LOOK_AGAIN_SECONDS = 0.01


def _bytes_of(name: str, value: Buffer) -> int:
    try:
        return memoryview(value).nbytes
    except TypeError:
        raise TypeError(f"argument '{name}': a bytes-like object is required, not '{type(value).__name__}'") from None


class _Backend(ABC):
    """What both backends have in common."""

    def __init__(self, max_object_size_mb: float) -> None:
        if not 0 <= max_object_size_mb < math.inf:
            raise ValueError(f"max_object_size_mb is {max_object_size_mb}, not a number of MiB, or 0 for no limit")
        self._max_object_size_mb = max_object_size_mb
        self._data_bytes_max = int(max_object_size_mb * _MIB) if max_object_size_mb else None

    @abstractmethod
    def _holder(self, object_id: Buffer) -> ObjectStore:
        """The store that holds the object, if it exists."""

    def put(self, object_id: Buffer, data: Buffer, metadata: Buffer = b"") -> bool:
        """Stores an object, or overwrites it.

        ``object_id`` is any 0 to 65 535 bytes; ``metadata`` is not interpreted. Returns False, logs a warning and
        stores nothing, where ``data`` is larger than ``max_object_size_mb``, or ``metadata`` than 1 MiB.

        Raises ConnectionError where Redis is needed for it and cannot be reached, InvalidIdError for a longer id,
        RefusedError where Redis refuses (out of memory).
        """
        data_bytes = _bytes_of("data", data)
        if self._data_bytes_max is not None and data_bytes > self._data_bytes_max:
            _logger.warning(
                "object %s: %d bytes, the limit is %s MiB (max_object_size_mb): it is not stored",
                _shown(object_id),
                data_bytes,
                self._max_object_size_mb,
            )
            return False
        try:
            self._holder(object_id).put(object_id, data, metadata)
        except TooLargeError as error:
            _logger.warning("%s", error)
            return False
        return True

    def get(self, object_id: Buffer) -> Optional[Tuple[bytes, bytes]]:
        """The object's data and metadata, or None where it does not exist.

        Raises ConnectionError where Redis is needed for it and cannot be reached.
        """
        found = self._holder(object_id).get(object_id)
        return None if found is None else (bytes(found), found.metadata)

    def exists(self, object_id: Buffer) -> bool:
        """Whether the object exists. Raises as :meth:`get` does."""
        return self._holder(object_id).contains(object_id)

    def delete(self, object_id: Buffer) -> bool:
        """Deletes an object; whether it existed. Raises as :meth:`get` does."""
        return self._holder(object_id).delete(object_id)

    @abstractmethod
    def size(self) -> int:
        """Bytes of all objects, data and metadata, uncompressed.

        It looks at every object in Redis: some seconds for a million. ``ObjectStore.info()`` is quick, and about
        right."""

    @abstractmethod
    def clear(self) -> None:
        """Deletes every object under the prefix, on all nodes."""

    @abstractmethod
    def get_info(self) -> Dict[str, Any]:
        """What is stored, and how. As :meth:`size`, it looks at every object."""

    @abstractmethod
    def close(self) -> None:
        """Closes the backend: later calls raise ClosedError. Closing twice is fine."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        type: Optional[Type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def _info(self, backend: str, objects: int, size_bytes: int, used_memory: Optional[int]) -> Dict[str, Any]:
        return {
            "type": backend,
            "object_count": objects,
            "total_size_bytes": size_bytes,
            "max_object_size_mb": self._max_object_size_mb,
            "redis_used_memory": used_memory,
            "redis_used_memory_human": None if used_memory is None else _human(used_memory),
        }

    def _redis_settings(self, redis_url: str, key_prefix: str, connection_pool_size: int) -> "_RedisSettings":
        if key_prefix[-1:] in _HEXADECIMAL_DIGITS:
            _logger.warning(
                "key_prefix %r ends in a hexadecimal digit: as ids follow in hexadecimal, it may share keys with a shorter "
                "prefix; better end it with ':'",
                key_prefix,
            )
        limit = self._max_object_size_mb
        return {
            "url": redis_url,
            "max_object_size_mb": math.ceil(limit) + _METADATA_SIZE_MB_MAX if limit else 0,
            "key_prefix": key_prefix,
            "connection_pool_size": connection_pool_size,
        }


class RedisObjectStorageBackend(_Backend):
    """Objects in Redis and nowhere else: every call is a round trip, and what was stored is as safe as Redis is.

    :class:`TieredObjectStorageBackend` has the same methods and keeps a copy on the node.
    """

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379/0",
        max_object_size_mb: float = 100,
        key_prefix: str = "scaler:obj:",
        connection_pool_size: int = 10,
    ) -> None:
        """Connects.

        ``redis_url``: ``redis://[user[:password]@]host[:port][/database]``, ``rediss://`` (TLS),
        ``redis+unix:///socket``, ``redis+sentinel://host:port/master``, ``redis+cluster://host:port``.
        ``max_object_size_mb``: MiB of the largest data that :meth:`put` takes; 0 is no limit.
        ``key_prefix``: what every key begins with. Backends with different prefixes never see each other's objects; end
        prefixes with ``:``, or anything that is no hexadecimal digit, as the id follows in hexadecimal.
        ``connection_pool_size``: the most connections used at a time.

        Raises ConnectionError where Redis cannot be reached, ConfigError (a ValueError) for a setting that is not
        valid."""
        super().__init__(max_object_size_mb)
        settings = self._redis_settings(redis_url, key_prefix, connection_pool_size)
        self._store = ObjectStore(backend="redis", redis=settings)

    def _holder(self, object_id: Buffer) -> ObjectStore:
        return self._store

    def size(self) -> int:
        """Bytes of all objects, data and metadata, uncompressed.

        It looks at every object in Redis: some seconds for a million. ``ObjectStore.info()`` is quick, and about
        right. Raises ConnectionError where Redis cannot be reached."""
        return self._store.count()[1]

    def clear(self) -> None:
        """Deletes every object under the prefix, on all nodes.

        Raises ConnectionError where Redis cannot be reached.
        """
        self._store.clear()

    def get_info(self) -> Dict[str, Any]:
        """What is stored, and how; as :meth:`size`, it looks at every object.

        ``type`` ("redis"), ``object_count``, ``total_size_bytes`` (data and metadata, uncompressed),
        ``max_object_size_mb``, ``redis_used_memory`` (bytes that this Redis takes, whatever for) and
        ``redis_used_memory_human`` (``"1.05M"``).

        Raises ConnectionError where Redis cannot be reached.
        """
        objects, size_bytes = self._store.count()
        return self._info("redis", objects, size_bytes, self._store.info().physical_bytes)

    def close(self) -> None:
        """Closes the connections: later calls raise ClosedError. Closing twice is fine."""
        self._store.close()


class TieredObjectStorageBackend(_Backend):
    """Objects in a journal on this node's disk, shared with other nodes through Redis: the one to be preferred.

    What this node has stored or once read is read from its own disk. A put returns when it is in the journal; from then
    on it survives the death of the process, and it reaches Redis, and the other nodes, a moment later, in the
    background. While Redis is away the backend works on with what the node holds.

    Objects whose id is empty or longer than 512 bytes are held in Redis alone.
    """

    def __init__(
        self,
        local_path: Optional[Union[str, "os.PathLike[str]"]] = None,
        redis_url: str = "redis://localhost:6379/0",
        max_object_size_mb: float = 100,
        key_prefix: str = "scaler:obj:",
        connection_pool_size: int = 10,
        local_max_size_mb: int = 0,
    ) -> None:
        """Opens the directory. Redis need not be there: then this is logged as a warning, and made up for when it is.

        ``local_path``: this node's directory, made where it does not exist; None is ``scaler_object_storage`` in
        ``$XDG_STATE_HOME`` or ``~/.local/state``.
        ``local_max_size_mb``: the most disk space, in MiB: what Redis has is evicted beyond it. 0 is four fifths of
        what is free.

        The others are those of :class:`RedisObjectStorageBackend`.

        Raises ConfigError (a ValueError) for a setting that is not valid, IoError (an OSError) where the directory
        cannot be used."""
        super().__init__(max_object_size_mb)
        if isinstance(local_path, str) and "://" in local_path:
            raise ValueError("local_path is a url: it is this node's directory; give the url as redis_url=...")
        self._settings = self._redis_settings(redis_url, key_prefix, connection_pool_size)
        local: "_LocalSettings" = {"max_size_mb": local_max_size_mb}
        if local_path is not None:
            local["path"] = local_path
        self._process_id = os.getpid()
        self._opening = threading.Lock()
        self._redis_store: Optional[ObjectStore] = None
        self._store = ObjectStore(backend="tiered", local=local, redis=self._settings)

    def _redis(self) -> ObjectStore:
        """What is in Redis, as every node sees it."""
        self._check_not_forked()
        with self._opening:
            if self._store.closed:
                raise ClosedError("the object store is closed")
            if self._redis_store is None:
                self._redis_store = ObjectStore(backend="redis", redis=self._settings)
            return self._redis_store

    def _check_not_forked(self) -> None:
        """Before `_opening` is locked: it may have been held at the fork, and would then stay so."""
        if self._is_forked():
            raise ForkedError("the backend was opened before this process was forked; open one in the child process")

    def _is_forked(self) -> bool:
        return os.getpid() != self._process_id

    def _holder(self, object_id: Buffer) -> ObjectStore:
        return self._store if 0 < memoryview(object_id).nbytes <= _LOCAL_ID_BYTES_MAX else self._redis()

    def size(self) -> int:
        """Bytes of all objects, data and metadata, uncompressed: of those in Redis, or of those on this node where that
        is more (what was just stored is not in Redis yet), or where Redis cannot be reached.

        It looks at every object in Redis: some seconds for a million. ``ObjectStore.info()`` is quick, and about
        right."""
        size: int = self.get_info()["total_size_bytes"]
        return size

    def clear(self) -> None:
        """Deletes every object under the prefix, on all nodes, and waits a second at most for what was on its way to
        Redis.

        Raises ConnectionError where Redis cannot be reached: what this node holds is deleted all the same.
        """
        self._store.clear()
        self._redis().clear()
        deadline = time.monotonic() + _CLEAR_WAIT_SECONDS_MAX
        while self._redis().count()[0] and time.monotonic() < deadline:
            time.sleep(_CLEAR_LOOK_AGAIN_SECONDS)

    def get_info(self) -> Dict[str, Any]:
        """What is stored, and how; as :meth:`size`, it looks at every object in Redis.

        ``type`` ("tiered"), ``object_count``, ``total_size_bytes`` (as :meth:`size`), ``max_object_size_mb``,
        ``redis_used_memory`` and ``redis_used_memory_human`` (None where Redis cannot be reached), and of this node:
        ``local_object_count``, ``local_size_bytes`` (equal payloads count once), ``local_disk_bytes`` and
        ``local_max_disk_bytes``.
        """
        self._check_not_forked()
        local = self._store.info()
        objects, size_bytes, used_memory = 0, 0, None
        try:
            objects, size_bytes = self._redis().count()
            used_memory = self._redis().info().physical_bytes
        except (DeniedError, UnreachableError) as error:
            _logger.warning("what other nodes hold is not known: %s", error)
        return {
            **self._info("tiered", max(objects, local.objects), max(size_bytes, local.payload_bytes), used_memory),
            "local_object_count": local.objects,
            "local_size_bytes": local.payload_bytes,
            "local_disk_bytes": local.physical_bytes,
            "local_max_disk_bytes": local.capacity_bytes,
        }

    def close(self) -> None:
        """Pushes what Redis does not have yet, for ten seconds at most (the rest when the directory is opened again),
        and closes the backend: later calls raise ClosedError. Closing twice is fine."""
        if self._is_forked():
            return  # What is open is the parent's.
        try:
            self._store.close()
        finally:
            with self._opening:
                if self._redis_store is not None:
                    self._redis_store.close()


def _shown(object_id: Buffer) -> str:
    """An id as logs show it."""
    shown = bytes(memoryview(object_id)[:32]).hex()
    return shown if memoryview(object_id).nbytes <= 32 else f"{shown}..."


def _human(size_bytes: int) -> str:
    """As Redis writes an amount of memory: ``1.05M``."""
    if size_bytes < 1024:
        return f"{size_bytes}B"
    amount = size_bytes / 1024
    for unit in "KMGT":
        if amount < 1024:
            return f"{amount:.2f}{unit}"
        amount /= 1024
    return f"{amount:.2f}P"
