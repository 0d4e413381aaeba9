use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(20);
const MAX: Duration = Duration::from_secs(2);

/// When to try again what failed: after twice the time, with jitter, so that many do not come at once.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    failures: u32,
    next: Option<Instant>,
    first: Duration,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::up_to(MAX)
    }
}

impl Backoff {
    pub fn up_to(longest: Duration) -> Self {
        Backoff::between(FIRST, longest)
    }

    /// The first pause is up to `first` long, the later ones up to `longest`.
    pub fn between(first: Duration, longest: Duration) -> Self {
        Backoff { failures: 0, next: None, first, longest }
    }

    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    pub fn failed(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures += 1;
        let jitter = crate::random::random_u64() % 1024;
        let wait = full / 2 + full / 2 * (jitter as u32) / 1024;
        self.next = Some(Instant::now() + wait);
        wait
    }

    pub fn succeeded(&mut self) {
        *self = Backoff::between(self.first, self.longest);
    }

    /// How long to wait before the next try.
    pub fn remaining(&self) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }
}
