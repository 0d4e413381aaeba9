use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::local::Place;

/// Refused records that are remembered one by one; with more, only deletes are pushed on, which may make room.
pub(super) const HELD_MAX: usize = 4096;

/// What is refused for good is tried again this seldom.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Records that Redis refused, or that have to wait, and when they are tried again.
#[derive(Default)]
pub(super) struct Held(BTreeMap<Place, Waiting>);

struct Waiting {
    id: Vec<u8>,
    retry: Instant,
    backoff: Backoff,
}

impl Held {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.0.len() >= HELD_MAX
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn contains(&self, place: Place) -> bool {
        self.0.contains_key(&place)
    }

    /// Holds a record that was refused.
    pub fn refused(&mut self, place: Place, id: &[u8]) {
        let waiting = self.entry(place, id);
        waiting.retry = Instant::now() + waiting.backoff.failed();
    }

    /// Holds a record for a moment.
    pub fn postpone(&mut self, place: Place, id: &[u8], wait: Duration) {
        self.entry(place, id).retry = Instant::now() + wait;
    }

    fn entry(&mut self, place: Place, id: &[u8]) -> &mut Waiting {
        let first = || Waiting { id: id.to_vec(), retry: Instant::now(), backoff: Backoff::up_to(RETRY_MAX) };
        self.0.entry(place).or_insert_with(first)
    }

    pub fn release(&mut self, place: Place) -> bool {
        self.0.remove(&place).is_some()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Those whose time has come, oldest first.
    pub fn due(&self, count: usize) -> Vec<(Place, Vec<u8>)> {
        let now = Instant::now();
        let due = self.0.iter().filter(|(_, waiting)| waiting.retry <= now);
        due.take(count).map(|(place, waiting)| (*place, waiting.id.clone())).collect()
    }

    /// The oldest, whether its time has come or not.
    pub fn oldest(&self) -> Vec<(Place, Vec<u8>)> {
        self.0.iter().take(1).map(|(place, waiting)| (*place, waiting.id.clone())).collect()
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.0.values().map(|waiting| waiting.retry).min()
    }
}
