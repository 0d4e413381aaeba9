//! Decodes the byte stream of a client into requests, without holding large payloads.

use serde::{Deserialize, Serialize};

use super::header::{HEADER_BYTES_MAX, ID_MESSAGE_BYTES, decode_original};
use super::{LENGTH_BYTES, Malformed, RequestHeader, RequestType, WireId, split_length};

/// Payloads up to this length are handed over whole. Longer ones are handed over in pieces as they arrive, so that no client can
/// make the server hold more than this of an incomplete payload.
pub const PAYLOAD_BYTES_WHOLE_MAX: usize = 64 << 10;

/// Decodes the stream of a client, after its greeting, into requests.
#[derive(Debug)]
pub struct RequestDecoder {
    object_bytes_max: u64,
    expected: Expected,
}

/// What the decoder expects next.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Expected {
    /// A request's header message.
    Header,
    /// The payload message of this set or duplicate.
    Payload(RequestHeader),
    /// As many bytes of a payload that is handed over in pieces.
    Pieces(u64),
}

/// What the decoder found at the front of its input.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// An event that is complete.
    Event {
        /// What it is.
        event: Event<'a>,
        /// How many bytes of the input are done with.
        consumed: usize,
    },
    /// No event yet.
    Incomplete {
        /// How many bytes of the input are done with.
        consumed: usize,
        /// How many bytes after those are needed before another call can find an event.
        needed: usize,
    },
}

/// A request, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A get, delete or infoGetTotal.
    Request(RequestHeader),
    /// A set with its whole payload.
    Set(RequestHeader, &'a [u8]),
    /// A set whose payload follows in pieces.
    SetBegins(RequestHeader),
    /// The next piece of it; the bool tells whether it is the last.
    Piece(&'a [u8], bool),
    /// A duplicate, with the id of the original.
    Duplicate(RequestHeader, WireId),
}

impl RequestDecoder {
    /// For the start of a stream; a set of more than `object_bytes_max` is refused when it is announced.
    #[must_use]
    pub fn new(object_bytes_max: u64) -> Self {
        RequestDecoder { object_bytes_max, expected: Expected::Header }
    }

    /// For the rest of a stream, of which an earlier decoder expected this.
    #[must_use]
    pub fn resume(object_bytes_max: u64, expected: Expected) -> Self {
        RequestDecoder { object_bytes_max, expected }
    }

    /// What it expects next: with what is not consumed yet, all that another decoder needs to go on.
    #[must_use]
    pub fn expected(&self) -> Expected {
        self.expected
    }

    /// The next event at the front of `input`. The caller calls again with what follows the consumed bytes.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the stream makes no sense from here on, and the decoder is not to be called again.
    #[inline]
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Malformed> {
        let mut consumed = 0;
        loop {
            let input = input.get(consumed..).unwrap_or_default();
            match self.expected {
                Expected::Header => {
                    let message = match header_message(input)? {
                        Ok(message) => message,
                        Err(needed) => return Ok(Step::Incomplete { consumed, needed }),
                    };
                    consumed += LENGTH_BYTES + message.len();
                    let header = RequestHeader::decode(message)?;
                    match header.request_type {
                        RequestType::Set | RequestType::Duplicate => {
                            self.check_announced(&header)?;
                            self.expected = Expected::Payload(header);
                        }
                        RequestType::Get | RequestType::Delete | RequestType::InfoGetTotal => {
                            return Ok(Step::Event { event: Event::Request(header), consumed });
                        }
                    }
                }
                Expected::Payload(header) => {
                    let Some((length, rest)) = split_length(input) else {
                        return Ok(Step::Incomplete { consumed, needed: LENGTH_BYTES });
                    };
                    if length != header.payload_length {
                        // A client whose connection broke in a request may go on with the next request's header instead of the payload.
                        self.expected = Expected::Header;
                        continue;
                    }
                    consumed += LENGTH_BYTES;
                    let length = match usize::try_from(length) {
                        Ok(whole) if whole <= PAYLOAD_BYTES_WHOLE_MAX => whole,
                        _ => {
                            self.expected = Expected::Pieces(length);
                            return Ok(Step::Event { event: Event::SetBegins(header), consumed });
                        }
                    };
                    let Some(payload) = rest.get(..length) else {
                        consumed -= LENGTH_BYTES;
                        return Ok(Step::Incomplete { consumed, needed: LENGTH_BYTES + length });
                    };
                    self.expected = Expected::Header;
                    consumed += length;
                    let event = match header.request_type {
                        RequestType::Duplicate => Event::Duplicate(header, decode_original(payload)?),
                        _ => Event::Set(header, payload),
                    };
                    return Ok(Step::Event { event, consumed });
                }
                Expected::Pieces(remaining) => {
                    if input.is_empty() {
                        return Ok(Step::Incomplete { consumed, needed: 1 });
                    }
                    let length = usize::try_from(remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
                    let remaining = remaining - length as u64;
                    self.expected = if remaining == 0 { Expected::Header } else { Expected::Pieces(remaining) };
                    let piece = input.get(..length).unwrap_or_default();
                    let event = Event::Piece(piece, remaining == 0);
                    return Ok(Step::Event { event, consumed: consumed + length });
                }
            }
        }
    }

    fn check_announced(&self, header: &RequestHeader) -> Result<(), Malformed> {
        let bytes = header.payload_length;
        match header.request_type {
            RequestType::Duplicate if bytes != ID_MESSAGE_BYTES as u64 => Err(Malformed::Original(bytes)),
            RequestType::Set if bytes > self.object_bytes_max => {
                Err(Malformed::ObjectLength { bytes, bytes_max: self.object_bytes_max })
            }
            _ => Ok(()),
        }
    }
}

/// The header message at the front of `input`, or how many bytes are needed for it.
#[inline]
fn header_message(input: &[u8]) -> Result<Result<&[u8], usize>, Malformed> {
    let Some((length, rest)) = split_length(input) else { return Ok(Err(LENGTH_BYTES)) };
    match usize::try_from(length) {
        Ok(length) if length <= HEADER_BYTES_MAX => Ok(rest.get(..length).ok_or(LENGTH_BYTES + length)),
        _ => Err(Malformed::HeaderLength(length)),
    }
}

#[cfg(test)]
mod tests;
