//! What the fuzz targets check inside the journal.

use super::catalog::hints::{Hint, decode_chunk, encode_chunks};
use super::journal::record::{HEADER_BYTES, RECORD_BYTES_MAX};
use super::journal::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::journal::{Header, Lsn, Step, Walk};

const NUMBER: u32 = 7;
const NONCE: u64 = 11;

/// Any bytes as a record, as a segment's header, as hints: what is understood survives being written down again.
pub fn decode(bytes: &[u8]) {
    if let Some((header, id)) = Header::parse(bytes) {
        assert_eq!(id.len(), usize::from(header.id_bytes));
        assert!(!header.is_inline() || header.record_bytes() <= RECORD_BYTES_MAX);
        let mut again = Vec::new();
        header.encode(NONCE, id, &mut again);
        assert_eq!(Header::decode(&again, NONCE, header.lsn), Some((header, id)));
        assert_eq!(Header::decode(&again, NONCE + 1, header.lsn), None);
    }
    if let Some(header) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>().and_then(SegmentHeader::decode) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
    }
    let mut hints = Vec::new();
    if decode_chunk(bytes, &mut hints).is_some() {
        let mut again: Vec<Hint> = Vec::new();
        for chunk in encode_chunks(&hints) {
            assert!(decode_chunk(&chunk, &mut again).is_some());
        }
        assert_eq!(again.len(), hints.len());
    }
}

/// A segment made of the records that `bytes` can be read as, then changed at these places: the walk ends, goes forward, and yields
/// nothing but records that were written.
pub fn walk(bytes: &[u8], changes: &[(u32, u8)]) {
    let mut segment = vec![0; SEGMENT_HEADER_BYTES];
    let mut written = Vec::new();
    for piece in bytes.chunks(4 * HEADER_BYTES).take(64) {
        let Some((mut header, id)) = Header::parse(piece) else { continue };
        header.lsn = Lsn::new(NUMBER, segment.len() as u32);
        header.encode(NONCE, id, &mut segment);
        let start = header.lsn.offset() as usize;
        segment.resize(start + header.stride() as usize, 0xa5);
        written.push(header);
    }
    for (place, change) in changes {
        let length = segment.len();
        if let Some(byte) = segment.get_mut(*place as usize % length) {
            *byte ^= change;
        }
    }
    let mut walk = Walk::new(&segment, NUMBER, NONCE);
    let mut offset = walk.offset();
    let mut found = 0;
    while let Some(step) = walk.next() {
        match step {
            Step::Record { header, id, body } => {
                assert!(written.contains(&header), "a record that nobody wrote");
                assert_eq!(id.len(), usize::from(header.id_bytes));
                assert_eq!(header.body_offset() + body.len(), header.record_bytes());
                found += 1;
            }
            Step::Damage { offset, end } => assert!(offset < end && end as usize <= segment.len()),
        }
        assert!(walk.offset() > offset, "no progress");
        offset = walk.offset();
    }
    if changes.is_empty() {
        assert_eq!(found, written.len());
    }
}
