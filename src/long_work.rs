//! Work that takes long says how far it is, every few seconds, in the log.

use std::time::{Duration, Instant};

/// How often it says so.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Work on one object after the other.
pub(crate) struct LongWork {
    /// What is done to the objects: `deleted`.
    what: &'static str,
    place: String,
    begun: Instant,
    told: Instant,
    done: u64,
}

impl LongWork {
    pub fn begin(what: &'static str, place: impl Into<String>) -> LongWork {
        let now = Instant::now();
        LongWork { what, place: place.into(), begun: now, told: now, done: 0 }
    }

    /// One object is done.
    pub fn step(&mut self) {
        if let Some(text) = self.stepped(Instant::now()) {
            tracing::info!("{text}");
        }
    }

    /// What there is to say after one more object, at times.
    fn stepped(&mut self, now: Instant) -> Option<String> {
        self.done += 1;
        if now.saturating_duration_since(self.told) < TELL_EVERY {
            return None;
        }
        self.told = now;
        let seconds = now.saturating_duration_since(self.begun).as_secs();
        Some(format!("{}: {} objects {} in {seconds} s, and more to come", self.place, self.done, self.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_far_it_is_every_few_seconds() {
        let mut work = LongWork::begin("deleted", "/place");
        let begun = work.begun;
        assert_eq!(work.stepped(begun), None);
        assert_eq!(work.stepped(begun + TELL_EVERY / 2), None);
        let text = work.stepped(begun + TELL_EVERY);
        assert_eq!(text.as_deref(), Some("/place: 3 objects deleted in 5 s, and more to come"));
        assert_eq!(work.stepped(begun + TELL_EVERY), None);
        assert!(work.stepped(begun + TELL_EVERY * 2).is_some());
    }
}
