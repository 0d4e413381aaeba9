//! What other nodes ask this one to push again, and what Redis is found to have lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::random::random_u64;

/// Ids that wait to be pushed again: more are asked for again later.
const WANTS_MAX: usize = 4096;

/// All who hold an id are asked for it at once. Each lets a random part of this time pass, so that the others see that the first has
/// pushed it.
const JITTER_MAX: Duration = Duration::from_millis(200);

/// Why an id is to be pushed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Redis lacks what this node knows.
    Missing,
    /// What Redis has is damaged, so that its version says nothing.
    Damaged,
}

#[derive(Clone, Copy)]
struct Want {
    why: Why,
    due: Instant,
}

/// The ids to push again.
#[derive(Default)]
pub(super) struct Wants(Mutex<HashMap<Box<[u8]>, Want>>);

impl Wants {
    /// Another node asks for an id, as it asks all others. Where too much is wanted, it is asked for again.
    pub fn asked(&self, id: &[u8], why: Why) {
        let part = random_u64() % 1024;
        self.add(id, why, Instant::now() + JITTER_MAX * part as u32 / 1024);
    }

    /// This node itself has found that Redis lacks an id.
    pub fn missing(&self, id: &[u8]) {
        self.add(id, Why::Missing, Instant::now());
    }

    fn add(&self, id: &[u8], why: Why, due: Instant) {
        let mut wants = self.0.lock();
        if let Some(want) = wants.get_mut(id) {
            *want = Want { why: want.why.max(why), due: want.due.min(due) };
        } else if wants.len() < WANTS_MAX {
            wants.insert(id.into(), Want { why, due });
        }
    }

    /// Another node has pushed the id.
    pub fn satisfied(&self, id: &[u8]) {
        self.0.lock().remove(id);
    }

    /// Takes those whose time has come.
    pub fn due(&self, now: Instant, ids_max: usize) -> Vec<(Box<[u8]>, Why)> {
        let mut wants = self.0.lock();
        let due = wants.iter().filter(|(_, want)| want.due <= now).take(ids_max);
        let due: Vec<_> = due.map(|(id, want)| (id.clone(), want.why)).collect();
        for (id, _) in &due {
            wants.remove(id);
        }
        due
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.0.lock().values().map(|want| want.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_who_are_asked_those_that_see_an_answer_keep_quiet() {
        let (wants, start) = (Wants::default(), Instant::now());
        wants.asked(b"a", Why::Missing);
        wants.asked(b"a", Why::Damaged);
        wants.asked(b"a", Why::Missing);
        wants.asked(b"b", Why::Missing);
        wants.missing(b"c");
        assert!(wants.next_due().is_some_and(|due| due <= Instant::now()));
        wants.satisfied(b"b");
        let mut due = wants.due(start + JITTER_MAX * 2, 9);
        due.sort();
        assert_eq!(due, [(b"a"[..].into(), Why::Damaged), (b"c"[..].into(), Why::Missing)]);
        assert_eq!(wants.next_due(), None);
    }

    #[test]
    fn what_is_wanted_is_bounded() {
        let wants = Wants::default();
        (0..=WANTS_MAX).for_each(|number| wants.asked(&number.to_be_bytes(), Why::Missing));
        assert_eq!(wants.0.lock().len(), WANTS_MAX);
    }
}
