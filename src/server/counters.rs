//! Counters of what a server has seen, for logs and tests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a server has seen since it started. Each number only grows.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Connections accepted.
    pub connections: Counter,
    /// Connections closed because there were too many.
    pub connections_refused: Counter,
    /// Connections whose TLS or WebSocket handshake or greeting failed, or took too long.
    pub greetings_failed: Counter,
    /// Requests carried out or parked.
    pub requests: Counter,
    /// Connections closed for something malformed.
    pub malformed: Counter,
    /// Requests that the store refused (full, too large, disk failure), each of which closed its connection.
    pub refused: Counter,
    /// Connections closed because their waits were too many.
    pub waits_refused: Counter,
    /// Connections whose identity was taken over by another.
    pub replaced: Counter,
    /// Connections lost by reset or time-out.
    pub lost: Counter,
    /// Waiting requests and undelivered replies dropped because their identity did not return.
    pub waits_dropped: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

impl fmt::Display for ServerCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerCounters {
            connections,
            connections_refused,
            greetings_failed,
            requests,
            malformed,
            refused,
            waits_refused,
            replaced,
            lost,
            waits_dropped,
        } = self;
        write!(
            f,
            "{} connections ({} refused, {} failed to greet, {} replaced, {} lost, {} malformed), {} requests ({} refused), \
             {} connections with too many waits, {} waits dropped",
            connections.get(),
            connections_refused.get(),
            greetings_failed.get(),
            replaced.get(),
            lost.get(),
            malformed.get(),
            requests.get(),
            refused.get(),
            waits_refused.get(),
            waits_dropped.get(),
        )
    }
}
