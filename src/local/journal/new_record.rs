//! A record before it is appended, and the purpose that decides where it may stand.

use super::Lsn;
use super::record::{BodyPlace, Flags, Header, Kind};
use crate::version::Version;

/// What a record is appended for, which decides where it may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Puts and duplicates: never in a segment of the reserve.
    Put,
    /// Deletes and marks: also in the reserve if there is no other room, except in what copies need of it.
    Delete,
    /// Copies made by reclaiming: anywhere.
    Copy,
}

/// A record to be appended. The journal adds the lsn, and the version where none is given.
pub(crate) struct NewRecord<'a> {
    pub id: &'a [u8],
    pub kind: Kind,
    pub flags: Flags,
    /// None: the journal gives one that is newer than everything it has seen.
    pub version: Option<Version>,
    /// If the journal gives the version: a lower bound (exclusive) on its clock.
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

    /// The header for `lsn`; its version is not set yet if the journal gives it.
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
