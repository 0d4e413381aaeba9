//! Since when this node has had something that Redis lacks. The journal's end is noted from time to time; the first record that was not pushed was
//! written before the first note of an end behind it.

use std::collections::VecDeque;
use std::time::Instant;

use crate::local::Lsn;

/// Most notes that are kept. With so many, every second one is left out, which makes what is not pushed yet look younger by that much.
const NOTES_MAX: usize = 256;

#[derive(Default)]
pub(super) struct Lateness(VecDeque<(Instant, Lsn)>);

impl Lateness {
    /// Notes the journal's end. Returns since when there has been something that was not pushed: `first` of it.
    pub fn look(&mut self, first: Option<Lsn>, end: Lsn, now: Instant) -> Option<Instant> {
        let Some(first) = first else {
            self.0.clear();
            return None;
        };
        self.0.retain(|(_, noted)| *noted > first);
        if self.0.len() >= NOTES_MAX {
            let mut number = 0_usize;
            self.0.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        if self.0.back().is_none_or(|(_, noted)| *noted < end) {
            self.0.push_back((now, end));
        }
        self.since()
    }

    fn since(&self) -> Option<Instant> {
        self.0.front().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lsn(offset: u32) -> Lsn {
        Lsn::new(1, offset)
    }

    #[test]
    fn the_age_is_that_of_the_oldest_that_is_left() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lateness = Lateness::default();
        assert_eq!(lateness.look(None, lsn(0), at(0)), None);
        assert_eq!(lateness.look(Some(lsn(0)), lsn(10), at(1)), Some(at(1)));
        assert_eq!(lateness.look(Some(lsn(0)), lsn(20), at(2)), Some(at(1)));
        assert_eq!(lateness.look(Some(lsn(10)), lsn(30), at(3)), Some(at(2)), "what was there at 1 is pushed");
        assert_eq!(lateness.look(Some(lsn(30)), lsn(40), at(9)), Some(at(9)));
        assert_eq!(lateness.look(None, lsn(40), at(10)), None);
        // Lost by Redis.
        assert_eq!(lateness.look(Some(lsn(0)), lsn(40), at(11)), Some(at(11)));
    }

    #[test]
    fn notes_are_bounded_and_the_oldest_is_kept() {
        let start = Instant::now();
        let mut lateness = Lateness::default();
        for number in 1..10_000 {
            let now = start + Duration::from_secs(number.into());
            assert_eq!(lateness.look(Some(lsn(0)), lsn(number), now), Some(start + Duration::from_secs(1)));
            assert!(lateness.0.len() <= NOTES_MAX + 1);
        }
    }
}
