//! The layout of a record. Nothing else knows an offset in it.
//!
//! ```text
//!  0  checksum        u64   xxh3-64 of bytes 8..96 and the id, seeded with the segment's nonce
//!  8  lsn             u64   where this record stands; anywhere else the header is not valid
//! 16  version clock   u64   hybrid logical clock: 48 bits of milliseconds, 16 bits of counter
//! 24  version node    u64
//! 32  supersedes      u64   lsn of the record of the same id that this one replaced, 0 if there was none
//! 40  deadline        u64   milliseconds since 1970 on Redis's clock, 0 = never; with its highest bit: a lifetime that has not begun
//! 48  body hash       u128  xxh3-128 of metadata and data
//! 64  payload         u64   the payload's name: see the flags SHARED and NAMED
//! 72  data length     u64
//! 80  metadata length u32
//! 84  id length       u16
//! 86  kind            u8    1 put, 2 delete, 3 duplicate, 4 fill, 5 drop, 6 void
//! 87  flags           u8
//! 88  body segment    u32   with EXTERNAL: where the body is
//! 92  body offset     u32
//! 96  id, then (unless EXTERNAL or SHARED) metadata, data; then zeros up to a multiple of 8
//! ```
//!
//! All numbers are little-endian.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use super::Lsn;
use crate::id::ID_BYTES_MAX;
use crate::object::METADATA_BYTES_MAX;
use crate::version::Version;

pub(crate) const HEADER_BYTES: usize = 96;

/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;

/// Larger bodies go to body segments, so that moving a record stays cheap.
pub(crate) const INLINE_BODY_BYTES_MAX: usize = 64 << 10;

/// The longest record: header, id and an inline body.
pub(crate) const RECORD_BYTES_MAX: usize =
    (HEADER_BYTES + ID_BYTES_MAX + INLINE_BODY_BYTES_MAX).next_multiple_of(ALIGNMENT);

/// What a record says of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Put = 1,
    Delete = 2,
    Duplicate = 3,
    /// A copy of what Redis holds.
    Fill = 4,
    /// Removed here because another node overwrote or deleted it, or because it is damaged. Never pushed.
    Drop = 5,
    /// A record that never happened: its body was found torn when the store was opened.
    Void = 6,
}

impl Kind {
    pub fn from_u8(value: u8) -> Option<Kind> {
        [Kind::Put, Kind::Delete, Kind::Duplicate, Kind::Fill, Kind::Drop, Kind::Void]
            .into_iter()
            .find(|kind| *kind as u8 == value)
    }

    /// Whether the id exists after this record.
    pub fn stores(self) -> bool {
        matches!(self, Kind::Put | Kind::Duplicate | Kind::Fill)
    }
}

/// Bits that say where the body is, and whether Redis has the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub u8);

impl Flags {
    pub const NONE: Flags = Flags(0);
    /// Redis has it.
    pub const CLEAN: Flags = Flags(1);
    /// The body is in a body segment.
    pub const EXTERNAL: Flags = Flags(2);
    /// The body is another record's, the one whose payload is named `payload`.
    pub const SHARED: Flags = Flags(4);
    /// The body's name is `payload`, the lsn at which it was first stored. Without this flag the name is this record's own lsn.
    pub const NAMED: Flags = Flags(8);
    /// Only the body counts, for those who share it: the id was deleted or overwritten.
    pub const DETACHED: Flags = Flags(16);

    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    pub fn with(self, flag: Flags) -> Flags {
        Flags(self.0 | flag.0)
    }

    pub fn without(self, flag: Flags) -> Flags {
        Flags(self.0 & !flag.0)
    }
}

/// Where an external body begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct BodyPlace {
    pub segment: u32,
    pub offset: u32,
}

/// The fields of a record but for id and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub lsn: Lsn,
    pub version: Version,
    pub supersedes: Lsn,
    pub deadline_ms: u64,
    pub body_hash: u128,
    pub payload: Lsn,
    pub data_bytes: u64,
    pub metadata_bytes: u32,
    pub id_bytes: u16,
    pub kind: Kind,
    pub flags: Flags,
    pub body_place: BodyPlace,
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>().copied()
}

impl Header {
    /// Bytes of metadata and data together.
    pub fn body_bytes(&self) -> u64 {
        self.data_bytes + u64::from(self.metadata_bytes)
    }

    /// Whether this record has a body of its own, inline or in a body segment.
    pub fn has_body(&self) -> bool {
        self.kind.stores() && !self.flags.has(Flags::SHARED)
    }

    /// Whether a body stands behind the id in the record itself. A void record's body still takes its room.
    pub fn is_inline(&self) -> bool {
        (self.has_body() || self.kind == Kind::Void)
            && !self.flags.has(Flags::SHARED)
            && !self.flags.has(Flags::EXTERNAL)
    }

    /// The name under which this record's body is shared.
    pub fn payload_name(&self) -> Lsn {
        if self.flags.has(Flags::NAMED) || self.flags.has(Flags::SHARED) { self.payload } else { self.lsn }
    }

    /// Bytes from the header to the end of what belongs to it, without padding.
    pub fn record_bytes(&self) -> usize {
        let body = if self.is_inline() { self.body_bytes() as usize } else { 0 };
        HEADER_BYTES + usize::from(self.id_bytes) + body
    }

    /// Bytes that the record takes in its segment.
    pub fn stride(&self) -> u64 {
        self.record_bytes().next_multiple_of(ALIGNMENT) as u64
    }

    /// The id's length in an encoded header.
    #[inline]
    pub fn id_bytes(bytes: &[u8]) -> Option<u64> {
        field::<2>(bytes, 84).map(u16::from_le_bytes).map(u64::from)
    }

    /// Where, counted from the record's beginning, its inline body begins.
    pub fn body_offset(&self) -> usize {
        HEADER_BYTES + usize::from(self.id_bytes)
    }

    /// Appends header and id to `out`.
    pub fn encode(&self, nonce: u64, id: &[u8], out: &mut Vec<u8>) {
        debug_assert_eq!(id.len(), usize::from(self.id_bytes));
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.lsn.to_u64().to_le_bytes());
        out.extend_from_slice(&self.version.clock.to_le_bytes());
        out.extend_from_slice(&self.version.node.to_le_bytes());
        out.extend_from_slice(&self.supersedes.to_u64().to_le_bytes());
        out.extend_from_slice(&self.deadline_ms.to_le_bytes());
        out.extend_from_slice(&self.body_hash.to_le_bytes());
        out.extend_from_slice(&self.payload.to_u64().to_le_bytes());
        out.extend_from_slice(&self.data_bytes.to_le_bytes());
        out.extend_from_slice(&self.metadata_bytes.to_le_bytes());
        out.extend_from_slice(&self.id_bytes.to_le_bytes());
        out.push(self.kind as u8);
        out.push(self.flags.0);
        out.extend_from_slice(&self.body_place.segment.to_le_bytes());
        out.extend_from_slice(&self.body_place.offset.to_le_bytes());
        out.extend_from_slice(id);
        let checksum = out.get(start + 8..).map_or(0, |covered| xxh3_64_with_seed(covered, nonce));
        if let Some(place) = out.get_mut(start..start + 8) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
    }

    /// Reads the fields. None if they contradict each other or exceed the limits, so that lengths can be trusted to be small and to add up.
    /// Does not check the checksum: for a record that was verified before, or that this process wrote.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<(Header, &[u8])> {
        let fixed = bytes.first_chunk::<HEADER_BYTES>()?;
        let u64_at = |offset| field::<8>(fixed, offset).map(u64::from_le_bytes);
        let u32_at = |offset| field::<4>(fixed, offset).map(u32::from_le_bytes);
        let header = Header {
            lsn: Lsn::from_u64(u64_at(8)?),
            version: Version { clock: u64_at(16)?, node: u64_at(24)? },
            supersedes: Lsn::from_u64(u64_at(32)?),
            deadline_ms: u64_at(40)?,
            body_hash: u128::from_le_bytes(field::<16>(fixed, 48)?),
            payload: Lsn::from_u64(u64_at(64)?),
            data_bytes: u64_at(72)?,
            metadata_bytes: u32_at(80)?,
            id_bytes: u16::from_le_bytes(field::<2>(fixed, 84)?),
            kind: Kind::from_u8(*fixed.get(86)?)?,
            flags: Flags(*fixed.get(87)?),
            body_place: BodyPlace { segment: u32_at(88)?, offset: u32_at(92)? },
        };
        let plausible = usize::from(header.id_bytes) <= ID_BYTES_MAX
            && header.id_bytes > 0
            && header.metadata_bytes as usize <= METADATA_BYTES_MAX
            && header.data_bytes <= u64::MAX / 4
            && (!header.is_inline() || header.body_bytes() <= INLINE_BODY_BYTES_MAX as u64);
        if !plausible {
            return None;
        }
        let id = bytes.get(HEADER_BYTES..)?.get(..usize::from(header.id_bytes))?;
        Some((header, id))
    }

    /// As `parse`, but checks the checksum, and that the header belongs at `lsn` of the segment with this nonce.
    pub fn decode(bytes: &[u8], nonce: u64, lsn: Lsn) -> Option<(Header, &[u8])> {
        if field::<8>(bytes, 8).map(u64::from_le_bytes)? != lsn.to_u64() {
            return None;
        }
        let (header, id) = Header::parse(bytes)?;
        let covered = bytes.get(8..HEADER_BYTES + id.len())?;
        let checksum = u64::from_le_bytes(field::<8>(bytes, 0)?);
        (checksum == xxh3_64_with_seed(covered, nonce)).then_some((header, id))
    }
}

/// What a get of a small object needs of its record, read where it stands.
pub(crate) struct InlineRecord<'a> {
    pub id: &'a [u8],
    pub metadata: &'a [u8],
    pub data: &'a [u8],
    pub deadline_ms: u64,
}

impl<'a> InlineRecord<'a> {
    /// Reads a record with an inline body; None for any other. `slice` gives bytes of the record by offset and length. For a record that was
    /// verified before, or that this process wrote.
    #[inline]
    pub fn parse(slice: impl Fn(u64, u64) -> Option<&'a [u8]>) -> Option<Self> {
        let fixed = slice(0, HEADER_BYTES as u64)?.first_chunk::<HEADER_BYTES>()?;
        let flags = Flags(*fixed.get(87)?);
        if flags.has(Flags::SHARED) || flags.has(Flags::EXTERNAL) {
            return None;
        }
        let data_bytes = u64::from_le_bytes(field(fixed, 72)?);
        let metadata_bytes = u32::from_le_bytes(field(fixed, 80)?);
        let id_bytes = u16::from_le_bytes(field(fixed, 84)?);
        let bytes = data_bytes.checked_add(u64::from(metadata_bytes) + u64::from(id_bytes))?;
        let (id, body) = slice(HEADER_BYTES as u64, bytes)?.split_at_checked(usize::from(id_bytes))?;
        let (metadata, data) = body.split_at_checked(metadata_bytes as usize)?;
        Some(InlineRecord { id, metadata, data, deadline_ms: u64::from_le_bytes(field(fixed, 40)?) })
    }
}

/// The checksum of a body: metadata, then data.
pub(crate) fn body_hash(metadata: &[u8], data: &[u8]) -> u128 {
    if metadata.is_empty() {
        return xxh3_128(data);
    }
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(metadata);
    hasher.update(data);
    hasher.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            lsn: Lsn::new(3, 4096),
            version: Version { clock: 0x0102_0304_0506_0708, node: 0x1112_1314_1516_1718 },
            supersedes: Lsn::new(2, 64),
            deadline_ms: 77,
            body_hash: body_hash(b"m", b"data"),
            payload: Lsn::NONE,
            data_bytes: 4,
            metadata_bytes: 1,
            id_bytes: 3,
            kind: Kind::Put,
            flags: Flags::CLEAN,
            body_place: BodyPlace::default(),
        }
    }

    #[test]
    fn a_record_has_the_documented_layout() {
        let mut bytes = Vec::new();
        header().encode(9, b"abc", &mut bytes);
        assert_eq!(bytes.len(), HEADER_BYTES + 3);
        assert_eq!(bytes[8..16], [0, 0x10, 0, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[16..24], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[32..40], [64, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[72..88], [4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 1, 1]);
        assert_eq!(&bytes[96..], b"abc");
        assert_eq!(bytes[..8], xxh3_64_with_seed(&bytes[8..], 9).to_le_bytes());
    }

    #[test]
    fn a_header_is_valid_only_whole_in_its_place_and_in_its_segment() {
        let mut bytes = Vec::new();
        header().encode(9, b"abc", &mut bytes);
        assert_eq!(Header::decode(&bytes, 9, Lsn::new(3, 4096)), Some((header(), &b"abc"[..])));
        assert_eq!(Header::decode(&bytes, 8, Lsn::new(3, 4096)), None);
        assert_eq!(Header::decode(&bytes, 9, Lsn::new(3, 4104)), None);
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1;
            assert_eq!(Header::decode(&flipped, 9, Lsn::new(3, 4096)), None, "byte {position}");
            assert_eq!(Header::decode(&bytes[..position], 9, Lsn::new(3, 4096)), None, "cut at {position}");
        }
    }

    #[test]
    fn the_body_hash_does_not_depend_on_where_metadata_ends() {
        assert_eq!(body_hash(b"", b"metadata and data"), body_hash(b"metadata", b" and data"));
    }
}
