"""Why an operation failed: one class for each kind of error, all of them :class:`ObjectStoreError`.

A missing object is not an error: it is a value (``None``, ``False``).
"""

__all__ = [
    "CatalogError",
    "ClosedError",
    "ConfigError",
    "DeniedError",
    "DetachedError",
    "ForkedError",
    "FullError",
    "InvalidIdError",
    "IoError",
    "LengthMismatchError",
    "LockedError",
    "ObjectStoreError",
    "RefusedError",
    "TooLargeError",
    "UnansweredError",
    "UnknownFormatError",
    "UnreachableError",
    "WriteFailedError",
    "WritesRefusedError",
]


class ObjectStoreError(Exception):
    """An operation on a store failed."""


class InvalidIdError(ObjectStoreError, ValueError):
    """The id is empty, or longer than the store takes."""


class TooLargeError(ObjectStoreError, ValueError):
    """The object is larger than the store takes. Nothing was stored."""


class FullError(ObjectStoreError):
    """The store has reached its capacity. Nothing was stored; deletes still work and make room."""


class LockedError(ObjectStoreError):
    """Another process, or another store in this one, has the directory open."""


class UnknownFormatError(ObjectStoreError):
    """The directory was written by a newer version of this package. Nothing was changed."""


class IoError(ObjectStoreError, OSError):
    """The operating system refused an operation on a file."""


class CatalogError(ObjectStoreError):
    """The sled catalog failed. The journal is the truth: reopening the store rebuilds the catalog."""


class WritesRefusedError(ObjectStoreError):
    """After a failure of the disk, writes are refused until the store is opened anew."""


class UnreachableError(ObjectStoreError, ConnectionError):
    """Redis does not answer. Nothing is known about the object: it is not missing."""


class DeniedError(ObjectStoreError, ConnectionError):
    """Redis answers, but does not serve this store until a setting is changed: a wrong password, a missing permission, a database that it does
    not have. Nothing is known about the object: it is not missing."""


class RefusedError(ObjectStoreError):
    """Redis answers, but refuses a command: out of memory, no permission, a key of another type."""


class DetachedError(ObjectStoreError, ConnectionError):
    """The process that keeps the store cannot be reached, or is not what this one expects. Nothing was changed."""


class UnansweredError(ObjectStoreError, ConnectionError):
    """The process that keeps the store ended, or does not answer, in the middle of a call: it may have been carried out."""


class ClosedError(ObjectStoreError):
    """The store, or the writer, was closed."""


class ForkedError(ObjectStoreError):
    """The process was forked after the store was opened: the child must open a store of its own."""


class ConfigError(ObjectStoreError, ValueError):
    """A setting is unknown, or its value is not valid."""


class LengthMismatchError(ObjectStoreError, ValueError):
    """A streamed object ended with another length than announced. Nothing was stored."""


class WriteFailedError(ObjectStoreError):
    """A piece of a streamed write could not be written, so the object cannot be committed. Nothing was stored."""
