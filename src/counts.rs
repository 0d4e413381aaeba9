//! Counters of what is done often. Each thread adds to a stripe of its own, so that counting costs a load and a store, and no cache line goes
//! from core to core.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stripes that belong to one thread each, as many as a word has bits. Threads beyond share one more.
const OWN_STRIPES: usize = u64::BITS as usize;

const UNKNOWN: usize = usize::MAX;

/// Which stripes belong to a living thread, one bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread's stripe, in every `Counts`.
    static STRIPE: Cell<usize> = const { Cell::new(UNKNOWN) };
    /// Gives the stripe back when the thread ends.
    static OWNED: Cell<Option<Owned>> = const { Cell::new(None) };
}

struct Owned(usize);

impl Drop for Owned {
    fn drop(&mut self) {
        // What this thread still counts while it ends goes to the shared stripe.
        STRIPE.set(OWN_STRIPES);
        TAKEN.fetch_and(!(1 << self.0), Ordering::Release);
    }
}

#[cold]
fn take_stripe() -> usize {
    let lowest = |taken: u64| (taken != u64::MAX).then(|| taken | (taken + 1));
    let taken = TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, lowest);
    let stripe = taken.map_or(OWN_STRIPES, |before| before.trailing_ones() as usize);
    // A thread that is ending has no place to note that it owns one.
    let is_noted = stripe < OWN_STRIPES && OWNED.try_with(|owned| owned.set(Some(Owned(stripe)))).is_ok();
    let stripe = if is_noted { stripe } else { OWN_STRIPES };
    STRIPE.set(stripe);
    stripe
}

/// Two cache lines, as neighbours are fetched together.
#[repr(align(128))]
struct Stripe<const N: usize>([AtomicU64; N]);

/// `N` numbers that only grow.
pub(crate) struct Counts<const N: usize>(Box<[Stripe<N>]>);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        let stripe = || Stripe([const { AtomicU64::new(0) }; N]);
        Counts(std::iter::repeat_with(stripe).take(OWN_STRIPES + 1).collect())
    }
}

impl<const N: usize> Counts<N> {
    /// Adds to some of the numbers.
    #[inline]
    pub fn add<const M: usize>(&self, more: [(usize, u64); M]) {
        let stripe = match STRIPE.get() {
            UNKNOWN => take_stripe(),
            stripe => stripe,
        };
        let Some(Stripe(numbers)) = self.0.get(stripe) else { return };
        for (number, more) in more {
            let Some(number) = numbers.get(number) else { continue };
            if stripe < OWN_STRIPES {
                // Nobody else writes to it.
                number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
            } else {
                number.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// The numbers, over all threads.
    pub fn sums(&self) -> [u64; N] {
        let mut sums = [0_u64; N];
        for Stripe(numbers) in &self.0 {
            for (sum, number) in sums.iter_mut().zip(numbers) {
                *sum = sum.wrapping_add(number.load(Ordering::Relaxed));
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_with_more_threads_at_a_time_than_stripes_and_with_many_that_come_and_go() {
        const THREADS: u64 = OWN_STRIPES as u64 + 30;
        let counts = Counts::<2>::default();
        for round in 1..=3 {
            let barrier = std::sync::Barrier::new(THREADS as usize);
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        counts.add([(0, 1), (1, 5)]);
                        // All of them have a stripe at the same time.
                        barrier.wait();
                        (0..1000).for_each(|_| counts.add([(0, 1), (1, 5)]));
                    });
                }
            });
            assert_eq!(counts.sums(), [round * THREADS * 1001, round * THREADS * 5005]);
        }
    }

    #[test]
    fn a_thread_that_ends_gives_its_stripe_back() {
        let counts = Counts::<1>::default();
        for _ in 0..4 * OWN_STRIPES {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    counts.add([(0, 1)]);
                });
            });
        }
        assert_eq!(counts.sums(), [4 * OWN_STRIPES as u64]);
        let used = counts.0.iter().filter(|stripe| stripe.0[0].load(Ordering::Relaxed) > 0).count();
        assert!(used < OWN_STRIPES, "{used} stripes were used by threads that followed each other");
    }
}
