//! The append-only log, the truth about the objects of this store: record and segment formats, appending and syncing, walking. It knows
//! nothing of the index.

mod append;
mod lsn;
mod new_record;
pub(crate) mod record;
mod reserve;
pub(crate) mod segment;
pub(crate) mod segment_header;
mod segments;
mod walk;

pub(crate) use append::{AppendError, Appended, FILE_BYTES_MIN, Journal, JournalOptions, Sealing};
pub(crate) use lsn::Lsn;
pub(crate) use new_record::{NewRecord, Purpose};
pub(crate) use record::{BodyPlace, Flags, Header, Kind};
pub(crate) use segment::{Segment, SyncError};
pub(crate) use segment_header::{Seal, SegmentKind};
pub(crate) use segments::{NoFile, SegmentMap, Segments};
pub(crate) use walk::{Step, Walk};
