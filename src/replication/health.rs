//! Whether replication works, judged by what gets through and not by connections. The log says once when pushing or hearing stops, and once
//! when it works again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;

/// A failure is logged when it has lasted for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether Redis answers, takes what is pushed, and delivers events.
#[derive(Default)]
pub(super) struct Health {
    is_away: AtomicBool,
    pushing: Mutex<Condition>,
    hearing: Mutex<Condition>,
    damaged: AtomicU64,
}

/// Whether one of these works, and whether the log says so.
#[derive(Default)]
struct Condition {
    failing_since: Option<Instant>,
    is_said: bool,
}

impl Condition {
    /// Notes a failure. Returns whether it is time to log it.
    fn failed(&mut self, now: Instant) -> bool {
        let since = *self.failing_since.get_or_insert(now);
        now.saturating_duration_since(since) >= PATIENCE && !std::mem::replace(&mut self.is_said, true)
    }

    /// Notes a success. Returns whether the failure before was logged.
    fn works(&mut self) -> bool {
        self.failing_since = None;
        std::mem::take(&mut self.is_said)
    }
}

impl Health {
    pub fn count_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// Notes whether a connection could be made.
    pub fn set_away(&self, error: Option<&Error>) {
        let was_away = self.is_away.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_away => tracing::warn!("{error}; local work goes on, the rest follows when it is back"),
            None if was_away => tracing::info!("Redis is back"),
            _ => {}
        }
    }

    /// Notes that nothing could be pushed. Logged only if Redis can be reached; otherwise `set_away` does that.
    pub fn cannot_push(&self, error: &Error) {
        if !self.is_away() && self.pushing.lock().failed(Instant::now()) {
            tracing::warn!(
                "nothing can be pushed to Redis: {error}; other nodes do not get what is written here, it is kept and pushed when that works again"
            );
        }
    }

    /// Notes that pushing works.
    pub fn pushes(&self) {
        if self.pushing.lock().works() {
            tracing::info!("objects are pushed to Redis again");
        }
    }

    /// Notes that no events can be read though Redis can be reached. Returns whether that has lasted for too long.
    pub fn cannot_hear(&self, error: &Error) -> bool {
        let mut hearing = self.hearing.lock();
        if hearing.failed(Instant::now()) {
            tracing::warn!(
                "what other nodes write and delete is not heard: {error}; until that works again, each read of an object that is held here asks \
                 Redis whether it is still the newest; permit XREAD, XRANGE, XREVRANGE and XADD on the keys of this prefix"
            );
        }
        hearing.is_said
    }

    /// Notes that hearing works.
    pub fn hears(&self) {
        if self.hearing.lock().works() {
            tracing::info!("other nodes are heard again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_for_a_while_is_said_once_and_so_is_its_end() {
        let (mut condition, start) = (Condition::default(), Instant::now());
        assert!(!condition.failed(start) && !condition.failed(start + PATIENCE / 2));
        assert!(condition.failed(start + PATIENCE));
        assert!(!condition.failed(start + PATIENCE * 9));
        assert!(condition.works() && !condition.works());
        assert!(!condition.failed(start + PATIENCE * 10), "it has worked meanwhile");
    }
}
