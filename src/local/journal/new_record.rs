//! What is to be appended, and for what purpose.

use super::Lsn;
use super::record::{BodyPlace, Flags, Header, Kind};
use crate::version::Version;

/// What a record is appended for, which decides where it may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Puts and duplicates: never in a segment of the reserve.
    Put,
    /// Deletes and marks: in the reserve where there is no other room, but for what copies need.
    Delete,
    /// Copies made by reclaiming.
    Copy,
}

/// What is to be appended; the journal adds lsn and, where none is given, version.
pub(crate) struct NewRecord<'a> {
    pub id: &'a [u8],
    pub kind: Kind,
    pub flags: Flags,
    /// None: newer than everything that the journal has seen.
    pub version: Option<Version>,
    /// Where the journal gives the version: one whose clock is above this one.
    pub above_clock: u64,
    pub supersedes: Lsn,
    pub deadline_ms: u64,
    pub body_hash: u128,
    pub payload: Lsn,
    pub data_bytes: u64,
    pub metadata_bytes: u32,
    pub body_place: BodyPlace,
    /// The inline body's two parts; empty where the body is elsewhere.
    pub metadata: &'a [u8],
    pub data: &'a [u8],
}

impl<'a> NewRecord<'a> {
    /// A record without a body.
    pub fn bare(id: &'a [u8], kind: Kind, supersedes: Lsn) -> Self {
        NewRecord {
            id,
            kind,
            flags: Flags::NONE,
            version: None,
            above_clock: 0,
            supersedes,
            deadline_ms: 0,
            body_hash: 0,
            payload: Lsn::NONE,
            data_bytes: 0,
            metadata_bytes: 0,
            body_place: BodyPlace::default(),
            metadata: &[],
            data: &[],
        }
    }

    /// The header as it stands at `lsn`, but for the version where the journal gives one.
    pub fn header(&self, lsn: Lsn) -> Header {
        Header {
            lsn,
            version: self.version.unwrap_or_default(),
            supersedes: self.supersedes,
            deadline_ms: self.deadline_ms,
            body_hash: self.body_hash,
            payload: self.payload,
            data_bytes: self.data_bytes,
            metadata_bytes: self.metadata_bytes,
            id_bytes: self.id.len() as u16,
            kind: self.kind,
            flags: self.flags,
            body_place: self.body_place,
        }
    }
}
