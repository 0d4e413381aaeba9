//! Time, as Redis has it; without Redis, as this machine has it.
//!
//! Every deadline and every version is measured on Redis's clock, which all nodes share. This machine's clock may be wrong, and may be set
//! at any moment, so it is looked at once, when a store is opened, and only for versions that are drawn before Redis has told the time.
//! After that, time goes on with the monotonic clock alone. A store that is not shared has no other clock: this machine's stands in for
//! Redis's, and is read each second.
//!
//! Redis's clock may be set as well. What has to hold then decides which of its readings counts:
//!
//! - versions: the greatest of all, also of the ids in the event stream, so that a later write does not lose against an earlier one;
//! - when a deadline is set: the greatest of the last minutes, so that no node and not Redis finds it too early;
//! - whether a deadline is over: the smallest of the last lifetime, so that nothing is dropped that was stored before a step ahead.
//!
//! Objects may live longer by as much as the clock was set, never shorter, but for what Redis itself takes away by its own clock.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

/// No clock is believed that is further ahead (in the year 6429), so that versions, with 48 bits of milliseconds, can always be exceeded.
pub(crate) const MS_MAX: u64 = 1 << 47;

/// How long, at most, the first writes of an open wait for Redis to tell the time: until then they are dated by guess. Where Redis
/// answers at all, it has done so by then.
const TIME_WAIT_MAX: Duration = Duration::from_millis(100);

/// All nodes read Redis's clock every minute: after this time none has an older reading.
const SET_BY_ALL: Duration = Duration::from_secs(600);

/// Lifetimes that other nodes may give, whatever this one is set to.
const LIFETIME_MIN: Duration = Duration::from_secs(24 * 3600);

/// Set in a deadline that could not be told yet, as Redis had not told the time: the rest is the lifetime, in milliseconds. It begins when
/// the object is first pushed.
const UNDATED: u64 = 1 << 63;

/// What is over is deleted after this part of the lifetime, within these limits, where nothing else takes it away.
const EXPIRY_DELAY_PART: u32 = 16;
const EXPIRY_DELAY_MIN: Duration = Duration::from_secs(1);
const EXPIRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// How long what is over may take room before it is deleted, in a store whose objects live for `lifetime`; zero: not one of them is known.
pub(crate) fn expiry_delay(lifetime: Duration) -> Duration {
    match lifetime.is_zero() {
        true => EXPIRY_DELAY_MAX,
        false => (lifetime / EXPIRY_DELAY_PART).clamp(EXPIRY_DELAY_MIN, EXPIRY_DELAY_MAX),
    }
}

/// What Redis's clock said, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub redis_ms: u64,
    pub at: Instant,
    /// It may have been so much earlier or later.
    pub give_or_take: Duration,
}

impl Reading {
    /// This machine's clock in place of Redis's, for a store without one.
    pub fn of_this_machine() -> Self {
        Reading { redis_ms: machine_ms(), at: Instant::now(), give_or_take: Duration::ZERO }
    }
}

/// What is known of time when a store is opened. Zeros where nothing is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Past {
    /// A moment on Redis's clock that is over.
    pub redis_ms: u64,
    /// The same of the event stream's ids, which may be ahead of Redis's clock.
    pub events_ms: u64,
}

/// Redis's clock, as far as this open of a store knows it. Milliseconds since 1970; 0 as a deadline is never.
pub(crate) struct RedisTime {
    begun: Instant,
    is_known: AtomicBool,
    /// Monotonic time since `begun` and each of these is a time in milliseconds.
    for_versions: AtomicI64,
    for_setting: AtomicI64,
    for_expiry: AtomicI64,
    readings: Mutex<Readings>,
    told: Condvar,
}

struct Readings {
    /// From the ids of the event stream.
    floor: i64,
    /// None until Redis has told the time.
    recent: Option<(Extreme, Extreme)>,
    lifetime: Duration,
}

/// The greatest or smallest of what was read within a span of time, and some time before.
#[derive(Clone, Copy)]
struct Extreme {
    span: Duration,
    of: fn(i64, i64) -> i64,
    since: Instant,
    current: i64,
    former: i64,
}

impl Extreme {
    fn new(span: Duration, of: fn(i64, i64) -> i64, first: i64, at: Instant) -> Self {
        Extreme { span, of, since: at, current: first, former: first }
    }

    fn add(&mut self, value: i64, at: Instant) -> i64 {
        if at.saturating_duration_since(self.since) >= self.span {
            (self.since, self.former, self.current) = (at, self.current, value);
        }
        self.current = (self.of)(self.current, value);
        (self.of)(self.current, self.former)
    }
}

/// The time in an id of the event stream; 0 where there is none.
pub(crate) fn events_ms(id: &str) -> u64 {
    id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0)
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn believable(ms: u64) -> i64 {
    ms.min(MS_MAX) as i64
}

/// Milliseconds since 1970, as this machine has it; 0 where its clock stands before that.
pub(crate) fn machine_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The longest lifetime of objects that nodes have given, and some time more, as they read the clock at different times.
fn among_others(lifetime: Duration) -> Duration {
    lifetime.max(LIFETIME_MIN).saturating_add(SET_BY_ALL)
}

impl RedisTime {
    /// `lifetime_ms`: how long objects live that are stored here, 0 for ever. `is_shared`: other nodes may give other lifetimes.
    pub fn new(past: Past, lifetime_ms: u64, is_shared: bool) -> Self {
        let lifetime = Duration::from_millis(lifetime_ms);
        let lifetime = if is_shared || lifetime.is_zero() { among_others(lifetime) } else { lifetime };
        Self::guessing(past, lifetime, machine_ms(), Instant::now())
    }

    fn guessing(past: Past, lifetime: Duration, machine_ms: u64, begun: Instant) -> Self {
        let floor = believable(past.events_ms);
        let guess = believable(machine_ms).max(believable(past.redis_ms)).max(floor);
        RedisTime {
            begun,
            is_known: AtomicBool::new(false),
            for_versions: AtomicI64::new(guess),
            for_setting: AtomicI64::new(guess),
            // This machine's clock may be ahead by any amount.
            for_expiry: AtomicI64::new(believable(past.redis_ms)),
            readings: Mutex::new(Readings { floor, recent: None, lifetime }),
            told: Condvar::new(),
        }
    }

    /// Redis has told the time; whether for the first time in this open.
    pub fn set(&self, reading: Reading) -> bool {
        let mut readings = self.readings.lock();
        let Readings { floor, recent, lifetime } = &mut *readings;
        let base = self.base(reading.redis_ms, reading.at);
        // A millisecond more for what is cut off of each time.
        let about = milliseconds(reading.give_or_take).saturating_add(1);
        let (late, early) = (base.saturating_add(about), base.saturating_sub(about));
        let is_first = recent.is_none();
        let (latest, earliest) = recent.get_or_insert_with(|| {
            let latest = Extreme::new(SET_BY_ALL, i64::max, late, reading.at);
            (latest, Extreme::new(*lifetime, i64::min, early, reading.at))
        });
        self.for_setting.store(latest.add(late, reading.at), Ordering::Relaxed);
        self.for_expiry.store(earliest.add(early, reading.at), Ordering::Relaxed);
        if is_first {
            // In place of the guess, which may have been ahead.
            self.for_versions.store(base.max(*floor), Ordering::Relaxed);
            self.is_known.store(true, Ordering::Release);
            self.told.notify_all();
        } else {
            self.for_versions.fetch_max(base, Ordering::Relaxed);
        }
        is_first
    }

    /// Redis has given an entry of the event stream an id with this time.
    pub fn set_floor(&self, events_ms: u64) {
        if events_ms > MS_MAX {
            return; // an id that somebody made up
        }
        let base = self.base(events_ms, Instant::now());
        let mut readings = self.readings.lock();
        readings.floor = readings.floor.max(base);
        self.for_versions.fetch_max(base, Ordering::Relaxed);
    }

    /// What has to be added to monotonic time to have that time at that moment.
    fn base(&self, ms: u64, at: Instant) -> i64 {
        believable(ms).saturating_sub(milliseconds(at.saturating_duration_since(self.begun)))
    }

    fn time(&self, base: &AtomicI64, now: Instant) -> u64 {
        let ms = base.load(Ordering::Relaxed).saturating_add(milliseconds(now.saturating_duration_since(self.begun)));
        u64::try_from(ms).unwrap_or(0)
    }

    /// Whether anything was read.
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// Waits a little, right after the open, for Redis to tell the time.
    pub fn wait(&self) {
        if self.is_known.load(Ordering::Acquire) {
            return;
        }
        let until = self.begun + TIME_WAIT_MAX;
        let mut readings = self.readings.lock();
        while readings.recent.is_none() && !self.told.wait_until(&mut readings, until).timed_out() {}
    }

    /// The physical part of versions.
    pub fn version_ms(&self) -> u64 {
        self.time(&self.for_versions, Instant::now())
    }

    /// No later than Redis's clock is, by any of what it said while objects of today were stored.
    pub fn passed_ms(&self) -> u64 {
        self.time(&self.for_expiry, Instant::now())
    }

    /// Milliseconds since the open: for what concerns this open alone.
    pub fn monotonic_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Whether a deadline is over: for Redis as well, unless its clock was set a moment ago.
    #[inline]
    pub fn is_past(&self, deadline_ms: u64) -> bool {
        deadline_ms != 0 && deadline_ms & UNDATED == 0 && deadline_ms < self.passed_ms()
    }

    /// The deadline of what is stored now and lives for so long, 0 for ever. For this node's records: see `settled`.
    pub fn deadline(&self, lifetime_ms: u64) -> u64 {
        if lifetime_ms == 0 {
            return 0;
        }
        let lifetime_ms = lifetime_ms.min(MS_MAX);
        if !self.is_known.load(Ordering::Acquire) {
            return UNDATED | lifetime_ms;
        }
        self.time(&self.for_setting, Instant::now()).saturating_add(lifetime_ms)
    }

    /// As `deadline` of a lifetime that ends, in a store that is not shared: as this machine's clock is now, since the next open has nothing else
    /// to tell what is over.
    pub fn deadline_here(&self, lifetime_ms: u64) -> u64 {
        let now_ms = machine_ms().min(MS_MAX).max(self.passed_ms());
        now_ms.saturating_add(lifetime_ms.min(MS_MAX))
    }

    /// A record's deadline, for whoever does not know this open: a lifetime that has not begun begins now, if Redis has told the time.
    pub fn settled(&self, deadline_ms: u64) -> u64 {
        match deadline_ms & UNDATED {
            0 => deadline_ms,
            _ => self.deadline(deadline_ms & !UNDATED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    /// Some day in 2023.
    const TODAY: u64 = 1_700_000_000_000;

    fn after(begun: Instant, ms: u64) -> Instant {
        begun + Duration::from_millis(ms)
    }

    struct Rig {
        begun: Instant,
        time: RedisTime,
    }

    impl Rig {
        fn new(past: Past, lifetime_ms: u64, machine_ms: u64) -> Rig {
            let begun = Instant::now();
            Rig {
                begun,
                time: RedisTime::guessing(past, among_others(Duration::from_millis(lifetime_ms)), machine_ms, begun),
            }
        }

        fn told(redis_ms: u64) -> Rig {
            let rig = Rig::new(Past::default(), HOUR_MS, 0);
            rig.tell(redis_ms, 0);
            rig
        }

        /// Redis tells the time so long after the open.
        fn tell(&self, redis_ms: u64, after_ms: u64) {
            let reading = Reading { redis_ms, at: after(self.begun, after_ms), give_or_take: Duration::ZERO };
            self.time.set(reading);
        }

        /// Times for versions, for setting deadlines, and for their end.
        fn at(&self, after_ms: u64) -> [u64; 3] {
            let now = after(self.begun, after_ms);
            let time = |base: &AtomicI64| self.time.time(base, now);
            let about = u64::from(self.time.is_known.load(Ordering::Relaxed));
            [time(&self.time.for_versions), time(&self.time.for_setting) - about, time(&self.time.for_expiry) + about]
        }
    }

    #[test]
    fn time_is_what_redis_said_and_what_has_passed_since() {
        let rig = Rig::told(TODAY);
        assert_eq!(rig.at(0), [TODAY; 3]);
        assert_eq!(rig.at(5000), [TODAY + 5000; 3]);
        rig.tell(TODAY + 60_000, 60_000);
        assert_eq!(rig.at(61_000), [TODAY + 61_000; 3]);
    }

    #[test]
    fn before_redis_has_told_the_time_nothing_is_over_that_was_not_at_the_last_open() {
        for wrong in [0, TODAY + 10 * 365 * 24 * HOUR_MS, u64::MAX] {
            let rig = Rig::new(Past { redis_ms: TODAY, events_ms: TODAY + 7 }, HOUR_MS, wrong);
            assert_eq!(rig.at(10)[0], wrong.clamp(TODAY + 7, MS_MAX) + 10);
            assert_eq!(rig.at(10)[2], TODAY + 10);
            assert!(!rig.time.is_past(TODAY + HOUR_MS) && rig.time.is_past(TODAY - 1) && !rig.time.is_past(0));
            rig.tell(TODAY + HOUR_MS, 20);
            assert_eq!(rig.at(20), [TODAY + HOUR_MS; 3], "the guess is over");
        }
        let new = Rig::new(Past::default(), HOUR_MS, TODAY);
        assert!(!new.time.is_past(TODAY - HOUR_MS), "nothing is known");
    }

    #[test]
    fn a_lifetime_that_redis_has_not_dated_begins_later() {
        let rig = Rig::new(Past { redis_ms: TODAY, events_ms: 0 }, HOUR_MS, TODAY);
        let undated = rig.time.deadline(HOUR_MS);
        assert_eq!(rig.time.deadline(0), 0);
        assert_eq!(rig.time.settled(undated), undated, "not yet");
        rig.tell(TODAY + 40 * HOUR_MS, 0);
        assert!(!rig.time.is_past(undated));
        assert!(rig.time.settled(undated) >= TODAY + 41 * HOUR_MS);
        assert_eq!(rig.time.settled(TODAY), TODAY);
        assert_eq!(rig.time.settled(0), 0);
    }

    #[test]
    fn what_is_not_known_exactly_shortens_no_lifetime() {
        let rig = Rig::new(Past::default(), HOUR_MS, 0);
        let give_or_take = Duration::from_millis(20);
        rig.time.set(Reading { redis_ms: TODAY, at: rig.begun, give_or_take });
        assert_eq!(rig.at(0), [TODAY, TODAY + 20, TODAY - 20]);
        assert!(rig.time.deadline(HOUR_MS) > TODAY + HOUR_MS + 20);
    }

    #[test]
    fn a_step_ahead_ends_nothing_that_was_stored_before() {
        let rig = Rig::told(TODAY);
        rig.tell(TODAY + HOUR_MS + 60_000, 60_000);
        assert_eq!(rig.at(60_000), [TODAY + HOUR_MS + 60_000, TODAY + HOUR_MS + 60_000, TODAY + 60_000]);
        // Back again: what was stored meanwhile lives longer, and versions do not go back.
        rig.tell(TODAY + 120_000, 120_000);
        assert_eq!(rig.at(120_000), [TODAY + HOUR_MS + 120_000, TODAY + HOUR_MS + 120_000, TODAY + 120_000]);
    }

    #[test]
    fn a_step_back_dates_nothing_too_early() {
        let rig = Rig::told(TODAY);
        rig.tell(TODAY - HOUR_MS, 60_000);
        assert_eq!(rig.at(60_000), [TODAY + 60_000, TODAY + 60_000, TODAY - HOUR_MS]);
    }

    #[test]
    fn a_step_is_forgotten_when_what_it_concerned_has_lived_its_time() {
        let rig = Rig::told(TODAY);
        let (minute, day) = (60_000, 24 * HOUR_MS);
        let tell_until = |from: u64, until: u64, step: u64| {
            (from..until).step_by(minute as usize).for_each(|after_ms| rig.tell(TODAY + step + after_ms, after_ms));
        };
        tell_until(minute, day, HOUR_MS);
        assert_eq!(rig.at(day)[2], TODAY + day, "an object of a day is not over");
        tell_until(day, 3 * day, HOUR_MS);
        assert_eq!(rig.at(3 * day)[2], TODAY + HOUR_MS + 3 * day);
        tell_until(3 * day, 3 * day + HOUR_MS, 0);
        assert_eq!(rig.at(3 * day + HOUR_MS)[1], TODAY + 3 * day + HOUR_MS, "none is dated later than it has to be");
    }

    #[test]
    fn ids_of_events_are_a_floor_for_versions_alone() {
        let rig = Rig::new(Past::default(), 0, 0);
        rig.time.set_floor(TODAY + HOUR_MS);
        rig.time.set_floor(TODAY);
        rig.time.set_floor(u64::MAX);
        let ahead = Rig::new(Past::default(), 0, TODAY + 2 * HOUR_MS);
        ahead.time.set_floor(TODAY + HOUR_MS);
        ahead.tell(TODAY, 0);
        assert!(
            (TODAY + HOUR_MS - 1000..=TODAY + HOUR_MS).contains(&ahead.at(0)[0]),
            "heard before Redis told the time"
        );
        rig.tell(TODAY, 0);
        let [version, setting, expiry] = rig.at(1000);
        assert!((TODAY + HOUR_MS..=TODAY + HOUR_MS + 1000).contains(&version), "{version}");
        assert_eq!([setting, expiry], [TODAY + 1000; 2]);
    }

    #[test]
    fn an_id_of_the_stream_begins_with_its_time() {
        assert_eq!(events_ms("1700000000000-12"), TODAY);
        assert_eq!(["", "-", "x-1", "99999999999999999999-0"].map(events_ms), [0; 4]);
    }

    #[test]
    fn no_time_is_too_large() {
        for redis_ms in [1, u64::MAX] {
            let rig = Rig::told(redis_ms);
            assert!(rig.at(0).into_iter().all(|ms| ms <= MS_MAX));
            assert!(rig.time.deadline(u64::MAX) < UNDATED && !rig.time.is_past(u64::MAX));
        }
    }
}
