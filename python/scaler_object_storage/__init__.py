"""Objects that survive crashes, kept on the node and shared through Redis, for OpenGRIS Scaler and other programs.

>>> from scaler_object_storage import ObjectStore
>>> with ObjectStore(backend="memory") as store:
...     store.put(b"greeting", b"Hello, World!", b"text/plain")
...     store.get_bytes(b"greeting")
b'Hello, World!'
"""

from scaler_object_storage._native import (
    CancelToken,
    Info,
    Listed,
    Object,
    ObjectStore,
    ObjectWriter,
    Ticket,
    __version__,
    read_config,
)
from scaler_object_storage.exceptions import (
    CatalogError,
    ClosedError,
    ConfigError,
    DeniedError,
    DetachedError,
    ForkedError,
    FullError,
    InvalidIdError,
    IoError,
    LengthMismatchError,
    LockedError,
    ObjectStoreError,
    RefusedError,
    TooLargeError,
    UnansweredError,
    UnknownFormatError,
    UnreachableError,
    WriteFailedError,
    WritesRefusedError,
)

__all__ = [
    "CancelToken",
    "CatalogError",
    "ClosedError",
    "ConfigError",
    "DeniedError",
    "DetachedError",
    "ForkedError",
    "FullError",
    "Info",
    "InvalidIdError",
    "IoError",
    "LengthMismatchError",
    "Listed",
    "LockedError",
    "Object",
    "ObjectStore",
    "ObjectStoreError",
    "ObjectWriter",
    "RefusedError",
    "Ticket",
    "TooLargeError",
    "UnansweredError",
    "UnknownFormatError",
    "UnreachableError",
    "WriteFailedError",
    "WritesRefusedError",
    "__version__",
    "read_config",
]
