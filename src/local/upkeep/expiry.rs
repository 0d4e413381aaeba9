//! When something expires that still takes room. `sweep` deletes it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::{MS_MAX, expiry_delay};

/// When something expires.
pub(in crate::local) struct Expiry {
    lifetime_ms: u64,
    times: Mutex<Times>,
}

struct Times {
    /// No object in the index has an earlier deadline. 0: not known.
    earliest_ms: u64,
    /// While the index is gone through: the same, of what was seen or stored since.
    coming_ms: Option<u64>,
    /// Something could not be read or deleted: not tried before this moment, but for who wants room.
    rests_until: Option<Instant>,
}

impl Expiry {
    /// `lifetime_ms`: of what is stored from now on, 0 for ever. What was stored before may have deadlines of any kind.
    pub fn new(lifetime_ms: u64) -> Self {
        Expiry { lifetime_ms, times: Mutex::new(Times { earliest_ms: 0, coming_ms: None, rests_until: None }) }
    }

    /// An object with this deadline has been entered.
    pub fn note(&self, deadline_ms: u64) {
        // None, or a lifetime that has not begun.
        if deadline_ms == 0 || deadline_ms > MS_MAX {
            return;
        }
        let mut times = self.times.lock();
        times.earliest_ms = times.earliest_ms.min(deadline_ms);
        times.coming_ms = times.coming_ms.map(|coming_ms| coming_ms.min(deadline_ms));
    }

    /// Whether objects may have expired that still take room.
    pub fn is_possible(&self, now_ms: u64) -> bool {
        self.times.lock().earliest_ms < now_ms
    }

    /// Whether it is time to look, though nobody wants room. A store without lifetimes is not gone through only to find that it has none.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let Times { earliest_ms, rests_until, .. } = *self.times.lock();
        if rests_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let delay_ms = self.delay().as_millis() as u64;
        if earliest_ms == 0 { self.lifetime_ms > 0 } else { earliest_ms.saturating_add(delay_ms) < now_ms }
    }

    fn delay(&self) -> Duration {
        expiry_delay(Duration::from_millis(self.lifetime_ms))
    }

    /// False if another thread goes through the index already.
    pub fn begin(&self) -> bool {
        let mut times = self.times.lock();
        let is_free = times.coming_ms.is_none();
        if is_free {
            times.coming_ms = Some(u64::MAX);
        }
        is_free
    }

    /// `is_whole`: every object was seen since `begin`, and what had expired is deleted.
    pub fn end(&self, is_whole: bool) {
        let mut times = self.times.lock();
        let coming_ms = times.coming_ms.take().unwrap_or(0);
        if is_whole {
            (times.earliest_ms, times.rests_until) = (coming_ms, None);
        } else {
            times.rests_until = Instant::now().checked_add(self.delay());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_while_the_index_is_gone_through_is_not_forgotten() {
        let expiry = Expiry::new(1000);
        assert!(expiry.is_possible(1) && expiry.is_due(1), "nothing is known at first");
        assert!(expiry.begin() && !expiry.begin());
        expiry.note(5000);
        assert!(expiry.is_possible(1), "not all was seen");
        expiry.end(true);
        assert!(!expiry.is_possible(5000) && expiry.is_possible(5001));
        assert!(!expiry.is_due(6000) && expiry.is_due(6001));

        expiry.note(4000);
        assert!(expiry.is_possible(4001));
        assert!(expiry.begin());
        expiry.end(true);
        assert!(!expiry.is_possible(u64::MAX) && !expiry.is_due(u64::MAX), "nothing is left that expires");
    }

    #[test]
    fn of_several_deadlines_the_earliest_counts() {
        let expiry = Expiry::new(1);
        assert!(expiry.is_due(1) && expiry.begin());
        [6000, 5000, 7000].into_iter().for_each(|deadline_ms| expiry.note(deadline_ms));
        assert!(!expiry.begin(), "and nothing is forgotten by who comes second");
        expiry.end(true);
        assert!(!expiry.is_possible(5000) && expiry.is_possible(5001));
        [4500, 8000].into_iter().for_each(|deadline_ms| expiry.note(deadline_ms));
        assert!(!expiry.is_possible(4500) && expiry.is_possible(4501));
    }

    #[test]
    fn only_deadlines_are_noted() {
        let expiry = Expiry::new(1000);
        assert!(expiry.begin());
        [0, MS_MAX + 1, u64::MAX - 1].into_iter().for_each(|deadline_ms| expiry.note(deadline_ms));
        expiry.end(true);
        assert!(!expiry.is_possible(u64::MAX), "no lifetime has begun");
        for deadline_ms in [MS_MAX, 1] {
            expiry.note(deadline_ms);
            assert!(!expiry.is_possible(deadline_ms) && expiry.is_possible(deadline_ms + 1));
        }
    }

    #[test]
    fn what_was_not_gone_through_to_the_end_is_gone_through_again_but_not_at_once() {
        let expiry = Expiry::new(16_000_000);
        assert!(expiry.is_due(1) && expiry.begin());
        expiry.note(5000);
        expiry.end(false);
        assert!(expiry.is_possible(1) && !expiry.is_due(u64::MAX));
        assert!(expiry.begin());
        expiry.note(5000);
        expiry.end(true);
        assert!(expiry.is_due(u64::MAX));
    }

    #[test]
    fn a_store_without_lifetimes_is_gone_through_only_for_who_wants_room() {
        let expiry = Expiry::new(0);
        assert!(!expiry.is_due(u64::MAX) && expiry.is_possible(1));
        // Lifetimes that have not begun, or there are none.
        expiry.note(0);
        expiry.note(MS_MAX + 1);
        assert!(expiry.begin());
        expiry.note(5000);
        expiry.end(true);
        assert!(!expiry.is_due(65_000) && expiry.is_due(65_001), "from then on it is known");
    }
}
