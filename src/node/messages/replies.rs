//! What the keeper says to a process.

use super::fields::Reader;
use super::{Head, Known, Malformed, VERSION, begin, errors, finish, listing};
use crate::backend::{Page, Usage};
use crate::error::Error;

/// What the keeper says.
#[derive(Debug)]
pub(crate) enum Reply<'a> {
    /// The session, where the keeper's objects are, and how fingerprints are made of ids (seed and mask).
    Welcome {
        session: u64,
        place: String,
        fingerprints: [u64; 2],
    },
    /// It is so, or it is not; and under which names those waited whom this has woken.
    Done {
        is_so: bool,
        woken: Vec<u64>,
    },
    /// There is no such object.
    Absent,
    /// The object; its data is the frame's. With the epoch and the counter as long as which it may be remembered.
    Inline {
        metadata: &'a [u8],
        known: Known,
    },
    /// The object; its data is in a segment, which the slot holds from now on.
    Placed {
        metadata: &'a [u8],
        known: Known,
        segment: u32,
        offset: u64,
        data_bytes: u64,
        file_bytes: u64,
    },
    Reserved {
        segment: u32,
        offset: u64,
        file_bytes: u64,
    },
    /// The connection that listens will be told.
    Later,
    Usage(Usage),
    Count {
        objects: u64,
        bytes: u64,
    },
    /// A snapshot of the store, as JSON.
    Stats {
        json: &'a str,
    },
    /// Objects of a listing; where it goes on, empty at its end.
    Listed(Page),
    Failed(Error),
    /// Not now: no thread or descriptor can be had.
    Busy,
    /// It reads its journal; so many parts of a thousand are done.
    Opening {
        done: u32,
    },
    /// To the one that listens: the object exists. It is the frame's data, or (`is_held`) to be claimed.
    Exists {
        name: u64,
        is_held: bool,
        metadata: &'a [u8],
    },
    /// To the one that listens: whether the deleted object had existed.
    Deleted {
        name: u64,
        existed: bool,
    },
}

impl<'a> Reply<'a> {
    /// Writes the frame up to its data.
    pub fn encode(&self, data_bytes: u64, buffer: &mut Vec<u8>) {
        let mut fields = begin(buffer);
        let kind = match self {
            Reply::Welcome { session, place, fingerprints: [seed, mask] } => {
                fields.u32(VERSION).u64(*session).text(place).u64(*seed).u64(*mask);
                1
            }
            Reply::Done { is_so, woken } => {
                fields.u8(u8::from(*is_so)).names(woken);
                2
            }
            Reply::Absent => 3,
            Reply::Inline { metadata, known } => {
                fields.bytes(metadata).known(*known);
                4
            }
            Reply::Placed { metadata, known, segment, offset, data_bytes, file_bytes } => {
                fields.bytes(metadata).known(*known).u32(*segment).u64(*offset).u64(*data_bytes).u64(*file_bytes);
                5
            }
            Reply::Reserved { segment, offset, file_bytes } => {
                fields.u32(*segment).u64(*offset).u64(*file_bytes);
                6
            }
            Reply::Later => 7,
            Reply::Usage(usage) => {
                let Usage { objects, payloads, payload_bytes, capacity_bytes, physical_bytes, damaged_objects } = usage;
                fields.u64(*objects).u64(*payloads).u64(*payload_bytes);
                fields.u64(*capacity_bytes).u64(*physical_bytes).u64(*damaged_objects);
                8
            }
            Reply::Count { objects, bytes } => {
                fields.u64(*objects).u64(*bytes);
                9
            }
            Reply::Failed(error) => {
                errors::encode(error, &mut fields);
                10
            }
            Reply::Busy => 11,
            Reply::Opening { done } => {
                fields.u32(*done);
                12
            }
            Reply::Exists { name, is_held, metadata } => {
                fields.u64(*name).u8(u8::from(*is_held)).bytes(metadata);
                13
            }
            Reply::Deleted { name, existed } => {
                fields.u64(*name).u8(u8::from(*existed));
                14
            }
            Reply::Stats { json } => {
                fields.text(json);
                15
            }
            Reply::Listed(page) => {
                listing::encode(page, &mut fields);
                16
            }
        };
        finish(buffer, kind, 0, 0, data_bytes);
    }

    /// Reads the fields behind a head.
    pub fn decode(head: Head, fields: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(fields);
        let reply = match head.kind {
            1 => {
                if reader.u32()? != VERSION {
                    return Err(Malformed("the keeper is of another version"));
                }
                let (session, place) = (reader.u64()?, reader.text()?);
                Reply::Welcome { session, place, fingerprints: [reader.u64()?, reader.u64()?] }
            }
            2 => Reply::Done { is_so: reader.bool()?, woken: reader.names()? },
            3 => Reply::Absent,
            4 => Reply::Inline { metadata: reader.bytes()?, known: reader.known()? },
            5 => Reply::Placed {
                metadata: reader.bytes()?,
                known: reader.known()?,
                segment: reader.u32()?,
                offset: reader.u64()?,
                data_bytes: reader.u64()?,
                file_bytes: reader.u64()?,
            },
            6 => Reply::Reserved { segment: reader.u32()?, offset: reader.u64()?, file_bytes: reader.u64()? },
            7 => Reply::Later,
            8 => Reply::Usage(Usage {
                objects: reader.u64()?,
                payloads: reader.u64()?,
                payload_bytes: reader.u64()?,
                capacity_bytes: reader.u64()?,
                physical_bytes: reader.u64()?,
                damaged_objects: reader.u64()?,
            }),
            9 => Reply::Count { objects: reader.u64()?, bytes: reader.u64()? },
            10 => Reply::Failed(errors::decode(&mut reader)?),
            11 => Reply::Busy,
            12 => Reply::Opening { done: reader.u32()? },
            13 => Reply::Exists { name: reader.u64()?, is_held: reader.bool()?, metadata: reader.bytes()? },
            14 => Reply::Deleted { name: reader.u64()?, existed: reader.bool()? },
            15 => Reply::Stats { json: reader.str()? },
            16 => Reply::Listed(listing::decode(&mut reader)?),
            _ => return Err(Malformed("there is no such reply")),
        };
        if head.data_bytes > 0 && !matches!(reply, Reply::Inline { .. } | Reply::Exists { .. }) {
            return Err(Malformed("only an object has data"));
        }
        reader.end(reply)
    }
}
