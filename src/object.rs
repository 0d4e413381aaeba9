//! What is stored under an id, and how long ids may be.

use bytes::Bytes;

use crate::error::Error;
use crate::id::{ID_BYTES_MAX, REDIS_ID_BYTES_MAX};

/// Longest metadata, in bytes (1 MiB): metadata describes data, and is always handed over whole.
pub const METADATA_BYTES_MAX: usize = 1 << 20;

/// What is stored under an id: data and metadata, either of which may be empty. Cloning shares the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// The payload.
    pub data: Bytes,
    /// What the writer said about the payload; the store does not interpret it.
    pub metadata: Bytes,
}

impl Object {
    /// Bytes of data and metadata together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len() + self.metadata.len()
    }

    /// Whether both data and metadata are empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How long ids may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdBytes {
    min: usize,
    max: usize,
}

impl IdBytes {
    /// In every backend but `redis`.
    pub const ORDINARY: IdBytes = IdBytes { min: 1, max: ID_BYTES_MAX };

    /// In the `redis` backend.
    pub const REDIS: IdBytes = IdBytes { min: 0, max: REDIS_ID_BYTES_MAX };

    #[inline]
    pub fn allow(self, id: &[u8]) -> bool {
        self.min <= id.len() && id.len() <= self.max
    }

    /// Ids are checked once, at the front door.
    #[inline]
    pub fn check(self, id: &[u8]) -> Result<(), Error> {
        if self.allow(id) {
            return Ok(());
        }
        Err(Error::InvalidId { len: id.len(), bytes_min: self.min, bytes_max: self.max })
    }
}
