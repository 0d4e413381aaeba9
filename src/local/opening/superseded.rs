//! While a directory is opened, newest record first: which older records are overruled.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::local::catalog::hints::Hint;
use crate::local::journal::Lsn;

/// A record that superseded an older one of its id.
#[derive(Clone, Copy)]
pub(in crate::local) struct Superseder {
    pub fingerprint: u64,
    pub place: Lsn,
}

/// Places that a newer record superseded.
#[derive(Default)]
pub(in crate::local) struct Superseded {
    /// Those that were not met yet, by segment and offset.
    places: BTreeMap<u32, FxHashMap<u32, Superseder>>,
    /// The oldest segment that there is anything of: what is older is not met.
    oldest: u32,
    /// By fingerprint, records that superseded one that was lost: what that one had superseded is known by its id alone.
    severed: FxHashMap<u64, Vec<Lsn>>,
}

impl Superseded {
    /// Begins a segment, all newer ones having been gone through: what is not among its records, or was not met in those, is lost.
    pub fn begin(&mut self, number: u32, hints: &[Hint]) {
        let passed = self.places.split_off(&number.saturating_add(1)).into_values().flatten();
        let mut lost: Vec<_> = passed.map(|(_, by)| by).collect();
        if let Some(places) = self.places.get_mut(&number) {
            lost.extend(places.extract_if(|offset, _| !has_record(hints, *offset)).map(|(_, by)| by));
        }
        lost.into_iter().for_each(|by| self.sever(by));
    }

    pub fn set_oldest(&mut self, number: u32) {
        self.oldest = number;
    }

    /// `by`, in the segment with these hints, superseded the record at `place`.
    pub fn insert(&mut self, place: Lsn, by: Superseder, hints: &[Hint]) {
        if place.segment() < self.oldest {
            return;
        }
        if place.segment() == by.place.segment() && !has_record(hints, place.offset()) {
            self.sever(by);
        } else {
            self.places.entry(place.segment()).or_default().insert(place.offset(), by);
        }
    }

    /// Newer records with this fingerprint of which the superseded one is lost.
    pub fn severed(&self, fingerprint: u64) -> Option<&[Lsn]> {
        self.severed.get(&fingerprint).map(Vec::as_slice)
    }

    fn sever(&mut self, by: Superseder) {
        self.severed.entry(by.fingerprint).or_default().push(by.place);
    }

    /// The record at `place` is met; whether it is superseded.
    pub fn meet(&mut self, place: Lsn) -> bool {
        let places = self.places.get_mut(&place.segment());
        places.is_some_and(|places| places.remove(&place.offset()).is_some())
    }
}

fn has_record(hints: &[Hint], offset: u32) -> bool {
    hints.binary_search_by_key(&offset, |hint| hint.offset).is_ok()
}
