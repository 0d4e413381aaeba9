use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(20);
const MAX: Duration = Duration::from_secs(2);

/// When to try again what failed: after twice the time, with jitter, so that many do not come at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    next: Option<Instant>,
}

impl Backoff {
    pub fn failed(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(10)).min(MAX);
        self.failures += 1;
        let jitter = crate::local::random_u64() % 1024;
        let wait = full / 2 + full / 2 * (jitter as u32) / 1024;
        self.next = Some(Instant::now() + wait);
        wait
    }

    pub fn succeeded(&mut self) {
        *self = Backoff::default();
    }

    /// How long to wait before the next try.
    pub fn remaining(&self) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }
}
