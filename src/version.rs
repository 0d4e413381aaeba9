use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::clock::now_ms;

/// A version that is further ahead than this does not take the clock along.
const AHEAD_MS_MAX: u64 = 60_000;

/// The same, while a directory is opened: by how much Redis's clock is ahead of this machine's is not known then.
const AHEAD_AT_OPEN_MS_MAX: u64 = 24 * 3_600_000;

/// Orders the writes to one id across nodes: the greater wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    /// Hybrid logical clock: 48 bits of milliseconds since 1970, 16 bits of counter.
    pub clock: u64,
    /// 64 bits that the writing node drew when it was opened.
    pub node: u64,
}

impl Version {
    /// Milliseconds since 1970.
    pub fn ms(&self) -> u64 {
        self.clock >> 16
    }

    /// The clock that a record from an earlier open takes along; 0 where it is too far ahead to be believed.
    pub fn clock_at_open(&self) -> u64 {
        if self.clock <= first_clock(now_ms().saturating_add(AHEAD_AT_OPEN_MS_MAX)) { self.clock } else { 0 }
    }
}

/// The clock's first value in that millisecond.
fn first_clock(ms: u64) -> u64 {
    ms.saturating_mul(1 << 16)
}

/// Draws versions: a hybrid logical clock whose physical part is Redis's clock where that is known, otherwise this machine's.
pub(crate) struct HybridClock {
    node: u64,
    /// By how much Redis's clock is ahead of this machine's.
    offset_ms: AtomicI64,
    /// The clock of the last version drawn or seen.
    last: AtomicU64,
}

impl HybridClock {
    /// Goes on behind `last`.
    pub fn new(node: u64, last: u64) -> HybridClock {
        HybridClock { node, offset_ms: AtomicI64::new(0), last: AtomicU64::new(last) }
    }

    pub fn node(&self) -> u64 {
        self.node
    }

    pub fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// Milliseconds since 1970 on Redis's clock, where it is known.
    pub fn now_ms(&self) -> u64 {
        now_ms().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    /// A version above all that were drawn or seen before.
    pub fn next(&self) -> Version {
        let now = first_clock(self.now_ms());
        let after = |last: u64| now.max(last.saturating_add(1));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
        Version { clock: after(last.unwrap_or_default()), node: self.node }
    }

    /// A version with a clock above `clock`, and above all others, unless `clock` is too far ahead to be believed.
    pub fn next_above(&self, clock: u64) -> Version {
        if self.merge(clock) {
            return self.next();
        }
        Version { clock: clock.saturating_add(1), node: self.node }
    }

    /// Goes on behind a version from elsewhere, unless that one is too far ahead to be believed.
    pub fn observe(&self, version: Version) {
        self.merge(version.clock);
    }

    fn merge(&self, clock: u64) -> bool {
        let is_believed = clock <= first_clock(self.now_ms().saturating_add(AHEAD_MS_MAX));
        if is_believed {
            self.last.fetch_max(clock, Ordering::Relaxed);
        }
        is_believed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // REPLICATION.md, Versions.
    #[test]
    fn versions_ascend_whatever_the_clocks_do() {
        let clock = HybridClock::new(7, 0);
        let (first, second) = (clock.next(), clock.next());
        assert!(second > first);
        clock.set_offset_ms(-1_000_000);
        assert_eq!(clock.next().clock, second.clock + 1, "counted on");
        clock.set_offset_ms(50_000);
        let ahead = clock.next();
        assert!(ahead.ms() > second.ms());

        let seen = Version { clock: ahead.clock + 1000, node: 9 };
        assert!(clock.next_above(seen.clock) > seen);
        assert!(clock.next() > seen, "merged");
        let heard = Version { clock: ahead.clock + 2000, node: 9 };
        clock.observe(heard);
        assert!(clock.next() > heard, "merged");
        assert!(HybridClock::new(7, heard.clock).next() > heard, "gone on with");
    }

    #[test]
    fn a_version_too_far_ahead_is_exceeded_but_not_merged() {
        let clock = HybridClock::new(7, 0);
        let far = Version { clock: first_clock(clock.now_ms() + 10 * AHEAD_MS_MAX), node: u64::MAX };
        assert!(clock.next_above(far.clock) > far);
        clock.observe(far);
        assert!(clock.next() < far);
        assert_eq!(far.clock_at_open(), far.clock);
        assert_eq!(Version { clock: u64::MAX, node: 0 }.clock_at_open(), 0);
    }

    /// Invariant 11: also for what a peer, or Redis's TIME, claims.
    #[test]
    fn no_clock_is_too_large() {
        let clock = HybridClock::new(7, 0);
        assert_eq!(clock.next_above(u64::MAX).clock, u64::MAX);
        clock.observe(Version { clock: u64::MAX, node: 1 });
        assert!(clock.next().clock < u64::MAX);
        assert_eq!(HybridClock::new(7, u64::MAX).next().clock, u64::MAX);
        for offset_ms in [i64::MIN, i64::MAX] {
            clock.set_offset_ms(offset_ms);
            assert!(clock.next() <= clock.next());
            clock.observe(Version { clock: u64::MAX, node: 1 });
        }
    }
}
