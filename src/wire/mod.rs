//! The bytes that clients and servers of Scaler's object storage exchange: greeting, messages, headers. Knows no sockets.
//!
//! ```text
//! each side, at once:  "YMQ" version:u8   message: identity   messages...
//! message:             length:u64le   bytes[length]
//! request:             message: header   [message: payload]   (the payload for set and duplicate)
//! reply:               message: header   [message: payload]   (the payload where its length is not zero)
//! ```

mod greeting;
mod header;
#[rustfmt::skip]
#[allow(warnings, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "generated from header.capnp")]
mod header_capnp;
mod requests;

pub use greeting::Greeting;
#[cfg(feature = "server")]
pub use greeting::encode_greeting;
pub use header::{Malformed, ReplyHead, ReplyType, RequestHeader, RequestType};
pub use requests::{Event, Expected, RequestDecoder, Step};

/// Bytes of an object's id on this wire.
pub const ID_BYTES: usize = 32;

/// An object's id on this wire.
pub type WireId = [u8; ID_BYTES];

/// Longest identity of a client or of the server, in bytes: Scaler's are host names with a number, far shorter.
pub const IDENTITY_BYTES_MAX: usize = 64 << 10;

/// Bytes of the length in front of each message.
const LENGTH_BYTES: usize = 8;

/// The length at the front of `input`, and what follows it.
fn split_length(input: &[u8]) -> Option<(u64, &[u8])> {
    let (length, rest) = input.split_first_chunk()?;
    Some((u64::from_le_bytes(*length), rest))
}
