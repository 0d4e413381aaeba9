//! How long requests take and how many bytes they move: counted by the threads that serve them, each for itself.

use std::time::Duration;

use crate::counts::Counts;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Get,
    Set,
    Delete,
    Duplicate,
    Info,
    /// From the arrival of a get or duplicate whose object does not exist until that object exists.
    Wait,
}

pub(super) const OPERATIONS: [(Operation, &str); 6] = [
    (Operation::Get, "get"),
    (Operation::Set, "set"),
    (Operation::Delete, "delete"),
    (Operation::Duplicate, "duplicate"),
    (Operation::Info, "info"),
    (Operation::Wait, "wait"),
];

/// Upper bounds of the buckets of a histogram, in nanoseconds; what took longer is in one more bucket.
const BOUNDS_NS: [u64; BOUNDS] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
    60_000_000_000,
    600_000_000_000,
];
const BOUNDS: usize = 20;

/// The numbers of one operation: its buckets, and the sum of all times.
const NUMBERS: usize = BOUNDS + 2;
const SUM: usize = BOUNDS + 1;

const RECEIVED: usize = OPERATIONS.len() * NUMBERS;
const SENT: usize = RECEIVED + 1;

/// Times and bytes of all requests.
#[derive(Default)]
pub(super) struct Latencies(Counts<{ SENT + 1 }>);

impl Latencies {
    /// An operation took so long.
    #[inline]
    pub fn took(&self, operation: Operation, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        let first = operation as usize * NUMBERS;
        self.0.add([(first + bucket, 1), (first + SUM, ns)]);
    }

    /// Bytes of objects that clients have sent.
    #[inline]
    pub fn received(&self, bytes: u64) {
        self.0.add([(RECEIVED, bytes)]);
    }

    /// Bytes of objects that are sent to clients.
    #[inline]
    pub fn sent(&self, bytes: usize) {
        self.0.add([(SENT, bytes as u64)]);
    }

    /// The times of each operation; bytes received, and sent.
    pub fn read(&self) -> (Vec<(&'static str, Latency)>, u64, u64) {
        let sums = self.0.sums();
        let of = |operation: Operation| {
            let first = operation as usize * NUMBERS;
            let numbers = sums.get(first..first + NUMBERS).unwrap_or_default();
            let (buckets, sum) = numbers.split_at_checked(SUM).unwrap_or_default();
            Latency {
                count: buckets.iter().sum(),
                sum_seconds: sum.first().map_or(0.0, |ns| Duration::from_nanos(*ns).as_secs_f64()),
                buckets: buckets.to_vec(),
            }
        };
        let times = OPERATIONS.map(|(operation, name)| (name, of(operation)));
        let number = |place: usize| sums.get(place).copied().unwrap_or_default();
        (times.into(), number(RECEIVED), number(SENT))
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latencies").finish_non_exhaustive()
    }
}

/// A histogram of times.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Latency {
    /// How many there were so far.
    pub count: u64,
    /// How long they took together, in seconds.
    pub sum_seconds: f64,
    /// How many took at most as long as each of the [`bounds`](Self::bounds) and longer than the one before; the last one: how many took longer
    /// than all.
    pub buckets: Vec<u64>,
}

impl Latency {
    /// The upper bounds of the buckets, in seconds, but of the last, which has none.
    #[must_use]
    pub fn bounds() -> Vec<f64> {
        BOUNDS_NS.iter().map(|ns| Duration::from_nanos(*ns).as_secs_f64()).collect()
    }

    /// Those that came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Latency) -> Latency {
        let before = earlier.buckets.iter().copied().chain(std::iter::repeat(0));
        let buckets: Vec<u64> =
            self.buckets.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect();
        let sum_seconds = (self.sum_seconds - earlier.sum_seconds).max(0.0);
        Latency { count: buckets.iter().sum(), sum_seconds, buckets }
    }

    /// These and those.
    #[must_use]
    pub fn and(&self, other: &Latency) -> Latency {
        let length = self.buckets.len().max(other.buckets.len());
        let padded =
            |latency: &Latency| latency.buckets.iter().copied().chain(std::iter::repeat(0)).take(length).collect();
        let (own, others): (Vec<u64>, Vec<u64>) = (padded(self), padded(other));
        Latency {
            count: self.count + other.count,
            sum_seconds: self.sum_seconds + other.sum_seconds,
            buckets: own.into_iter().zip(others).map(|(own, other)| own + other).collect(),
        }
    }

    /// The time in seconds within which this part of them (0.99, say) were done, about: within their bucket they count as evenly spread. None where
    /// there are none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = part * self.count as f64;
        let (mut passed, mut lower) = (0.0, 0.0);
        let bounds = Self::bounds();
        for (number, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            lower = number.checked_sub(1).and_then(|before| bounds.get(before)).copied().unwrap_or(0.0);
            let count = *count as f64;
            if passed + count >= wanted {
                // Of the last bucket only the lower bound is known.
                let upper = bounds.get(number).copied().unwrap_or(lower);
                return Some(lower + (upper - lower) * ((wanted - passed) / count).clamp(0.0, 1.0));
            }
            passed += count;
        }
        (self.count > 0).then_some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_by_operation_and_bucket() {
        let latencies = Latencies::default();
        for microseconds in [1, 10, 11, 100, 700_000_000] {
            latencies.took(Operation::Get, Duration::from_micros(microseconds));
        }
        latencies.took(Operation::Wait, Duration::from_secs(3));
        latencies.received(5);
        latencies.sent(7);
        let (times, received, sent) = latencies.read();
        assert_eq!((received, sent), (5, 7));
        let of = |name: &str| times.iter().find(|(of, _)| *of == name).unwrap().1.clone();
        let get = of("get");
        assert_eq!((get.count, get.buckets.len()), (5, BOUNDS + 1));
        assert_eq!((&get.buckets[..5], get.buckets[BOUNDS]), (&[2, 1, 0, 1, 0][..], 1));
        assert!((get.sum_seconds - 700.000122).abs() < 1e-6, "{}", get.sum_seconds);
        assert_eq!((of("wait").count, of("set").count), (1, 0));
    }

    #[test]
    fn quantiles_lie_where_the_times_were() {
        let latencies = Latencies::default();
        assert_eq!(Latency::default().quantile(0.5), None);
        let read = || latencies.read().0.remove(1).1;
        let before = read();
        (0..90).for_each(|_| latencies.took(Operation::Set, Duration::from_micros(80)));
        (0..10).for_each(|_| latencies.took(Operation::Set, Duration::from_millis(40)));
        let set = read().since(&before);
        let (median, late) = (set.quantile(0.5).unwrap(), set.quantile(0.99).unwrap());
        assert!((50e-6..=100e-6).contains(&median) && (25e-3..=50e-3).contains(&late), "{median} {late}");
        latencies.took(Operation::Set, Duration::from_secs(10_000));
        assert_eq!(read().quantile(1.0), Some(600.0));
        assert_eq!(read().since(&set).count, 1);
        assert_eq!(set.and(&set).count, 200);
    }
}
