//! What attached processes and the keeper say to each other over the node's socket. Both are the same program or nearly so, on one
//! machine: a greeting compares the version first, and everything else may change with it.
//!
//! ```text
//! frame     0  fields  u32   bytes of the fields that follow
//!           4  kind    u8    which request, or which reply
//!           5  flags   u8    request: 1 be durable before you answer, 2 only what needs no waiting for Redis
//!           6  slot    u16   request: the slot that was asked in, or 65535; reply: 0
//!           8  data    u64   bytes of data behind the fields
//!          16  fields, then data
//!
//! field     u8, u32, u64, u128 little-endian; text and bytes: u32 length, then the bytes
//! ```
//!
//! The fields of each kind are those of the variants of `Request` and `Reply`, in their order. Descriptors come with the first byte of their frame
//! (`SCM_RIGHTS`): of the session's file, or a pipe instead, and of the counters, with `Welcome`, of the segment's with `Placed` and `Reserved`.

mod errors;
mod fields;
mod listing;
mod replies;
mod requests;

use std::io;
use std::time::Duration;

use fields::Fields;
pub(crate) use replies::Reply;
pub(crate) use requests::Request;

use crate::id::ID_BYTES_MAX;
use crate::object::METADATA_BYTES_MAX;

/// Another number is another language.
pub(crate) const VERSION: u32 = 1;

pub(crate) const HEAD_BYTES: usize = 16;

/// Fields of a request: an id, metadata, and room for what is small.
pub(crate) const REQUEST_FIELDS_MAX: usize = METADATA_BYTES_MAX + 2 * ID_BYTES_MAX + (16 << 10);

/// Data of a request: what is larger is written to its place by the process itself, or sent in pieces.
pub(crate) const REQUEST_DATA_MAX: u64 = crate::local::UNSHARED_BYTES_MAX;

/// Fields of a reply: metadata, or an error with its texts.
pub(crate) const REPLY_FIELDS_MAX: usize = METADATA_BYTES_MAX + (64 << 10);

/// Names of a `Claim`, or of what a write has woken: those beyond are told by the connection that listens.
pub(crate) const NAMES_MAX: usize = 1024;

/// A greeting that belongs to no session: it may ask the keeper to leave, and nothing else.
pub(crate) const NO_SESSION: u64 = u64::MAX;

pub(crate) const NO_SLOT: u16 = u16::MAX;

const DURABLE: u8 = 1;
const HERE: u8 = 2;

/// The first bytes of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub fields_bytes: u32,
    pub kind: u8,
    pub flags: u8,
    pub slot: u16,
    pub data_bytes: u64,
}

impl Head {
    fn encode(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let (fields, rest) = bytes.split_at_mut(4);
        fields.copy_from_slice(&self.fields_bytes.to_le_bytes());
        let (small, data) = rest.split_at_mut(4);
        let [slot_low, slot_high] = self.slot.to_le_bytes();
        small.copy_from_slice(&[self.kind, self.flags, slot_low, slot_high]);
        data.copy_from_slice(&self.data_bytes.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: [u8; HEAD_BYTES]) -> Head {
        let [f0, f1, f2, f3, kind, flags, s0, s1, data @ ..] = bytes;
        Head {
            fields_bytes: u32::from_le_bytes([f0, f1, f2, f3]),
            kind,
            flags,
            slot: u16::from_le_bytes([s0, s1]),
            data_bytes: u64::from_le_bytes(data),
        }
    }

    /// Refuses a request that is longer than any.
    pub fn check_request(self) -> Result<Head, Malformed> {
        if self.fields_bytes as usize > REQUEST_FIELDS_MAX || self.data_bytes > REQUEST_DATA_MAX {
            return Err(Malformed("a request is longer than any"));
        }
        Ok(self)
    }

    /// Refuses a reply whose fields are longer than any. Data may be as long as an object is.
    pub fn check_reply(self) -> Result<Head, Malformed> {
        if self.fields_bytes as usize > REPLY_FIELDS_MAX {
            return Err(Malformed("a reply is longer than any"));
        }
        Ok(self)
    }
}

/// Bytes that are no message of this language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub &'static str);

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, malformed.0)
    }
}

/// Epoch and counter; None where an answer is not to be remembered.
pub(crate) type Known = Option<(u64, u64)>;

/// How a request wants to be carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    pub is_durable: bool,
    pub is_here: bool,
}

/// Begins a frame; its head is written by `finish`.
fn begin(buffer: &mut Vec<u8>) -> Fields<'_> {
    buffer.clear();
    buffer.extend_from_slice(&[0; HEAD_BYTES]);
    Fields(buffer)
}

fn finish(buffer: &mut [u8], kind: u8, flags: u8, slot: u16, data_bytes: u64) {
    let fields_bytes = (buffer.len() - HEAD_BYTES) as u32;
    if let Some(head) = buffer.first_chunk_mut::<HEAD_BYTES>() {
        *head = Head { fields_bytes, kind, flags, slot, data_bytes }.encode();
    }
}

/// How long a side rests that has nothing to do but to look whether it should go on.
pub(crate) const SLICE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
