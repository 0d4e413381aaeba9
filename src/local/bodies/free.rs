//! The free stretches of the body segments that several bodies share (`N.bodies`).

use std::collections::{BTreeMap, BTreeSet};

use crate::local::journal::Segment;
use crate::local::journal::segment::BODY_ALIGNMENT;

/// The free stretches, by place and by length.
#[derive(Default)]
pub(super) struct Free {
    pub by_place: BTreeMap<(u32, u32), u64>,
    pub by_bytes: BTreeSet<(u64, u32, u32)>,
    /// Of all stretches together.
    pub bytes: u64,
}

impl Free {
    /// Takes `bytes` from the smallest free stretch that is large enough, among the segments for which `is_asked`.
    pub fn take(&mut self, bytes: u64, is_asked: impl Fn(u32) -> bool) -> Option<(u32, u32)> {
        let found = *self.by_bytes.range((bytes, 0, 0)..).find(|(_, segment, _)| is_asked(*segment))?;
        let (length, segment, offset) = found;
        self.remove(segment, offset, length);
        if length > bytes {
            self.insert(segment, offset + bytes as u32, length - bytes);
        }
        Some((segment, offset))
    }

    /// Adds a free stretch, merged with those that touch it.
    pub fn insert(&mut self, segment: u32, mut offset: u32, mut bytes: u64) {
        let before = self.by_place.range(..(segment, offset)).next_back().map(|(place, bytes)| (*place, *bytes));
        if let Some(((before_segment, before_offset), before_bytes)) = before
            && before_segment == segment
            && u64::from(before_offset) + before_bytes == u64::from(offset)
        {
            self.remove(segment, before_offset, before_bytes);
            offset = before_offset;
            bytes += before_bytes;
        }
        let end = u64::from(offset) + bytes;
        if let Ok(after_offset) = u32::try_from(end)
            && let Some(after_bytes) = self.by_place.get(&(segment, after_offset)).copied()
        {
            self.remove(segment, after_offset, after_bytes);
            bytes += after_bytes;
        }
        self.by_place.insert((segment, offset), bytes);
        self.by_bytes.insert((bytes, segment, offset));
        self.bytes += bytes;
    }

    pub fn remove(&mut self, segment: u32, offset: u32, bytes: u64) {
        self.bytes -= bytes;
        self.by_place.remove(&(segment, offset));
        self.by_bytes.remove(&(bytes, segment, offset));
    }

    pub fn remove_segment(&mut self, segment: u32) {
        let stretches: Vec<_> =
            self.by_place.range((segment, 0)..=(segment, u32::MAX)).map(|(at, n)| (*at, *n)).collect();
        for ((segment, offset), bytes) in stretches {
            self.remove(segment, offset, bytes);
        }
    }

    /// Free bytes in one segment.
    pub fn bytes_in(&self, segment: u32) -> u64 {
        self.by_place.range((segment, 0)..=(segment, u32::MAX)).map(|(_, bytes)| bytes).sum()
    }

    /// Whether this segment is wholly free, and more than `kept` such segments exist.
    pub fn is_empty_segment(&self, segment: &Segment, kept: usize) -> bool {
        let whole = segment.bytes() - BODY_ALIGNMENT;
        let is_empty = self.by_place.get(&(segment.number, BODY_ALIGNMENT as u32)) == Some(&whole);
        is_empty && self.by_bytes.range((whole, 0, 0)..).count() > kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_stretches_merge_and_the_smallest_that_fits_is_taken() {
        let mut free = Free::default();
        free.insert(1, 4096, 8192);
        free.insert(1, 20480, 4096);
        free.insert(2, 4096, 65536);
        assert_eq!(free.take(4096, |_| true), Some((1, 20480)));
        assert_eq!(free.take(4096, |_| true), Some((1, 4096)));
        free.insert(1, 4096, 4096);
        free.insert(1, 20480, 4096);
        free.insert(1, 12288, 8192);
        assert_eq!(free.by_place.get(&(1, 4096)), Some(&20480));
        assert_eq!(free.by_bytes.len(), free.by_place.len());
        assert_eq!(free.take(1 << 20, |_| true), None);
        free.remove_segment(1);
        assert_eq!(free.take(4096, |_| true), Some((2, 4096)));
    }
}
