use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::clock::now_ms;
use crate::version::Version;

/// A version further ahead than this is not believed to be the time.
const AHEAD_MS_MAX: u64 = 60_000;

/// Draws versions: a hybrid logical clock whose physical part is Redis's clock.
pub(super) struct Clock {
    node: u64,
    /// By how much Redis's clock is ahead of this machine's.
    offset_ms: AtomicI64,
    /// The clock of the last version drawn or seen.
    last: AtomicU64,
}

impl Clock {
    pub fn new(node: u64) -> Clock {
        Clock { node, offset_ms: AtomicI64::new(0), last: AtomicU64::new(0) }
    }

    pub fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// Milliseconds since 1970 on Redis's clock.
    pub fn now_ms(&self) -> u64 {
        now_ms().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    /// A version above all that were drawn or seen before.
    pub fn next(&self) -> Version {
        let now = Version::clock_of(self.now_ms());
        let last =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last.saturating_add(1))));
        Version { clock: now.max(last.unwrap_or_default().saturating_add(1)), node: self.node }
    }

    /// A version above `standing`, and above all others, unless `standing` is too far ahead to be believed.
    pub fn next_above(&self, standing: Version) -> Version {
        if standing.clock <= Version::clock_of(self.now_ms().saturating_add(AHEAD_MS_MAX)) {
            self.last.fetch_max(standing.clock, Ordering::Relaxed);
            return self.next();
        }
        Version { clock: standing.clock.saturating_add(1), node: self.node }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // REPLICATION.md, Versions.
    #[test]
    fn versions_ascend_whatever_the_clocks_do() {
        let clock = Clock::new(7);
        let first = clock.next();
        assert!(clock.next() > first);
        clock.set_offset_ms(-1_000_000);
        let behind = clock.next();
        assert!(behind > first);
        assert!(behind.clock - first.clock < 10, "counted on");
        clock.set_offset_ms(50_000);
        let ahead = clock.next();
        assert!(ahead.clock >> 16 > first.clock >> 16);

        let seen = Version { clock: ahead.clock + 1000, node: 9 };
        assert!(clock.next_above(seen) > seen);
        assert!(clock.next() > seen, "merged");
    }

    #[test]
    fn a_version_too_far_ahead_is_exceeded_but_not_merged() {
        let clock = Clock::new(7);
        let far = Version { clock: Version::clock_of(clock.now_ms() + 10 * AHEAD_MS_MAX), node: u64::MAX };
        assert!(clock.next_above(far) > far);
        assert!(clock.next() < far);
    }
}
