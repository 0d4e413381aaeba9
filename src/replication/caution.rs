//! Finds a record that breaks the connection each time it is sent (it may exceed a limit of Redis, or a path may drop large packets): batches
//! are made smaller until the record is sent alone, and then it is set aside.

use std::collections::BTreeSet;

use crate::local::{Lane, Lsn};

/// Most records apart that go with a batch.
const WITH_A_BATCH_MAX: usize = 256;

/// A failed batch is tried again in so many parts.
const PARTS: usize = 8;

/// How often a record that is sent alone may break the connection.
const TRIES_MAX: u32 = 3;

/// A range of the journal in which pushing broke the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fragile {
    lane: Lane,
    from: Lsn,
    to: Lsn,
    records_max: usize,
    tries: u32,
}

/// How careful the next batch has to be.
#[derive(Debug, Default)]
pub(super) struct Caution(Option<Fragile>);

/// Bounds for the next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub records_max: usize,
    pub until: Lsn,
}

impl Caution {
    /// Whether nothing has broken the connection of late.
    pub fn is_calm(&self) -> bool {
        self.0.is_none()
    }

    /// The bounds of a batch that begins at `from`, within `bounds`.
    pub fn bound(&self, lane: Lane, from: Lsn, bounds: Bounds) -> Bounds {
        match self.0 {
            Some(fragile) if fragile.lane == lane && from < fragile.from => {
                Bounds { until: bounds.until.min(fragile.from), ..bounds }
            }
            Some(fragile) if fragile.lane == lane && from < fragile.to => {
                Bounds { records_max: bounds.records_max.min(fragile.records_max), ..bounds }
            }
            _ => bounds,
        }
    }

    /// Notes that the connection broke while so many records of this range were pushed. Returns whether to set the record aside: it was the
    /// only one, and broke the connection `TRIES_MAX` times.
    pub fn failed(&mut self, lane: Lane, from: Lsn, to: Lsn, records: usize) -> bool {
        let again = self.0.filter(|it| it.lane == lane && it.from == from && it.to == to && it.records_max == 1);
        let tries = again.map_or(0, |fragile| fragile.tries) + u32::from(records <= 1);
        self.0 = Some(Fragile { lane, from, to, records_max: (records / PARTS).max(1), tries });
        tries >= TRIES_MAX
    }

    /// Notes that a batch got through up to `to`.
    pub fn passed(&mut self, lane: Lane, to: Lsn) {
        if let Some(fragile) = &mut self.0
            && fragile.lane == lane
        {
            fragile.from = fragile.from.max(to);
            self.0 = self.0.filter(|fragile| fragile.from < fragile.to);
        }
    }

    /// The walks begin anew elsewhere: forgets the range.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

/// A record that was sent alone, and how often it has broken the connection since another one did.
#[derive(Debug, Default)]
pub(super) struct Alone(Lsn, u32);

impl Alone {
    /// Notes that the connection broke while this record was under way. Returns whether to set it aside.
    pub fn failed(&mut self, record: Lsn) -> bool {
        let tries = if self.0 == record { self.1 + 1 } else { 1 };
        *self = Alone(record, tries);
        tries >= TRIES_MAX
    }
}

/// The same for records apart. Those that were under way when the connection broke go by themselves, in ever smaller numbers, until each of them got
/// through: after every break the others go again before them.
#[derive(Debug)]
pub(super) struct CautionApart {
    suspects: BTreeSet<Lsn>,
    records_max: usize,
    alone: Alone,
}

impl Default for CautionApart {
    fn default() -> Self {
        CautionApart { suspects: BTreeSet::new(), records_max: WITH_A_BATCH_MAX, alone: Alone::default() }
    }
}

impl CautionApart {
    /// Whether records apart may go with others.
    pub fn is_calm(&self) -> bool {
        self.suspects.is_empty()
    }

    /// Most records apart that go together.
    pub fn records_max(&self) -> usize {
        self.records_max
    }

    /// Notes that the connection broke while these were under way, `with_others` or not. Returns the one to be set aside: it was the only one, and
    /// broke the connection `TRIES_MAX` times.
    pub fn failed(&mut self, records: impl Iterator<Item = Lsn>, with_others: bool) -> Option<Lsn> {
        self.suspects = records.collect();
        let count = self.suspects.len();
        self.records_max = if with_others { count.min(WITH_A_BATCH_MAX) } else { (count / PARTS).max(1) };
        let only = self.suspects.first().copied().filter(|_| count == 1 && !with_others)?;
        self.alone.failed(only).then(|| {
            *self = CautionApart::default();
            only
        })
    }

    /// Notes that this record got through, or need not be pushed any more.
    pub fn passed(&mut self, record: Lsn) {
        if self.suspects.remove(&record) && self.suspects.is_empty() {
            *self = CautionApart::default();
        }
    }

    /// Forgets those that do not stand apart any more.
    pub fn retain(&mut self, is_apart: impl Fn(Lsn) -> bool) {
        let gone: Vec<Lsn> = self.suspects.iter().copied().filter(|lsn| !is_apart(*lsn)).collect();
        gone.into_iter().for_each(|lsn| self.passed(lsn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: usize = 1024;

    fn at(offset: u32) -> Lsn {
        Lsn::new(1, offset)
    }

    /// Every record takes one place, and sending `bad` breaks the connection: it is set aside after a bounded number of failures.
    #[test]
    fn a_record_that_breaks_the_connection_is_found_among_many() {
        for bad in [0, 1, 7, 500, 1023, 1500] {
            let (mut caution, mut position, mut failures, mut is_aside) = (Caution::default(), 0_u32, 0, false);
            let mut rounds = 0;
            while position < 3000 {
                rounds += 1;
                let bounds = Bounds { records_max: BATCH, until: at(3000) };
                let bounds = caution.bound(Lane::Tail, at(position), bounds);
                let to = (position + bounds.records_max as u32).min(bounds.until.offset());
                if (position..to).contains(&bad) && !is_aside {
                    failures += 1;
                    is_aside = caution.failed(Lane::Tail, at(position), at(to), (to - position) as usize);
                    position = 0; // everything unsettled goes again
                } else {
                    caution.passed(Lane::Tail, at(to));
                    position = to;
                }
                assert!(rounds < 1000, "{bad}");
            }
            assert!(is_aside && failures <= 7, "{bad}: {failures}");
        }
    }

    #[test]
    fn connections_that_break_now_and_then_set_nothing_aside() {
        let mut caution = Caution::default();
        for number in 0..100 {
            assert!(!caution.failed(Lane::Tail, at(number), at(number + 1), 1));
            caution.passed(Lane::Tail, at(number + 1));
        }
    }

    /// Redis has lost records that had settled. After each break all of them are due again, oldest first.
    #[test]
    fn a_record_apart_that_breaks_the_connection_is_found_among_many() {
        for (bad, others) in [(0, 40), (7, 40), (39, 40), (300, 700)] {
            let (mut caution, mut failures, mut set_aside) = (CautionApart::default(), 0, None);
            while set_aside.is_none() {
                let mut left: Vec<u32> = (0..others).collect();
                while !left.is_empty() && set_aside.is_none() {
                    let batch: Vec<u32> = left.iter().copied().take(caution.records_max()).collect();
                    if batch.contains(&bad) {
                        failures += 1;
                        // The first time they go with what is new.
                        set_aside = caution.failed(batch.iter().map(|place| at(*place)), failures == 1);
                        break;
                    }
                    batch.iter().for_each(|place| caution.passed(at(*place)));
                    left.retain(|place| !batch.contains(place));
                }
                assert!(failures <= 8, "{bad} of {others}");
            }
            assert_eq!(set_aside, Some(at(bad)));
            assert!(caution.is_calm() && caution.records_max() == WITH_A_BATCH_MAX);
        }
    }

    #[test]
    fn suspects_that_stand_apart_no_more_are_forgotten() {
        let mut caution = CautionApart::default();
        assert_eq!(caution.failed((0..100).map(at), false), None);
        assert!(!caution.is_calm() && caution.records_max() == 12);
        caution.retain(|lsn| lsn == at(3));
        assert!(!caution.is_calm());
        caution.passed(at(3));
        assert!(caution.is_calm() && caution.records_max() == WITH_A_BATCH_MAX);
    }
}
