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
//! The fields of each kind are those of the variants below, in their order. Descriptors come with the first byte of their frame
//! (`SCM_RIGHTS`): of the session's file, or a pipe instead, and of the counters, with `Welcome`, of the segment's with `Placed` and `Reserved`.

mod errors;
mod fields;
mod listing;

use std::io;
use std::time::Duration;

use fields::{Fields, Reader};

use crate::backend::{Page, Usage};
use crate::error::Error;
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

/// What a process asks. The data of a `Put` or a `Piece` is the frame's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// Begins every connection: the session that it belongs to (0: a new one), and what the process expects of the store, by name.
    Greet {
        version: u32,
        session: u64,
        expected: Vec<(String, String)>,
    },
    Get {
        ticket: u64,
        id: &'a [u8],
    },
    Contains {
        id: &'a [u8],
    },
    Put {
        id: &'a [u8],
        metadata: &'a [u8],
    },
    /// Where it is not known at once whether the object existed, the connection that listens is told under this name.
    Delete {
        name: u64,
        id: &'a [u8],
    },
    Duplicate {
        original: &'a [u8],
        new: &'a [u8],
    },
    /// Whether an object of so many bytes would be let in now.
    Admit {
        id: &'a [u8],
        bytes: u64,
    },
    /// Room for a large body, in the slot.
    Reserve {
        ticket: u64,
        id: &'a [u8],
        data_bytes: u64,
        metadata_bytes: u32,
    },
    /// The body in the slot is written; the xxh3 of metadata and data.
    Commit {
        body_hash: u128,
    },
    /// A large body, without a slot: it comes in pieces over this connection.
    Begin {
        id: &'a [u8],
        data_bytes: u64,
        metadata: &'a [u8],
    },
    /// The frame's data goes on with it.
    Piece,
    /// It is complete.
    Finish,
    /// Slots, for a session that has none.
    Slots,
    /// Tell the connection that listens, under this name, when the object exists.
    Wait {
        name: u64,
        id: &'a [u8],
    },
    /// Do not tell any more.
    Forget {
        name: u64,
    },
    /// The object that was told of under the first of these names; the others are done with.
    Claim {
        ticket: u64,
        names: Vec<u64>,
    },
    Usage,
    Count,
    /// A snapshot of the store.
    Stats,
    Flush,
    Clear,
    /// Everything that is dirty now has to be in Redis, within this time.
    Drain {
        limit_ms: u64,
    },
    /// A page of a listing.
    List {
        from: &'a [u8],
        limit: u32,
    },
    /// What is known of one object; `verify`: from all of its bytes.
    Describe {
        verify: bool,
        id: &'a [u8],
    },
    /// This connection listens from now on, and asks no more.
    Listen,
    /// A server wants the directory.
    Yield,
    /// A server is to go on, at this address, where the one that keeps the directory is now. If the answer is yes, the connection becomes the
    /// one over which it is handed over.
    Replace {
        address: String,
    },
}

/// Epoch and counter; None where an answer is not to be remembered.
pub(crate) type Known = Option<(u64, u64)>;

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

impl<'a> Request<'a> {
    /// Writes the frame up to its data.
    pub fn encode(&self, manner: Manner, slot: u16, data_bytes: u64, buffer: &mut Vec<u8>) {
        let mut fields = begin(buffer);
        let kind = match self {
            Request::Greet { version, session, expected } => {
                fields.u32(*version).u64(*session).u32(expected.len() as u32);
                for (name, value) in expected {
                    fields.text(name).text(value);
                }
                1
            }
            Request::Get { ticket, id } => {
                fields.u64(*ticket).bytes(id);
                2
            }
            Request::Contains { id } => {
                fields.bytes(id);
                3
            }
            Request::Put { id, metadata } => {
                fields.bytes(id).bytes(metadata);
                4
            }
            Request::Delete { name, id } => {
                fields.u64(*name).bytes(id);
                5
            }
            Request::Duplicate { original, new } => {
                fields.bytes(original).bytes(new);
                6
            }
            Request::Reserve { ticket, id, data_bytes, metadata_bytes } => {
                fields.u64(*ticket).bytes(id).u64(*data_bytes).u32(*metadata_bytes);
                7
            }
            Request::Commit { body_hash } => {
                fields.u128(*body_hash);
                8
            }
            Request::Wait { name, id } => {
                fields.u64(*name).bytes(id);
                9
            }
            Request::Forget { name } => {
                fields.u64(*name);
                10
            }
            Request::Claim { ticket, names } => {
                fields.u64(*ticket).names(names);
                11
            }
            Request::Usage => 12,
            Request::Count => 13,
            Request::Flush => 14,
            Request::Clear => 15,
            Request::Drain { limit_ms } => {
                fields.u64(*limit_ms);
                16
            }
            Request::Listen => 17,
            Request::Yield => 18,
            Request::Replace { address } => {
                fields.bytes(address.as_bytes());
                24
            }
            Request::Admit { id, bytes } => {
                fields.bytes(id).u64(*bytes);
                19
            }
            Request::Stats => 20,
            Request::List { from, limit } => {
                fields.bytes(from).u32(*limit);
                21
            }
            Request::Describe { verify, id } => {
                fields.u8(u8::from(*verify)).bytes(id);
                22
            }
            Request::Begin { id, data_bytes, metadata } => {
                fields.bytes(id).u64(*data_bytes).bytes(metadata);
                25
            }
            Request::Piece => 26,
            Request::Finish => 27,
            Request::Slots => 28,
        };
        let flags = u8::from(manner.is_durable) * DURABLE + u8::from(manner.is_here) * HERE;
        finish(buffer, kind, flags, slot, data_bytes);
    }

    /// Reads the fields behind a head.
    pub fn decode(head: Head, fields: &'a [u8]) -> Result<(Self, Manner), Malformed> {
        let mut reader = Reader(fields);
        let request = match head.kind {
            1 => {
                let (version, session) = (reader.u32()?, reader.u64()?);
                if version != VERSION {
                    // What follows is in another language.
                    let manner = Manner::default();
                    return Ok((Request::Greet { version, session, expected: Vec::new() }, manner));
                }
                let count = reader.u32()?;
                if count > 64 {
                    return Err(Malformed("more expectations than there are settings"));
                }
                let expected = (0..count).map(|_| Ok((reader.text()?, reader.text()?))).collect::<Result<_, _>>()?;
                Request::Greet { version, session, expected }
            }
            2 => Request::Get { ticket: reader.u64()?, id: reader.bytes()? },
            3 => Request::Contains { id: reader.bytes()? },
            4 => Request::Put { id: reader.bytes()?, metadata: reader.bytes()? },
            5 => Request::Delete { name: reader.u64()?, id: reader.bytes()? },
            6 => Request::Duplicate { original: reader.bytes()?, new: reader.bytes()? },
            7 => Request::Reserve {
                ticket: reader.u64()?,
                id: reader.bytes()?,
                data_bytes: reader.u64()?,
                metadata_bytes: reader.u32()?,
            },
            8 => Request::Commit { body_hash: reader.u128()? },
            9 => Request::Wait { name: reader.u64()?, id: reader.bytes()? },
            10 => Request::Forget { name: reader.u64()? },
            11 => Request::Claim { ticket: reader.u64()?, names: reader.names()? },
            12 => Request::Usage,
            13 => Request::Count,
            14 => Request::Flush,
            15 => Request::Clear,
            16 => Request::Drain { limit_ms: reader.u64()? },
            17 => Request::Listen,
            18 => Request::Yield,
            24 => Request::Replace { address: reader.text()? },
            19 => Request::Admit { id: reader.bytes()?, bytes: reader.u64()? },
            20 => Request::Stats,
            21 => Request::List { from: reader.bytes()?, limit: reader.u32()? },
            22 => Request::Describe { verify: reader.bool()?, id: reader.bytes()? },
            25 => Request::Begin { id: reader.bytes()?, data_bytes: reader.u64()?, metadata: reader.bytes()? },
            26 => Request::Piece,
            27 => Request::Finish,
            28 => Request::Slots,
            _ => return Err(Malformed("there is no such request")),
        };
        if head.data_bytes > 0 && !matches!(request, Request::Put { .. } | Request::Piece) {
            return Err(Malformed("only a put and a piece have data"));
        }
        let has = |flag| head.flags & flag != 0;
        reader.end((request, Manner { is_durable: has(DURABLE), is_here: has(HERE) }))
    }
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

/// How long a side rests that has nothing to do but to look whether it should go on.
pub(crate) const SLICE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
