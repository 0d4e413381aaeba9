use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::local::Place;

/// What was acknowledged within this time is settled together.
const BUCKET: Duration = Duration::from_millis(100);

/// How far a walk through the journal has come, and since when Redis has what lies behind.
#[derive(Debug)]
pub(super) struct Lane {
    /// Everything below was pushed, refused or overtaken.
    pub position: Place,
    /// Everything below the place was acknowledged before the moment.
    acknowledged: VecDeque<(Instant, Place)>,
}

impl Lane {
    pub fn at(position: Place) -> Self {
        Lane { position, acknowledged: VecDeque::new() }
    }

    /// Redis has acknowledged everything below `position`.
    pub fn acknowledge(&mut self, now: Instant) {
        match self.acknowledged.back_mut() {
            Some((until, place)) if now <= *until => *place = self.position,
            Some((_, place)) if *place == self.position => {}
            _ => self.acknowledged.push_back((now + BUCKET, self.position)),
        }
    }

    /// Up to where everything was acknowledged more than `settle` ago; None where that is not further than at the last call.
    pub fn settled(&mut self, now: Instant, settle: Duration) -> Option<Place> {
        let mut settled = None;
        while let Some((at, place)) = self.acknowledged.front()
            && *at + settle <= now
        {
            settled = Some(*place);
            self.acknowledged.pop_front();
        }
        settled
    }

    /// When something is settled next.
    pub fn next_settled(&self, settle: Duration) -> Option<Instant> {
        self.acknowledged.front().map(|(at, _)| *at + settle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_is_settled_when_its_time_is_over_and_not_before() {
        let (start, settle) = (Instant::now(), Duration::from_secs(30));
        let mut lane = Lane::at(Place::new(1, 0));
        for second in 1..=3 {
            lane.position = Place::new(1, second * 100);
            lane.acknowledge(start + Duration::from_secs(second.into()));
        }
        assert_eq!(lane.settled(start + Duration::from_secs(31), settle), None);
        assert_eq!(lane.settled(start + Duration::from_secs(32), settle), Some(Place::new(1, 100)));
        assert_eq!(lane.settled(start + Duration::from_secs(99), settle), Some(Place::new(1, 300)));
        assert_eq!(lane.settled(start + Duration::from_secs(99), settle), None);
    }
}
