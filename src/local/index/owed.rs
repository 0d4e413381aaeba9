//! Room that deletes take which Redis may not know of: counted apart from live bytes, as they are not live and may not go either.

use std::collections::BTreeMap;

use crate::local::journal::Lsn;
use crate::sync::Mutex;

/// Record bytes of deletes that Redis may not know of, by segment. Until it does, these records are in use and are copied forward like
/// live ones. An estimate, as live bytes are: whether a record is still needed is decided for each one.
#[derive(Default)]
pub(crate) struct Owed(Mutex<Bytes>);

/// Owed bytes by segment, and their sum.
#[derive(Default)]
struct Bytes {
    segments: BTreeMap<u32, u64>,
    total: u64,
}

impl Owed {
    pub(super) fn add(&self, lsn: Lsn, bytes: u64) {
        let mut owed = self.0.lock();
        *owed.segments.entry(lsn.segment()).or_default() += bytes;
        owed.total += bytes;
    }

    /// Does nothing if the segment is settled already.
    pub(super) fn remove(&self, lsn: Lsn, bytes: u64) {
        let mut owed = self.0.lock();
        let Some(left) = owed.segments.get_mut(&lsn.segment()) else { return };
        let removed = bytes.min(*left);
        *left -= removed;
        if *left == 0 {
            owed.segments.remove(&lsn.segment());
        }
        owed.total -= removed;
    }

    /// Redis knows of all deletes in the segments below this one.
    pub fn settle_below(&self, segment: u32) {
        let mut owed = self.0.lock();
        let kept = owed.segments.split_off(&segment);
        let settled = std::mem::replace(&mut owed.segments, kept);
        owed.total -= settled.values().sum::<u64>();
    }

    /// Record bytes of such deletes in one segment.
    pub fn bytes_in(&self, segment: u32) -> u64 {
        self.0.lock().segments.get(&segment).copied().unwrap_or(0) // what is not listed owes nothing
    }

    pub fn bytes(&self) -> u64 {
        self.0.lock().total
    }
}

#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use super::*;

    #[test]
    fn what_deletes_take_is_in_use_until_each_or_all_of_its_segment_are_settled() {
        let owed = Owed::default();
        let of = |segment| Lsn::new(segment, 64);
        let bytes = || ([1, 2, 3].map(|segment| owed.bytes_in(segment)), owed.bytes());
        assert_eq!(bytes(), ([0, 0, 0], 0));
        for (segment, bytes) in [(1, 100), (1, 50), (2, 30), (3, 7)] {
            owed.add(of(segment), bytes);
        }
        assert_eq!(bytes(), ([150, 30, 7], 187));
        owed.remove(of(1), 100);
        assert_eq!(bytes(), ([50, 30, 7], 87));
        owed.remove(of(1), 50);
        assert_eq!(bytes(), ([0, 30, 7], 37));
        owed.settle_below(3);
        assert_eq!(bytes(), ([0, 0, 7], 7));
        // What is settled already is not subtracted again.
        owed.remove(of(2), 30);
        owed.remove(of(3), 8);
        assert_eq!(bytes(), ([0, 0, 0], 0));
        owed.add(of(2), 5);
        assert_eq!(bytes(), ([0, 5, 0], 5));
    }
}
