//! Reading a segment's records one after the other, and finding the next valid one behind damage.

use super::Lsn;
use super::record::{ALIGNMENT, HEADER_BYTES, Header, RECORD_BYTES_MAX};
use super::segment_header::SEGMENT_HEADER_BYTES;

/// An iterator over a record segment's bytes, which goes from record to record by their lengths.
///
/// Behind an invalid header it searches for the next valid one: lsn and seeded checksum tell a header from any other bytes, also from a
/// header that an earlier file left in the same disk block.
pub(crate) struct Walk<'a> {
    bytes: &'a [u8],
    number: u32,
    nonce: u64,
    offset: usize,
}

/// What the walk has come to.
pub(crate) enum Step<'a> {
    Record {
        header: Header,
        id: &'a [u8],
        body: &'a [u8],
    },
    /// Bytes up to `end` hold no valid header, but a valid one follows.
    Damage {
        offset: u32,
        end: u32,
    },
}

impl<'a> Walk<'a> {
    /// `bytes`: the segment from its beginning to where records may end.
    pub fn new(bytes: &'a [u8], number: u32, nonce: u64) -> Self {
        Walk { bytes, number, nonce, offset: SEGMENT_HEADER_BYTES }
    }

    /// Begins at the record at `offset` instead.
    pub fn starting_at(self, offset: u32) -> Self {
        Walk { offset: (offset as usize).max(SEGMENT_HEADER_BYTES), ..self }
    }

    /// Where the next record would begin: after the last step, where the records end.
    pub fn offset(&self) -> u32 {
        self.offset as u32
    }

    fn decode(&self, offset: usize) -> Option<(Header, &'a [u8], &'a [u8])> {
        let rest = self.bytes.get(offset..)?;
        let rest = rest.get(..rest.len().min(RECORD_BYTES_MAX))?;
        let (header, id) = Header::decode(rest, self.nonce, Lsn::new(self.number, offset as u32))?;
        let body = rest.get(header.body_offset()..header.record_bytes())?;
        Some((header, id, body))
    }

    fn next_valid(&self, from: usize) -> Option<usize> {
        (from..self.bytes.len().saturating_sub(HEADER_BYTES))
            .step_by(ALIGNMENT)
            .find(|offset| self.decode(*offset).is_some())
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        if let Some((header, id, body)) = self.decode(self.offset) {
            self.offset += header.record_bytes().next_multiple_of(ALIGNMENT);
            return Some(Step::Record { header, id, body });
        }
        let next = self.next_valid(self.offset + ALIGNMENT)?;
        let damage = Step::Damage { offset: self.offset as u32, end: next as u32 };
        self.offset = next;
        Some(damage)
    }
}
