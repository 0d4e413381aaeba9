//! Used by recovery, which meets records newest first: which older records are superseded by one that was met.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::local::catalog::hints::Hint;
use crate::local::journal::Lsn;

/// A record that superseded an older one of its id.
#[derive(Clone, Copy)]
pub(in crate::local) struct Successor {
    pub fingerprint: u64,
    pub lsn: Lsn,
}

/// Places of records that a newer record superseded.
#[derive(Default)]
pub(in crate::local) struct Superseded {
    /// Those that recovery has not met yet, by segment and offset.
    lsns: BTreeMap<u32, FxHashMap<u32, Successor>>,
    /// The oldest segment of which there is a file or a hint: older places are never met, and not kept.
    oldest: u32,
    /// By fingerprint, records that superseded a lost one. What the lost one superseded can be told only by comparing ids.
    severed: FxHashMap<u64, Vec<Lsn>>,
}

impl Superseded {
    /// Begins a segment, all newer ones being done: superseded places in newer segments that were not met, and places in this one that are
    /// none of its records, are lost.
    pub fn begin(&mut self, number: u32, hints: &[Hint]) {
        let passed = self.lsns.split_off(&number.saturating_add(1)).into_values().flatten();
        let mut lost: Vec<_> = passed.map(|(_, by)| by).collect();
        if let Some(lsns) = self.lsns.get_mut(&number) {
            lost.extend(lsns.extract_if(|offset, _| !has_record(hints, *offset)).map(|(_, by)| by));
        }
        lost.into_iter().for_each(|by| self.sever(by));
    }

    /// Sets the oldest segment, below which places are not kept.
    pub fn set_oldest(&mut self, number: u32) {
        self.oldest = number;
    }

    /// `by`, in the segment with these hints, superseded the record at `lsn`.
    pub fn insert(&mut self, lsn: Lsn, by: Successor, hints: &[Hint]) {
        if lsn.segment() < self.oldest {
            return;
        }
        if lsn.segment() == by.lsn.segment() && !has_record(hints, lsn.offset()) {
            self.sever(by);
        } else {
            self.lsns.entry(lsn.segment()).or_default().insert(lsn.offset(), by);
        }
    }

    /// Newer records with this fingerprint of which the superseded one is lost.
    pub fn severed(&self, fingerprint: u64) -> Option<&[Lsn]> {
        self.severed.get(&fingerprint).map(Vec::as_slice)
    }

    fn sever(&mut self, by: Successor) {
        self.severed.entry(by.fingerprint).or_default().push(by.lsn);
    }

    /// Meets the record at `lsn`. Returns whether it is superseded.
    pub fn meet(&mut self, lsn: Lsn) -> bool {
        let lsns = self.lsns.get_mut(&lsn.segment());
        lsns.is_some_and(|lsns| lsns.remove(&lsn.offset()).is_some())
    }
}

fn has_record(hints: &[Hint], offset: u32) -> bool {
    hints.binary_search_by_key(&offset, |hint| hint.offset).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::journal::{BodyPlace, Flags, Kind};

    fn hints(offsets: &[u32]) -> Vec<Hint> {
        let hint = |offset: &u32| Hint {
            fingerprint: 1,
            offset: *offset,
            record_bytes: 64,
            id_bytes: 1,
            kind: Kind::Put,
            flags: Flags::NONE,
            supersedes: Lsn::NONE,
            payload: Lsn::NONE,
            body_bytes: 0,
            body_place: BodyPlace::default(),
        };
        offsets.iter().map(hint).collect()
    }

    fn by(fingerprint: u64, segment: u32, offset: u32) -> Successor {
        Successor { fingerprint, lsn: Lsn::new(segment, offset) }
    }

    #[test]
    fn a_record_that_was_superseded_is_met_as_such_once() {
        let mut superseded = Superseded::default();
        superseded.insert(Lsn::new(1, 64), by(1, 3, 64), &hints(&[64]));
        superseded.insert(Lsn::new(3, 128), by(2, 3, 192), &hints(&[64, 128, 192]));
        assert!(superseded.meet(Lsn::new(3, 128)) && !superseded.meet(Lsn::new(3, 128)));
        assert!(!superseded.meet(Lsn::new(3, 64)) && !superseded.meet(Lsn::new(2, 64)));
        superseded.begin(1, &hints(&[64]));
        assert!(superseded.meet(Lsn::new(1, 64)) && !superseded.meet(Lsn::new(1, 64)));
        assert!(superseded.severed(1).is_none() && superseded.severed(2).is_none());
    }

    #[test]
    fn what_supersedes_a_lost_record_is_known_when_that_was_passed() {
        let mut superseded = Superseded::default();
        let newest = hints(&[64, 192]);
        // In the newest segment itself, in the middle one, in a missing one below that, and in the oldest.
        superseded.insert(Lsn::new(9, 128), by(1, 9, 192), &newest);
        assert_eq!(superseded.severed(1), Some(&[Lsn::new(9, 192)][..]));
        superseded.insert(Lsn::new(5, 64), by(2, 9, 64), &newest);
        superseded.insert(Lsn::new(5, 128), by(3, 9, 64), &newest);
        superseded.insert(Lsn::new(3, 64), by(4, 9, 64), &newest);
        superseded.insert(Lsn::new(2, 64), by(5, 9, 64), &newest);
        superseded.begin(5, &hints(&[128]));
        assert_eq!(superseded.severed(2), Some(&[Lsn::new(9, 64)][..]));
        assert!(superseded.meet(Lsn::new(5, 128)));
        for not_yet in [3, 4, 5] {
            assert!(superseded.severed(not_yet).is_none(), "{not_yet}");
        }
        superseded.begin(2, &hints(&[64]));
        assert_eq!(superseded.severed(4), Some(&[Lsn::new(9, 64)][..]));
        assert!(superseded.severed(3).is_none() && superseded.severed(5).is_none());
        assert!(superseded.meet(Lsn::new(2, 64)));
    }

    #[test]
    fn nothing_is_kept_of_places_below_the_oldest_segment() {
        let mut superseded = Superseded::default();
        superseded.set_oldest(4);
        superseded.insert(Lsn::new(3, 64), by(1, 5, 64), &hints(&[64]));
        superseded.insert(Lsn::new(4, 64), by(2, 5, 64), &hints(&[64]));
        assert!(!superseded.meet(Lsn::new(3, 64)) && superseded.meet(Lsn::new(4, 64)));
        superseded.begin(0, &[]);
        assert!(superseded.severed(1).is_none());
    }
}
