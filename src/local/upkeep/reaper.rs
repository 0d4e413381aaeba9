//! The background thread that frees dead bodies long before room is short: a body's room comes back soon after its delete is durable. It also
//! deletes what has expired, and reads this machine's clock where no Redis tells the time.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::sweep::Sweep;
use crate::error::Error;
use crate::local::tier::LocalTier;

/// How often the thread looks.
const TICK: Duration = Duration::from_millis(20);

/// Dead bodies are freed when they take this part of the limit, or this much; freeing them costs the sync of a few pages.
const DEAD_PART: u64 = 64;
const DEAD_BYTES_MAX: u64 = 64 << 20;

/// A smaller amount is freed after this time.
const DEAD_AGE_MAX: Duration = Duration::from_secs(10);

/// How often the slots of attached processes are read while no body is dead.
const RELEASE_EVERY: Duration = Duration::from_secs(1);

/// How often this machine's clock is read: it may be set.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// Starts the thread, which ends when `stop` is disconnected.
pub(in crate::local) fn spawn(tier: Arc<LocalTier>, stop: Receiver<()>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("reaper".to_owned()).spawn(move || run(&tier, &stop))
}

fn run(tier: &LocalTier, stop: &Receiver<()>) {
    let (mut reaped, mut released, mut clock_read) = (Instant::now(), Instant::now(), Instant::now());
    let mut sweep = Sweep::default();
    let (mut freeing, mut expiring) = (FailureLog::default(), FailureLog::default());
    let bytes_max = (tier.space.limit_bytes() / DEAD_PART).min(DEAD_BYTES_MAX);
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(TICK) {
        // What attached processes gave back of live bodies frees nothing yet, so it can wait.
        if tier.bodies.has_dead() || released.elapsed() >= RELEASE_EVERY {
            released = Instant::now();
            tier.release_given_back();
        }
        loop {
            let bytes = tier.bodies.reapable_bytes();
            if bytes <= bytes_max && (bytes == 0 || reaped.elapsed() < DEAD_AGE_MAX) {
                break;
            }
            reaped = Instant::now();
            match tier.reap_bodies() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    freeing.failed("freeing bodies", &error);
                    break;
                }
            }
        }
        if tier.expiry.is_some() && clock_read.elapsed() >= CLOCK_EVERY {
            clock_read = Instant::now();
            tier.journal.set_time_here();
        }
        if let Err(error) = tier.expire_some(&mut sweep) {
            expiring.failed("deleting what has expired", &error);
        }
    }
}

/// Whether a kind of failure was logged: once, as all is tried again.
#[derive(Default)]
struct FailureLog(bool);

impl FailureLog {
    fn failed(&mut self, what: &str, error: &Error) {
        // `WritesRefused` is reported to callers, and the sealer tries as well. What a close interrupts, the next open does.
        if !matches!(error, Error::WritesRefused { .. } | Error::Closed) && !std::mem::replace(&mut self.0, true) {
            tracing::warn!("{what}: {error}; trying again later");
        }
    }
}
