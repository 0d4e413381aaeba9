//! Finds a record that breaks the connection each time it is sent (it may exceed a limit of Redis, or a path may drop large packets): batches
//! are made smaller until the record is sent alone, and then it is set aside.

use crate::local::{Lane, Lsn};

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
}
