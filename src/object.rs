use std::fmt;

use bytes::Bytes;

use crate::error::Error;

/// Longest object id, in bytes, in every backend but `redis`.
pub const ID_BYTES_MAX: usize = 512;

/// Longest object id, in bytes, in the `redis` backend, which also takes the empty one: what an event has room for.
pub const REDIS_ID_BYTES_MAX: usize = u16::MAX as usize;

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

/// An object's id as errors and logs show it: lower-case hex, shortened after 32 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectId(Box<[u8]>);

impl ObjectId {
    /// Takes any bytes; whether they are a valid id is checked by the operations.
    #[must_use]
    pub fn new(id: &[u8]) -> Self {
        ObjectId(id.into())
    }

    /// The id's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES_MAX: usize = 32;
        for byte in self.0.iter().take(SHOWN_BYTES_MAX) {
            write!(f, "{byte:02x}")?;
        }
        if self.0.len() > SHOWN_BYTES_MAX {
            write!(f, "... ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({self})")
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
