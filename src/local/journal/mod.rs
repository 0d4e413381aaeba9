//! The append-only log: the truth about the objects of this store.

mod append;
mod lsn;
pub(crate) mod record;
mod reserve;
pub(crate) mod segment;
mod segments;
mod walk;

pub(crate) use append::{AppendError, Appended, FILE_BYTES_MIN, Journal, JournalOptions, NewRecord, Purpose, Sealing};
pub(crate) use lsn::Lsn;
pub(crate) use record::{BodyPlace, Flags, Header, Kind};
pub(crate) use segment::{Seal, Segment, SegmentKind, SyncError};
pub(crate) use segments::{NoFile, SegmentMap, Segments};
pub(crate) use walk::{Step, Walk};
