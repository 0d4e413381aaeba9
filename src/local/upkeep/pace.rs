//! Back-pressure: holds puts back a little, each by its size, when they use up room faster than upkeep makes it. Otherwise some would go
//! at full speed, and the next would wait until a whole segment is freed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::local::files::space::FreeRoom;

/// How often the price is adjusted.
const ADJUST_EVERY: Duration = Duration::from_millis(4);

/// A byte's price, in picoseconds, below which puts are not held back, ...
const PRICE_MIN: u64 = 500;

/// ... and the highest price: a byte's time on a slow disk.
const PRICE_MAX: u64 = 200_000;

/// The highest price while somebody waits for room that others keep taking: these are nearly stopped.
const PRICE_CONTESTED_MAX: u64 = 100_000_000;

/// Shorter waits are not slept: they add up, and a later put sleeps them.
const SLEEP_MIN: Duration = Duration::from_micros(50);

/// No put is held back for longer at a time, whatever its size.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// A virtual clock that each put sets forward by the price of its bytes, and that no put may run ahead of. The price rises while room is
/// short, and falls when there is enough.
pub(crate) struct Pace {
    begun: Instant,
    /// When the next put may go, in nanoseconds since `begun`.
    next_ns: AtomicU64,
    /// Picoseconds for a byte.
    price: AtomicU64,
    adjusted_ns: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            begun: Instant::now(),
            next_ns: AtomicU64::new(0),
            price: AtomicU64::new(0),
            adjusted_ns: AtomicU64::new(0),
        }
    }
}

impl Pace {
    /// Called before a put of so many bytes; `free` is called when the price is adjusted. Returns how long the put was held back, if it was.
    pub fn hold_back(&self, bytes: u64, free: impl FnOnce() -> FreeRoom) -> Option<Duration> {
        let wait = self.wait(self.begun.elapsed(), bytes, free);
        let wait = Some(wait).filter(|wait| *wait >= SLEEP_MIN)?;
        std::thread::sleep(wait);
        Some(wait)
    }

    /// How long a put that comes `now` has to wait.
    fn wait(&self, now: Duration, bytes: u64, free: impl FnOnce() -> FreeRoom) -> Duration {
        let now_ns = now.as_nanos() as u64;
        let adjusted_ns = self.adjusted_ns.load(Ordering::Relaxed);
        let is_due = now_ns.saturating_sub(adjusted_ns) >= ADJUST_EVERY.as_nanos() as u64;
        let swap = || self.adjusted_ns.compare_exchange(adjusted_ns, now_ns, Ordering::Relaxed, Ordering::Relaxed);
        if is_due && swap().is_ok() {
            self.adjust(free());
        }
        let price = self.price.load(Ordering::Relaxed);
        if price == 0 {
            return Duration::ZERO;
        }
        let cost_ns = bytes.saturating_mul(price) / 1000;
        let later = |next: u64| Some(next.max(now_ns).saturating_add(cost_ns));
        let before = self.next_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).unwrap_or(now_ns);
        Duration::from_nanos(before.saturating_sub(now_ns)).min(SLEEP_MAX)
    }

    fn adjust(&self, free: FreeRoom) {
        let price = self.price.load(Ordering::Relaxed);
        let adjusted = match free {
            FreeRoom::Contested => (price + price / 4).clamp(PRICE_MIN, PRICE_CONTESTED_MAX),
            FreeRoom::Little => (price + price / 4).clamp(PRICE_MIN, PRICE_MAX),
            FreeRoom::Less => price.min(PRICE_MAX),
            FreeRoom::Enough if price <= PRICE_MIN => 0,
            FreeRoom::Enough => price.min(PRICE_MAX) / 4 * 3,
        };
        self.price.store(adjusted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ms: u64) -> Duration {
        Duration::from_millis(10 * ms)
    }

    #[test]
    fn puts_wait_while_room_is_little_and_no_longer_when_there_is_enough() {
        let pace = Pace::default();
        assert_eq!(pace.wait(after(1), 1 << 20, || FreeRoom::Enough), Duration::ZERO);
        for n in 2..40 {
            pace.wait(after(n), 0, || FreeRoom::Little);
        }
        pace.wait(after(40), 1 << 20, || FreeRoom::Less);
        let held_back = pace.wait(after(40), 100, || FreeRoom::Less);
        assert!(held_back > Duration::ZERO && held_back <= SLEEP_MAX, "{held_back:?}");
        for n in 41..200 {
            pace.wait(after(n), 0, || FreeRoom::Enough);
        }
        assert_eq!(pace.wait(after(200), 1 << 20, || FreeRoom::Enough), Duration::ZERO);
        assert_eq!(pace.wait(after(200), 1 << 20, || FreeRoom::Enough), Duration::ZERO);
    }

    /// A large put that waits gets its room in the end, since small ones hardly go on meanwhile.
    #[test]
    fn while_somebody_waits_in_vain_even_a_small_put_waits_its_longest() {
        let pace = Pace::default();
        for n in 0..80 {
            pace.wait(after(n), 300, || FreeRoom::Contested);
        }
        assert_eq!(pace.wait(after(80), 300, || FreeRoom::Contested), SLEEP_MAX);
        pace.wait(after(81), 0, || FreeRoom::Less);
        assert_eq!(pace.price.load(Ordering::Relaxed), PRICE_MAX);
    }
}
