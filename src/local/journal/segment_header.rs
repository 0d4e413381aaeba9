//! The header of one file of the journal, and the file's name. The header's layout:
//!
//! ```text
//!  0  checksum      u64  xxh3-64 of bytes 8..32
//!  8  magic         8 bytes, the last two of them the format version
//! 16  number        u32
//! 20  kind          u32  1 records, 2 bodies, 3 one large body
//! 24  nonce         u64  random: seeds the checksums of this segment's records
//! 32  seal checksum u64  xxh3-64 of bytes 40..56, seeded with the nonce; not valid before the segment is sealed
//! 40  end           u64  where the last record ends
//! 48  record count  u64
//! 56  zeros up to byte 64, before bodies up to byte 4096
//! ```
//!
//! All numbers are little-endian. Records follow in a record segment, bodies at multiples of 4096 in a body segment.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Lsn;
use super::record::{HEADER_BYTES, Header};
use crate::id::ID_BYTES_MAX;

pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"SOSseg\x01\x00";

/// What a segment file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum SegmentKind {
    Records = 1,
    Bodies = 2,
    /// Of a single body, too large for the others.
    Body = 3,
}

/// What a sealed segment says of itself: where its records end, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub end: u64,
    pub record_count: u64,
}

/// The header of a segment file; the seal is there once the segment is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub number: u32,
    pub kind: SegmentKind,
    pub nonce: u64,
    pub seal: Option<Seal>,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&(self.kind as u32).to_le_bytes());
        bytes.extend_from_slice(&self.nonce.to_le_bytes());
        let mut header = xxh3_64_with_seed(&bytes, 0).to_le_bytes().to_vec();
        header.append(&mut bytes);
        if let Some(seal) = self.seal {
            bytes.extend_from_slice(&seal.end.to_le_bytes());
            bytes.extend_from_slice(&seal.record_count.to_le_bytes());
            header.extend_from_slice(&xxh3_64_with_seed(&bytes, self.nonce).to_le_bytes());
            header.append(&mut bytes);
        }
        let mut fixed = [0; SEGMENT_HEADER_BYTES];
        for (to, from) in fixed.iter_mut().zip(header) {
            *to = from;
        }
        fixed
    }

    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Option<SegmentHeader> {
        let u64_at = |offset: usize| Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?));
        let u32_at = |offset: usize| Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?));
        if u64_at(0)? != xxh3_64_with_seed(bytes.get(8..32)?, 0) || *bytes.get(8..16)? != MAGIC {
            return None;
        }
        let kind = match u32_at(20)? {
            1 => SegmentKind::Records,
            2 => SegmentKind::Bodies,
            3 => SegmentKind::Body,
            _ => return None,
        };
        let nonce = u64_at(24)?;
        Some(SegmentHeader { number: u32_at(16)?, kind, nonce, seal: Self::decode_seal(bytes, nonce) })
    }

    fn decode_seal(bytes: &[u8; SEGMENT_HEADER_BYTES], nonce: u64) -> Option<Seal> {
        let u64_at = |offset: usize| Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?));
        let is_sealed = u64_at(32)? == xxh3_64_with_seed(bytes.get(40..56)?, nonce);
        is_sealed.then_some(Seal { end: u64_at(40)?, record_count: u64_at(48)? })
    }
}

/// The name of a segment's file.
pub(crate) fn file_name(number: u32, kind: SegmentKind) -> String {
    match kind {
        SegmentKind::Records => format!("{number:010}.records"),
        SegmentKind::Bodies => format!("{number:010}.bodies"),
        SegmentKind::Body => format!("{number:010}.body"),
    }
}

/// The number and kind that a file's name claims.
pub(crate) fn parse_file_name(name: &str) -> Option<(u32, SegmentKind)> {
    let (number, kind) = name.split_once('.')?;
    let kind = match kind {
        "records" => SegmentKind::Records,
        "bodies" => SegmentKind::Bodies,
        "body" => SegmentKind::Body,
        _ => return None,
    };
    Some((number.parse().ok()?, kind))
}

/// Reads a segment file's header; None where it is not one.
pub(crate) fn read_header(path: &Path) -> io::Result<Option<SegmentHeader>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    match File::open(path)?.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(SegmentHeader::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Rebuilds a record segment's damaged header, if its nonce is intact: the first record's checksum proves that.
pub(crate) fn guess_header(path: &Path, number: u32) -> io::Result<Option<SegmentHeader>> {
    let mut bytes = Vec::new();
    let wanted = SEGMENT_HEADER_BYTES + HEADER_BYTES + ID_BYTES_MAX;
    File::open(path)?.take(wanted as u64).read_to_end(&mut bytes)?;
    let Some((header, record)) = bytes.split_first_chunk::<SEGMENT_HEADER_BYTES>() else { return Ok(None) };
    let Some(nonce) = header.get(24..).and_then(|rest| rest.first_chunk()).map(|nonce| u64::from_le_bytes(*nonce))
    else {
        return Ok(None);
    };
    let place = Lsn::new(number, SEGMENT_HEADER_BYTES as u32);
    let is_it = Header::decode(record, nonce, place).is_some();
    let seal = SegmentHeader::decode_seal(header, nonce);
    Ok(is_it.then_some(SegmentHeader { number, kind: SegmentKind::Records, nonce, seal }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_reads_back_and_a_flipped_bit_is_seen() {
        let open = SegmentHeader { number: 7, kind: SegmentKind::Records, nonce: 99, seal: None };
        let sealed = SegmentHeader { seal: Some(Seal { end: 4096, record_count: 12 }), ..open };
        assert_eq!(SegmentHeader::decode(&open.encode()), Some(open));
        assert_eq!(SegmentHeader::decode(&sealed.encode()), Some(sealed));
        assert_eq!(open.encode()[8..24], *b"SOSseg\x01\x00\x07\x00\x00\x00\x01\x00\x00\x00");
        for byte in 0..56 {
            let mut flipped = sealed.encode();
            flipped[byte] ^= 4;
            assert_ne!(SegmentHeader::decode(&flipped), Some(sealed), "byte {byte}");
        }
    }
}
