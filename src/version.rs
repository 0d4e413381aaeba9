use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{MS_MAX, Past, Reading, RedisTime};
use crate::error::Error;

/// A version that is further ahead than this does not take the clock along.
const AHEAD_MS_MAX: u64 = 60_000;

/// The same, while a directory is opened: by how much Redis's clock is ahead of what is known is not known then.
const AHEAD_AT_OPEN_MS_MAX: u64 = 24 * 3_600_000;

/// Orders the writes to one id across nodes: the greater wins. In text `MILLISECONDS.COUNTER@NODE`, the node in hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Hybrid logical clock: 48 bits of milliseconds since 1970, 16 bits of counter.
    pub clock: u64,
    /// 64 bits that the writing node drew when it was opened.
    pub node: u64,
}

impl Version {
    /// Milliseconds since 1970.
    #[must_use]
    pub fn ms(&self) -> u64 {
        self.clock >> 16
    }

    /// The first version of that millisecond.
    pub(crate) fn at_ms(ms: u64) -> Version {
        Version { clock: first_clock(ms), node: 0 }
    }

    /// The clock that a record from an earlier open takes along; 0 where no clock can have been so far ahead.
    pub(crate) fn clock_at_open(&self) -> u64 {
        if self.ms() <= MS_MAX { self.clock } else { 0 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{:016x}", self.ms(), self.clock & 0xffff, self.node)
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Version, Error> {
        let parsed = || {
            let (clock, node) = text.split_once('@')?;
            let (ms, counter) = clock.split_once('.')?;
            let (ms, counter): (u64, u16) = (ms.parse().ok()?, counter.parse().ok()?);
            let ms = Some(ms).filter(|ms| *ms < 1 << 48)?;
            Some(Version { clock: ms << 16 | u64::from(counter), node: u64::from_str_radix(node, 16).ok()? })
        };
        parsed().ok_or_else(|| Error::Config(format!("{text:?} is no version: MILLISECONDS.COUNTER@NODE")))
    }
}

/// The clock's first value in that millisecond.
fn first_clock(ms: u64) -> u64 {
    ms.saturating_mul(1 << 16)
}

/// Draws versions: a hybrid logical clock whose physical part is Redis's clock where that is known.
pub(crate) struct HybridClock {
    node: u64,
    time: RedisTime,
    /// The clock of the last version drawn or seen.
    last: AtomicU64,
}

impl HybridClock {
    /// Goes on behind `last`, unless that is too far ahead to be believed. `lifetime_ms` and `is_shared`: see [`RedisTime::new`].
    pub fn new(node: u64, last: u64, past: Past, lifetime_ms: u64, is_shared: bool) -> HybridClock {
        let time = RedisTime::new(past, lifetime_ms, is_shared);
        let is_believed = last <= first_clock(time.version_ms().saturating_add(AHEAD_AT_OPEN_MS_MAX));
        HybridClock { node, time, last: AtomicU64::new(if is_believed { last } else { 0 }) }
    }

    pub fn node(&self) -> u64 {
        self.node
    }

    /// Redis's clock, as far as it is known.
    #[inline]
    pub fn time(&self) -> &RedisTime {
        &self.time
    }

    /// Redis has told the time. At the first time, versions drawn by guess may turn out to be ahead, and are not gone on with: that a
    /// write exceeds what is known of its id does not depend on it.
    pub fn set_time(&self, reading: Reading) {
        if self.time.set(reading) {
            let now = first_clock(self.time.version_ms());
            let limit = now.saturating_add(first_clock(AHEAD_MS_MAX));
            let _ = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| (last > limit).then_some(now));
        }
    }

    /// A version above all that were drawn or seen before.
    pub fn next(&self) -> Version {
        let now = first_clock(self.time.version_ms());
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
    pub fn merge_clock(&self, version: Version) {
        self.merge(version.clock);
    }

    /// Whether no clock that is set like Redis's can have given this version yet.
    pub fn is_too_far_ahead(&self, version: Version) -> bool {
        version.clock > first_clock(self.time.version_ms().saturating_add(AHEAD_MS_MAX))
    }

    fn merge(&self, clock: u64) -> bool {
        let is_believed = !self.is_too_far_ahead(Version { clock, node: 0 });
        if is_believed {
            self.last.fetch_max(clock, Ordering::Relaxed);
        }
        is_believed
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Some day in 2023.
    const TODAY: u64 = 1_700_000_000_000;
    const HOUR_MS: u64 = 3_600_000;

    fn tell(clock: &HybridClock, redis_ms: u64) {
        clock.set_time(Reading { redis_ms, at: Instant::now(), give_or_take: Duration::ZERO });
    }

    /// Of a node that goes on behind `last`, and to which Redis has told the time.
    fn clock(last: u64) -> HybridClock {
        let clock = HybridClock::new(7, last, Past::default(), 0, true);
        tell(&clock, TODAY);
        clock
    }

    // docs/replication.md, Versions.
    #[test]
    fn versions_ascend_whatever_the_clocks_do() {
        let clock = clock(0);
        let (first, second) = (clock.next(), clock.next());
        assert!(second > first);
        tell(&clock, TODAY - 1_000_000);
        let third = clock.next();
        assert!(third > second && third.ms() < TODAY + HOUR_MS, "{third:?}");
        tell(&clock, TODAY + HOUR_MS);
        let ahead = clock.next();
        assert!(ahead.ms() >= TODAY + HOUR_MS, "taken along: {ahead:?}");
        tell(&clock, TODAY);
        let back = clock.next();
        assert!(back > ahead && back.ms() >= TODAY + HOUR_MS, "not back again: {back:?}");

        let seen = Version { clock: back.clock + first_clock(1000), node: 9 };
        assert!(clock.next_above(seen.clock) > seen);
        assert!(clock.next() > seen, "merged");
        let heard = Version { clock: back.clock + first_clock(2000), node: 9 };
        clock.merge_clock(heard);
        assert!(clock.next() > heard, "merged");
        clock.time().set_floor(TODAY + 5 * HOUR_MS);
        assert!(clock.next().ms() >= TODAY + 5 * HOUR_MS, "an id of the stream");
    }

    #[test]
    fn a_version_too_far_ahead_is_exceeded_but_not_merged() {
        let clock = clock(0);
        let far = Version { clock: first_clock(TODAY + 10 * AHEAD_MS_MAX), node: u64::MAX };
        assert!(clock.is_too_far_ahead(far));
        assert!(clock.next_above(far.clock) > far);
        clock.merge_clock(far);
        assert!(clock.next() < far);
        assert_eq!(far.clock_at_open(), far.clock);
        assert_eq!(Version { clock: u64::MAX, node: 0 }.clock_at_open(), 0);
    }

    #[test]
    fn the_versions_of_the_last_open_are_gone_on_with_until_redis_tells_the_time() {
        let past = Past { redis_ms: TODAY, events_ms: 0 };
        // Of an open whose directory says what time it was.
        let guessed = HybridClock::new(7, first_clock(TODAY + HOUR_MS), past, 0, true);
        assert!(guessed.next().ms() >= TODAY + HOUR_MS);
        // Whatever was guessed (this machine's clock is ahead of the day in question), it does not stay.
        tell(&guessed, TODAY);
        assert!(guessed.next().ms() < TODAY + HOUR_MS);
        // What is a little ahead is gone on with.
        let little = Version { clock: first_clock(TODAY + AHEAD_MS_MAX / 2), node: 1 };
        assert!(clock(little.clock).next() > little);
    }

    /// Invariant 11: also for what a peer, or Redis's TIME, claims.
    #[test]
    fn no_clock_is_too_large() {
        let clock = clock(0);
        assert_eq!(clock.next_above(u64::MAX).clock, u64::MAX);
        clock.merge_clock(Version { clock: u64::MAX, node: 1 });
        assert!(clock.next().clock < u64::MAX);
        assert!(HybridClock::new(7, u64::MAX, Past::default(), 0, true).next().clock < u64::MAX);
        for redis_ms in [0, u64::MAX] {
            tell(&clock, redis_ms);
            clock.time().set_floor(redis_ms);
            let (first, second) = (clock.next(), clock.next());
            assert!(first < second && second.clock < u64::MAX);
            clock.merge_clock(Version { clock: u64::MAX, node: 1 });
        }
    }
}
