//! The background thread that frees dead bodies long before room is short: a body's room comes back soon after its delete is durable.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

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

/// Starts the thread, which ends when `stop` is disconnected.
pub(in crate::local) fn spawn(tier: Arc<LocalTier>, stop: Receiver<()>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("reaper".to_owned()).spawn(move || run(&tier, &stop))
}

fn run(tier: &LocalTier, stop: &Receiver<()>) {
    let (mut reaped, mut released) = (Instant::now(), Instant::now());
    let mut is_told = false;
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
                    // Logged once. `WritesRefused` is reported to callers, and the sealer tries as well.
                    if !matches!(error, Error::WritesRefused { .. }) && !std::mem::replace(&mut is_told, true) {
                        tracing::warn!("freeing bodies: {error}; trying again later");
                    }
                    break;
                }
            }
        }
    }
}
