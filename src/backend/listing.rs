//! What a store tells of an object without handing it out: one page of a listing at a time, so that memory stays bounded.

use crate::id::ObjectId;
use crate::version::Version;

/// Most objects in one page of a listing: with the longest ids a page fits a message between processes.
pub const LISTED_MAX: usize = 1000;

/// What is known of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// Its id; empty where that cannot be read any more ([`ObjectState::Damaged`]).
    pub id: ObjectId,
    /// Bytes of its data. Of a value of Scaler's Python backend, which says no more, of data and metadata together.
    pub data_bytes: u64,
    /// Bytes of its metadata.
    pub metadata_bytes: u64,
    /// Which write it is from, and when that was. None for a value of Scaler's Python backend.
    pub version: Option<Version>,
    /// When it ends by itself, in milliseconds since 1970 on Redis's clock. None: never, or not decided yet, or the value of Redis has it
    /// and does not tell.
    pub expires_ms: Option<u64>,
    /// How safe it is.
    pub state: ObjectState,
    /// Where it is: files of the journal and offsets in them, `memory` or `Redis`.
    pub place: String,
}

/// How safe an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectState {
    /// It is here, and shared with nobody.
    Kept,
    /// It is here, and Redis may lack it.
    Dirty,
    /// It is here, and Redis has it.
    Clean,
    /// It is here, and may have changed in Redis unheard: it is checked before it is handed out.
    Suspect,
    /// Redis has it; it is not on this node.
    Remote,
    /// It cannot be read: what a checksum or the layout proves.
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
}

impl ObjectState {
    /// One word, for tables and for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            ObjectState::Kept => "kept",
            ObjectState::Dirty => "dirty",
            ObjectState::Clean => "clean",
            ObjectState::Suspect => "suspect",
            ObjectState::Remote => "remote",
            ObjectState::Damaged { .. } => "damaged",
        }
    }
}

/// Where a listing goes on; the default is its beginning. It means something to the store that gave it, and to no other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPosition(pub(crate) Vec<u8>);

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// Some objects; there may be none, though others follow.
    pub objects: Vec<Listed>,
    /// Where the next page begins. None: this was the last one.
    pub next: Option<ListPosition>,
}
