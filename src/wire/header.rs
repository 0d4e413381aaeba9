//! Message headers. Cap'n Proto structs (`header.capnp`) in the one layout that Scaler's clients write and insist on:
//!
//! ```text
//!  0  segments - 1 : u32 = 0          words : u32 = 9
//!  8  root pointer : offset 0, 3 words of data, 1 pointer
//! 16  payload length : u64
//! 24  request id (in a reply: the id of its request) : u64
//! 32  type : u16                      48 unused bits
//! 40  pointer to the object id : offset 0, 4 words of data
//! 48  object id : 4 x u64; each holds 8 of the 32 bytes of the id, big-endian
//! 80
//! ```
//!
//! All numbers are little-endian. A request in any other legal encoding is read by the capnp crate. The original's id in the
//! payload of a duplicate is a message of its own:
//!
//! ```text
//!  0  segments - 1 : u32 = 0          words : u32 = 5
//!  8  root pointer : offset 0, 4 words of data
//! 16  object id, as above
//! 48
//! ```

use capnp::Word;
use capnp::message::{ReaderOptions, TypedReader};
use capnp::serialize::BufferSegments;
use serde::{Deserialize, Serialize};

use super::{ID_BYTES, LENGTH_BYTES, WireId, header_capnp};

const HEADER_BYTES: usize = 80;
const HEADER_SEGMENT_TABLE: u64 = 9 << 32;
const HEADER_ROOT: u64 = 3 << 32 | 1 << 48;
const HEADER_ID_POINTER: u64 = 4 << 32;

const ID_SEGMENT_TABLE: u64 = 5 << 32;
const ID_ROOT: u64 = 4 << 32;

/// Length of the message with an object id that is the payload of a duplicate.
pub const ID_MESSAGE_BYTES: usize = 48;

/// Longest header message that is accepted. Clients write 80 bytes; other legal encodings are not much longer.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestType {
    /// Store or overwrite; a payload message follows.
    Set,
    /// Read, as soon as it exists.
    Get,
    /// Delete.
    Delete,
    /// Share the content of the object that the payload message names.
    Duplicate,
    /// Numbers about the store.
    InfoGetTotal,
}

/// What a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyType {
    /// Stored.
    SetOk = 0,
    /// Here it is.
    GetOk = 1,
    /// Deleted.
    DelOk = 2,
    /// There was nothing to delete.
    DelNotExists = 3,
    /// Duplicated.
    DuplicateOk = 4,
    /// Here are the numbers.
    InfoGetTotalOk = 5,
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHeader {
    /// The object.
    pub id: WireId,
    /// Set and duplicate: length of the payload message. Get: the most bytes that the client wants.
    pub payload_length: u64,
    /// The client's number for the request.
    pub request_id: u64,
    /// What it asks for.
    pub request_type: RequestType,
}

/// The header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// The object.
    pub id: WireId,
    /// Length of the payload message; where it is zero there is none.
    pub payload_length: u64,
    /// The request that it answers.
    pub response_id: u64,
    /// What it says.
    pub reply_type: ReplyType,
}

/// What a client sent that ends its connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The first bytes are not those of a Scaler client.
    #[error("it does not speak Scaler's protocol")]
    Magic,
    /// A protocol version that is not known.
    #[error("it speaks protocol version {0}; 1 and 2 are known")]
    Version(u8),
    /// The identity is too long.
    #[error("its identity is longer than {max} bytes", max = super::IDENTITY_BYTES_MAX)]
    IdentityLength,
    /// A message that must be a header is too long.
    #[error("a header of {0} bytes, the limit is {max}", max = HEADER_BYTES_MAX)]
    HeaderLength(u64),
    /// The header does not decode.
    #[error("a header of {bytes} bytes that does not decode: {reason}")]
    Header {
        /// Its length.
        bytes: usize,
        /// What the decoder said.
        reason: String,
    },
    /// The payload of a duplicate is no object id.
    #[error("a duplicate whose payload of {0} bytes is not an object id")]
    Original(u64),
    /// A request type that is not known.
    #[error("a request of the unknown type {0}")]
    RequestType(u16),
    /// A set announces more than the server takes.
    #[error("a set of {bytes} bytes, the limit is {bytes_max}")]
    ObjectLength {
        /// What it announces.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
}

impl RequestHeader {
    /// Decodes a header message. Bytes after the header are ignored.
    #[inline]
    pub fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let Some(words) = words::<10>(message) else { return Self::decode_other(message) };
        let [HEADER_SEGMENT_TABLE, HEADER_ROOT, payload_length, request_id, kind, HEADER_ID_POINTER, id @ ..] = words
        else {
            return Self::decode_other(message);
        };
        Ok(RequestHeader { id: id_bytes(id), payload_length, request_id, request_type: (kind as u16).try_into()? })
    }

    #[cold]
    fn decode_other(message: &[u8]) -> Result<Self, Malformed> {
        let malformed = |error: capnp::Error| Malformed::Header { bytes: message.len(), reason: error.to_string() };
        let words = aligned(message);
        let reader = read::<header_capnp::request_header::Owned>(&words).map_err(malformed)?;
        let header = reader.get().map_err(malformed)?;
        let id = header.get_object_id().map_err(malformed)?;
        Ok(RequestHeader {
            id: id_bytes([id.get_field0(), id.get_field1(), id.get_field2(), id.get_field3()]),
            payload_length: header.get_payload_length(),
            request_id: header.get_request_id(),
            request_type: header.get_request_type().try_into()?,
        })
    }
}

impl TryFrom<u16> for RequestType {
    type Error = Malformed;

    #[inline]
    fn try_from(kind: u16) -> Result<Self, Malformed> {
        match kind {
            0 => Ok(RequestType::Set),
            1 => Ok(RequestType::Get),
            2 => Ok(RequestType::Delete),
            3 => Ok(RequestType::Duplicate),
            4 => Ok(RequestType::InfoGetTotal),
            unknown => Err(Malformed::RequestType(unknown)),
        }
    }
}

/// Decodes the payload of a duplicate: the id of the original.
pub fn decode_original(message: &[u8]) -> Result<WireId, Malformed> {
    if let Some([ID_SEGMENT_TABLE, ID_ROOT, id @ ..]) = words::<6>(message) {
        return Ok(id_bytes(id));
    }
    let malformed = |_| Malformed::Original(message.len() as u64);
    let words = aligned(message);
    let reader = read::<header_capnp::object_id::Owned>(&words).map_err(malformed)?;
    let id = reader.get().map_err(malformed)?;
    Ok(id_bytes([id.get_field0(), id.get_field1(), id.get_field2(), id.get_field3()]))
}

impl ReplyHead {
    /// Bytes of a reply without a payload: one message.
    pub const BYTES: usize = LENGTH_BYTES + HEADER_BYTES;
    /// Bytes of a reply in front of its payload: one message and the length of the next.
    pub const BYTES_BEFORE_PAYLOAD: usize = Self::BYTES + LENGTH_BYTES;

    /// Encodes the reply up to its payload. If there is none, only the first [`BYTES`](Self::BYTES) of the result are sent.
    #[inline]
    pub fn encode(&self) -> [u8; Self::BYTES_BEFORE_PAYLOAD] {
        let [id0, id1, id2, id3] = id_words(&self.id);
        let words = [
            HEADER_BYTES as u64,
            HEADER_SEGMENT_TABLE,
            HEADER_ROOT,
            self.payload_length,
            self.response_id,
            self.reply_type as u64,
            HEADER_ID_POINTER,
            id0,
            id1,
            id2,
            id3,
            self.payload_length,
        ];
        let mut bytes = [0; Self::BYTES_BEFORE_PAYLOAD];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }

    /// The payload length in an encoded reply.
    pub fn payload_length(reply: &[u8]) -> Option<u64> {
        let [_, _, _, payload_length] = words(reply)?;
        Some(payload_length)
    }
}

/// The first `N` words of a message, if it has as many.
#[inline]
fn words<const N: usize>(message: &[u8]) -> Option<[u64; N]> {
    let (chunks, _) = message.as_chunks::<8>();
    let chunks: &[[u8; 8]; N] = chunks.first_chunk()?;
    Some(chunks.map(u64::from_le_bytes))
}

#[inline]
fn id_bytes(fields: [u64; 4]) -> WireId {
    let mut id = [0; ID_BYTES];
    for (bytes, field) in id.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
        *bytes = field.to_be_bytes();
    }
    id
}

#[inline]
fn id_words(id: &WireId) -> [u64; 4] {
    let mut fields = [0; 4];
    for (field, bytes) in fields.iter_mut().zip(id.as_chunks::<8>().0) {
        *field = u64::from_be_bytes(*bytes);
    }
    fields
}

/// A copy of the message's whole words, aligned as the capnp crate needs them. At most [`HEADER_BYTES_MAX`].
fn aligned(message: &[u8]) -> Vec<Word> {
    let mut words = Word::allocate_zeroed_vec(message.len() / 8);
    let bytes = Word::words_to_bytes_mut(&mut words);
    for (to, from) in bytes.iter_mut().zip(message) {
        *to = *from;
    }
    words
}

fn read<T: capnp::traits::Owned>(words: &[Word]) -> capnp::Result<TypedReader<BufferSegments<&[u8]>, T>> {
    /// A header is two structs deep and a few words long, wherever its pointers lead.
    const OPTIONS: ReaderOptions =
        ReaderOptions { traversal_limit_in_words: Some(HEADER_BYTES_MAX / 8), nesting_limit: 4 };
    let mut bytes = Word::words_to_bytes(words);
    Ok(TypedReader::new(capnp::serialize::read_message_from_flat_slice(&mut bytes, OPTIONS)?))
}

#[cfg(test)]
mod tests;
