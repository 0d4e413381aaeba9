//! Whether the Redis of now is the one that has what it acknowledged, so that what is clean here may be evicted.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// For so long it counts as confirmed. The event reader confirms it several times a second.
const CONFIRMED_MAX: Duration = Duration::from_secs(3);

/// For so long after a connection was made, whoever waits for room waits for what Redis says of itself.
const ASKED_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At this moment it was the one for which the cursors hold.
    Confirmed { at: Instant },
    /// It cannot be reached.
    Away,
    /// It is being asked, or does not say.
    Asked { since: Instant },
    /// It has lost everything, or is another one, and what follows from that is not done yet.
    Lost,
}

/// What is known of Redis's epoch at this moment. Clean means that Redis had an object once; only a Redis that still has what it had makes it
/// dispensable here.
pub(crate) struct Continuity(Mutex<State>);

impl Continuity {
    pub fn new() -> Self {
        Continuity(Mutex::new(State::Asked { since: Instant::now() }))
    }

    /// There is a new connection, or reason to ask again.
    pub fn ask(&self) {
        let mut state = self.0.lock();
        if matches!(*state, State::Confirmed { .. } | State::Away) {
            *state = State::Asked { since: Instant::now() };
        }
    }

    /// No connection can be made. What is known to be lost stays lost.
    pub fn away(&self) {
        let mut state = self.0.lock();
        if *state != State::Lost {
            *state = State::Away;
        }
    }

    /// Its epoch is gone, or another one. Returns whether that is new.
    pub fn lose(&self) -> bool {
        std::mem::replace(&mut *self.0.lock(), State::Lost) != State::Lost
    }

    /// It is the one for which the cursors hold.
    pub fn confirm(&self) {
        *self.0.lock() = State::Confirmed { at: Instant::now() };
    }

    /// For tests that may take long.
    #[cfg(test)]
    pub fn confirm_for_long(&self) {
        *self.0.lock() = State::Confirmed { at: Instant::now() + Duration::from_secs(3600) };
    }

    /// A connection over which it was confirmed shows that it still is, whatever others have come to meanwhile, unless they found it lost.
    pub fn confirm_again(&self) {
        let mut state = self.0.lock();
        if *state != State::Lost {
            *state = State::Confirmed { at: Instant::now() };
        }
    }

    pub fn is_lost(&self) -> bool {
        *self.0.lock() == State::Lost
    }

    /// Whether what is clean may be evicted. `is_needed`: for one who would be refused otherwise: then also while Redis cannot be reached, as most
    /// often it comes back with what it had.
    pub fn may_evict(&self, is_needed: bool) -> bool {
        match *self.0.lock() {
            State::Confirmed { at } => at.elapsed() < CONFIRMED_MAX,
            State::Away => is_needed,
            State::Asked { .. } | State::Lost => false,
        }
    }

    /// Whether it may be confirmed in a moment.
    pub fn is_being_asked(&self) -> bool {
        match *self.0.lock() {
            State::Confirmed { at } => (CONFIRMED_MAX..CONFIRMED_MAX + ASKED_MAX).contains(&at.elapsed()),
            State::Asked { since } => since.elapsed() < ASKED_MAX,
            State::Away | State::Lost => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant 3: what is clean is dispensable only while Redis is known to be the one that has it.
    #[test]
    fn only_a_redis_that_is_confirmed_or_away_lets_what_is_clean_go() {
        let continuity = Continuity::new();
        let may_evict = || [false, true].map(|is_needed| continuity.may_evict(is_needed));
        assert!(may_evict() == [false; 2] && continuity.is_being_asked());
        continuity.away();
        assert!(may_evict() == [false, true] && !continuity.is_being_asked());
        continuity.ask();
        assert!(may_evict() == [false; 2] && continuity.is_being_asked());
        continuity.confirm();
        assert!(may_evict() == [true; 2] && !continuity.is_being_asked());
        continuity.ask();
        assert_eq!(may_evict(), [false; 2]);
    }

    #[test]
    fn what_is_lost_stays_lost_until_that_is_dealt_with() {
        let continuity = Continuity::new();
        continuity.confirm();
        assert!(continuity.lose() && !continuity.lose());
        for change in [Continuity::ask, Continuity::away, Continuity::confirm_again] {
            change(&continuity);
            assert!(continuity.is_lost() && !continuity.may_evict(true) && !continuity.is_being_asked());
        }
        continuity.confirm();
        assert!(!continuity.is_lost());
    }

    #[test]
    fn one_who_does_not_say_is_not_waited_for_without_end() {
        let continuity = Continuity(Mutex::new(State::Asked { since: Instant::now() - ASKED_MAX }));
        assert!(!continuity.is_being_asked());
        continuity.ask();
        assert!(!continuity.is_being_asked(), "a new connection to it changes nothing");
    }

    #[test]
    fn what_was_confirmed_a_while_ago_is_to_be_confirmed_again() {
        let continuity = Continuity(Mutex::new(State::Confirmed { at: Instant::now() - CONFIRMED_MAX }));
        assert!(!continuity.may_evict(true) && continuity.is_being_asked());
        continuity.confirm_again();
        assert!(continuity.may_evict(false) && !continuity.is_being_asked());
        let continuity = Continuity(Mutex::new(State::Confirmed { at: Instant::now() - CONFIRMED_MAX - ASKED_MAX }));
        assert!(!continuity.may_evict(true) && !continuity.is_being_asked());
        for change in [Continuity::ask, Continuity::away] {
            change(&continuity);
            assert!(!continuity.may_evict(false));
            continuity.confirm_again();
            assert!(continuity.may_evict(false));
        }
    }
}
