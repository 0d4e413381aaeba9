//! The one error type.

use std::io;
use std::path::PathBuf;

use crate::id::ObjectId;

/// What the operations of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on the store failed. A missing object is not an error: it is a value (`None`, `false`).
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id is shorter or longer than the backend takes: 1 to [`ID_BYTES_MAX`](crate::ID_BYTES_MAX) bytes, in the `redis` backend 0
    /// to [`REDIS_ID_BYTES_MAX`](crate::REDIS_ID_BYTES_MAX).
    #[error("an object id has {bytes_min} to {bytes_max} bytes here, this one has {len}")]
    InvalidId {
        /// Length of the refused id, in bytes.
        len: usize,
        /// Bytes of the shortest id that the backend takes.
        bytes_min: usize,
        /// Bytes of the longest.
        bytes_max: usize,
    },
    /// The object is larger than the store takes. Nothing was stored.
    #[error("object {id}: {bytes} bytes are too large, the limit is {bytes_max} bytes; nothing was stored")]
    TooLarge {
        /// The object.
        id: ObjectId,
        /// Bytes of data and metadata together (or of the metadata, where that is what exceeds its limit).
        bytes: u64,
        /// The limit that it exceeds.
        bytes_max: u64,
    },
    /// The store has reached its capacity. Nothing was stored; deletes still work and make room.
    #[error(
        "object {id}: no room for {bytes} bytes: {live_bytes} of {capacity_bytes} bytes are in use in {place}; \
         delete objects or raise max_size_mb; nothing was stored"
    )]
    Full {
        /// The object that found no room.
        id: ObjectId,
        /// Bytes that it needs.
        bytes: u64,
        /// Bytes in use.
        live_bytes: u64,
        /// The store's capacity.
        capacity_bytes: u64,
        /// The directory, or `memory`.
        place: String,
    },
    /// Another process (or another store in this one) has the directory open.
    #[error("{path} is in use by process {holder}; close that one, or give this store a directory of its own")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The holder's process id, or `unknown`.
        holder: String,
    },
    /// The directory was written by a version of the program that this one does not know.
    #[error(
        "{path} has format version {found}, this program knows up to {known}: use a newer program, or another directory; \
         nothing was changed"
    )]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {path}: {source}{}", remedy(source))]
    Io {
        /// What was tried: `write`, `open`, ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The sled catalog failed. The journal is the truth: reopening the store rebuilds the catalog.
    #[error(
        "the catalog in {path} failed: {reason}; the objects are safe in the journal, reopening rebuilds the catalog"
    )]
    Catalog {
        /// The catalog's directory.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// An earlier fdatasync failed, so what was written may not be on the disk: writes are refused until the store is
    /// opened anew.
    #[error("{path} takes no writes since an earlier failure ({cause}); check the disk, then reopen the store")]
    WritesRefused {
        /// The directory.
        path: PathBuf,
        /// The first failure.
        cause: String,
    },
    /// Redis does not answer. Nothing is known about the object: it is not missing.
    #[error("Redis at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Where Redis should be, without its password.
        address: String,
        /// What happened.
        reason: String,
    },
    /// Redis answers, but does not serve this store: a wrong password, a missing permission or command, a database that it does not have, a
    /// cluster where a single server was expected, a replica. Most of these last until a setting is changed. Nothing is known about the object: it is not missing.
    #[error("Redis at {address} does not serve this store: {reason}")]
    Denied {
        /// Where Redis is, without its password.
        address: String,
        /// What Redis says, and what to do.
        reason: String,
    },
    /// Redis answers, but refuses a command: out of memory, no permission, a key of another type.
    #[error("Redis at {address} refuses to {action} object {id}: {reason}")]
    Refused {
        /// Where Redis is, without its password.
        address: String,
        /// What was tried: `store`, `read`, `delete`.
        action: &'static str,
        /// The object.
        id: ObjectId,
        /// What Redis says.
        reason: String,
    },
    /// The process that keeps the store (the keeper) cannot be reached, or is not what this one expects. Nothing was changed.
    #[error("the store in {path} cannot be reached: {reason}")]
    Detached {
        /// The directory.
        path: PathBuf,
        /// What happened, and what to do.
        reason: String,
    },
    /// The keeper ended, or does not answer, in the middle of a call: it may have been carried out.
    #[error(
        "the keeper of {path} was asked to {action}, and has not answered ({reason}): it may have been done; look before it is repeated"
    )]
    Unanswered {
        /// The directory.
        path: PathBuf,
        /// What it was asked to do: `put`, `delete`, ...
        action: &'static str,
        /// What happened.
        reason: String,
    },
    /// The store was closed.
    #[error("the object store is closed")]
    Closed,
    /// The process was forked after the store was opened: the child must open a store of its own.
    #[error("the object store was opened before this process was forked; open one in the child process")]
    Forked,
    /// A setting is not valid.
    #[error("{0}")]
    Config(String),
    /// A piece of a streamed write could not be written, so the object cannot be committed. Nothing was stored.
    #[error("object {id}: a piece of it could not be written ({reason}); write it anew; nothing was stored")]
    WriteFailed {
        /// The object.
        id: ObjectId,
        /// Why the piece could not be written.
        reason: String,
    },
    /// A streamed write ended with a length other than the announced one. Nothing was stored.
    #[error("object {id}: {written} bytes were written of the {announced} announced; nothing was stored")]
    LengthMismatch {
        /// The object.
        id: ObjectId,
        /// Bytes that were written.
        written: u64,
        /// Bytes that were announced.
        announced: u64,
    },
}

/// Whether the system has refused something for want of room, which may pass: the disk is full, or a quota is used up.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What to do, where the system's reason does not say so.
fn remedy(reason: &io::Error) -> &'static str {
    if is_disk_full(reason) { "; make room on that disk" } else { "" }
}

impl Error {
    /// Whether Redis cannot be used at all: it does not answer, or does not serve this store.
    pub(crate) fn is_cut_off(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Denied { .. })
    }

    /// For `map_err` on a call that concerns one path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}
