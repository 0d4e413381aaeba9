//! The log sequence number: what names a record in the journal, the index, the cursors and the catalog.

use std::fmt;

/// A record's place in the journal's order: segment number and byte offset. Ordered as the records are.
///
/// Segment numbers start at 1 and are never used again, so 0 stands for "no record".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lsn(u64);

impl Lsn {
    /// No record.
    pub const NONE: Lsn = Lsn(0);

    pub fn new(segment: u32, offset: u32) -> Self {
        Lsn(u64::from(segment) << 32 | u64::from(offset))
    }

    pub fn from_u64(value: u64) -> Self {
        Lsn(value)
    }

    pub fn to_u64(self) -> u64 {
        self.0
    }

    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn offset(self) -> u32 {
        self.0 as u32
    }

    /// The greatest lsn below this one. Of a journal's end: it counts as durable as soon as all records below the end are.
    pub fn just_below(self) -> Self {
        Lsn(self.0.saturating_sub(1))
    }

    /// The least lsn above this one.
    pub fn just_above(self) -> Self {
        Lsn(self.0.saturating_add(1))
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} offset {}", self.segment(), self.offset())
    }
}
