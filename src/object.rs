use std::fmt;

use bytes::Bytes;

use crate::error::Error;

/// Longest object id, in bytes.
pub const ID_BYTES_MAX: usize = 512;

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

/// Ids are checked once, at the front door.
pub(crate) fn check_id(id: &[u8]) -> Result<(), Error> {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(Error::InvalidId { len: id.len() });
    }
    Ok(())
}
