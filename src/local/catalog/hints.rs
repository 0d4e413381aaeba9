//! The layout of hints: what the index needs to know of each record of a sealed segment, so that opening does not read the journal.
//!
//! ```text
//!  0  fingerprint   u64
//!  8  offset        u32   of the record in its segment
//! 12  record length u32   without padding
//! 16  id length     u16
//! 18  kind          u8    as in the record; with bit 7: `supersedes` follows
//! 19  flags         u8    as in the record
//!     supersedes    u64   if bit 7 of the kind is set
//!     payload       u64   if SHARED or NAMED
//!     body length   u64   if SHARED or EXTERNAL
//!     body place    u32 segment, u32 offset   if EXTERNAL
//! ```
//!
//! All numbers are little-endian. Entries are packed into chunks, none across two.

use crate::local::journal::record::{ALIGNMENT, HEADER_BYTES};
use crate::local::journal::{BodyPlace, Flags, Header, Kind, Lsn};

/// sled keeps small values in its tree nodes, and is at its best with those; larger ones go to files that it does not sync.
const CHUNK_BYTES_MAX: usize = 4096;

const ENTRY_BYTES_MAX: usize = 52;

const HAS_SUPERSEDES: u8 = 0x80;

/// What the index needs to know of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    pub fingerprint: u64,
    pub offset: u32,
    pub record_bytes: u32,
    pub id_bytes: u16,
    pub kind: Kind,
    pub flags: Flags,
    pub supersedes: Lsn,
    pub payload: Lsn,
    pub body_bytes: u64,
    pub body_place: BodyPlace,
}

impl Hint {
    pub fn of(header: &Header, fingerprint: u64) -> Self {
        Hint {
            fingerprint,
            offset: header.lsn.offset(),
            record_bytes: header.record_bytes() as u32,
            id_bytes: header.id_bytes,
            kind: header.kind,
            flags: header.flags,
            supersedes: header.supersedes,
            payload: if header.flags.has(Flags::SHARED) || header.flags.has(Flags::NAMED) {
                header.payload
            } else {
                Lsn::NONE
            },
            body_bytes: header.body_bytes(),
            body_place: header.body_place,
        }
    }

    /// Bytes that the record takes in its segment.
    pub fn stride(&self) -> u64 {
        u64::from(self.record_bytes).next_multiple_of(ALIGNMENT as u64)
    }

    /// Where the record's bytes end.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.record_bytes)
    }

    /// By how much the record changes the number of objects, as far as it can tell by itself.
    pub fn growth(&self) -> i64 {
        match self.kind {
            Kind::Put | Kind::Duplicate | Kind::Fill => i64::from(self.supersedes.is_none()),
            Kind::Delete | Kind::Drop => -i64::from(!self.supersedes.is_none()),
            Kind::Void => 0,
        }
    }

    pub fn has_body(&self) -> bool {
        self.kind.stores() && !self.flags.has(Flags::SHARED)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let has_supersedes = if self.supersedes.is_none() { 0 } else { HAS_SUPERSEDES };
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.record_bytes.to_le_bytes());
        out.extend_from_slice(&self.id_bytes.to_le_bytes());
        out.push(self.kind as u8 | has_supersedes);
        out.push(self.flags.0);
        if has_supersedes != 0 {
            out.extend_from_slice(&self.supersedes.to_u64().to_le_bytes());
        }
        if self.flags.has(Flags::SHARED) || self.flags.has(Flags::NAMED) {
            out.extend_from_slice(&self.payload.to_u64().to_le_bytes());
        }
        if self.flags.has(Flags::SHARED) || self.flags.has(Flags::EXTERNAL) {
            out.extend_from_slice(&self.body_bytes.to_le_bytes());
        }
        if self.flags.has(Flags::EXTERNAL) {
            out.extend_from_slice(&self.body_place.segment.to_le_bytes());
            out.extend_from_slice(&self.body_place.offset.to_le_bytes());
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Hint> {
        fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (first, rest) = bytes.split_first_chunk::<N>()?;
            *bytes = rest;
            Some(*first)
        }
        let take_u64 = |bytes: &mut &[u8]| take(bytes).map(u64::from_le_bytes);
        let take_u32 = |bytes: &mut &[u8]| take(bytes).map(u32::from_le_bytes);
        let fingerprint = take_u64(bytes)?;
        let offset = take_u32(bytes)?;
        let record_bytes = take_u32(bytes)?;
        let id_bytes = u16::from_le_bytes(take(bytes)?);
        let [kind, flags] = take(bytes)?;
        let flags = Flags(flags);
        let is_named = flags.has(Flags::SHARED) || flags.has(Flags::NAMED);
        let has_supersedes = kind & HAS_SUPERSEDES != 0;
        let kind = Kind::from_u8(kind & !HAS_SUPERSEDES)?;
        let supersedes = if has_supersedes { Lsn::from_u64(take_u64(bytes)?) } else { Lsn::NONE };
        let payload = if is_named { Lsn::from_u64(take_u64(bytes)?) } else { Lsn::NONE };
        let body_bytes = if flags.has(Flags::SHARED) || flags.has(Flags::EXTERNAL) {
            take_u64(bytes)?
        } else {
            u64::from(record_bytes).checked_sub(HEADER_BYTES as u64 + u64::from(id_bytes))?
        };
        let body_place = if flags.has(Flags::EXTERNAL) {
            BodyPlace { segment: take_u32(bytes)?, offset: take_u32(bytes)? }
        } else {
            BodyPlace::default()
        };
        Some(Hint {
            fingerprint,
            offset,
            record_bytes,
            id_bytes,
            kind,
            flags,
            supersedes,
            payload,
            body_bytes,
            body_place,
        })
    }
}

/// Packs hints into chunks.
pub(crate) fn encode_chunks(hints: &[Hint]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::with_capacity(CHUNK_BYTES_MAX);
    for hint in hints {
        if chunk.len() + ENTRY_BYTES_MAX > CHUNK_BYTES_MAX {
            chunks.push(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES_MAX)));
        }
        hint.encode(&mut chunk);
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// Reads a chunk's hints; None where it is not whole.
pub(crate) fn decode_chunk(mut chunk: &[u8], hints: &mut Vec<Hint>) -> Option<()> {
    while !chunk.is_empty() {
        hints.push(Hint::decode(&mut chunk)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(offset: u32, flags: Flags) -> Hint {
        let is_inline = !flags.has(Flags::SHARED) && !flags.has(Flags::EXTERNAL);
        let is_named = flags.has(Flags::SHARED) || flags.has(Flags::NAMED);
        Hint {
            fingerprint: 0x1122_3344_5566_7788,
            offset,
            record_bytes: 96 + 32 + 100,
            id_bytes: 32,
            kind: Kind::Put,
            flags,
            supersedes: if offset.is_multiple_of(3) { Lsn::new(1, 64) } else { Lsn::NONE },
            payload: if is_named { Lsn::new(9, 8) } else { Lsn::NONE },
            body_bytes: if is_inline { 100 } else { 1 << 20 },
            body_place: if flags.has(Flags::EXTERNAL) {
                BodyPlace { segment: 4, offset: 4096 }
            } else {
                BodyPlace::default()
            },
        }
    }

    #[test]
    fn hints_read_back_from_chunks_of_at_most_4_kib() {
        let flags = [Flags::NONE, Flags::EXTERNAL, Flags::SHARED, Flags::NAMED, Flags::EXTERNAL.with(Flags::NAMED)];
        let hints: Vec<_> = (0..1000).map(|n| hint(64 + 8 * n, flags[n as usize % flags.len()])).collect();
        let chunks = encode_chunks(&hints);
        assert!(chunks.len() > 5 && chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
        let mut decoded = Vec::new();
        for chunk in &chunks {
            decode_chunk(chunk, &mut decoded).unwrap();
        }
        assert_eq!(decoded, hints);
        assert!(decode_chunk(&chunks[0][..chunks[0].len() - 1], &mut Vec::new()).is_none());
    }
}
