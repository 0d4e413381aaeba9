//! The id of an object.

use std::fmt;

/// Longest object id, in bytes, in every backend but `redis`.
pub const ID_BYTES_MAX: usize = 512;

/// Longest object id, in bytes, in the `redis` backend, which also takes the empty one: what an event has room for.
pub const REDIS_ID_BYTES_MAX: usize = u16::MAX as usize;

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
