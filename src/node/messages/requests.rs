//! What a process asks of the keeper.

use super::fields::Reader;
use super::{DURABLE, HERE, Head, Malformed, Manner, VERSION, begin, finish};

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
