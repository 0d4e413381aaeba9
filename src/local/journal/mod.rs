//! The append-only log: the truth about the objects of this store.

mod append;
mod lsn;
pub(crate) mod record;
pub(crate) mod segment;
mod segments;
mod walk;

pub(crate) use append::{AppendError, Appended, Journal, JournalOptions, NewRecord, Room, Sealing};
pub(crate) use lsn::Lsn;
pub(crate) use record::{BodyPlace, Flags, Header, Kind};
pub(crate) use segment::{Seal, Segment, SegmentKind};
pub(crate) use segments::{NoFile, SegmentMap, Segments};
pub(crate) use walk::{Step, Walk};
