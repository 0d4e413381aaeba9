//! A local tier for each of several processes of a node.
//!
//! ```text
//! <path>            slot 0
//! <path>/slots/1    slot 1, and so on
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::bounded;

use super::backend::outbox_options;
use super::{TieredBackend, replicator};
use crate::error::Error;
use crate::local::{LocalBackend, LocalOptions, Outbox, OutboxOptions, Underlying};
use crate::store::{Backend, StoreConfig, Waiters};

/// How often free slots are tried while all are taken.
const RETRY: Duration = Duration::from_millis(100);

/// How often it is looked for slots that their processes have left.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long a slot is kept from its next process while it is drained.
const DRAIN_MAX: Duration = Duration::from_secs(5);

pub(super) fn directory(path: &Path, slot: u32) -> PathBuf {
    if slot == 0 { path.to_path_buf() } else { path.join("slots").join(slot.to_string()) }
}

fn options(local: &LocalOptions, slot: u32) -> LocalOptions {
    LocalOptions { path: directory(&local.directory(), slot), lock_wait_ms: 0, ..local.clone() }
}

/// Takes the first slot that no other process has; None where all are taken for as long as `lock_wait_ms`.
pub(super) fn take(
    local: &LocalOptions,
    under: &Underlying,
    outbox: &OutboxOptions,
) -> Result<Option<(LocalBackend, u32)>, Error> {
    let deadline = Instant::now() + Duration::from_millis(local.lock_wait_ms);
    loop {
        for slot in 0..local.slots.max(1) {
            match LocalBackend::open_with(&options(local, slot), under.clone(), Some(outbox.clone())) {
                Ok(backend) => return Ok(Some((backend, slot))),
                Err(Error::Locked { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(RETRY);
    }
}

/// When the lock file of a slot was last written to, where all that its process has left is pushed. Who takes the slot writes to the
/// file, so that its neighbours look after it again.
const PUSHED: SystemTime = SystemTime::UNIX_EPOCH;

/// Pushes, now and then, what processes that ended left in their slots; again where Redis has lost everything meanwhile.
pub(super) fn adopt(backend: &TieredBackend, config: &StoreConfig, under: &Underlying, own: u32) {
    let epoch = || backend.tier().ok().and_then(|tier| tier.outbox.as_ref().map(Outbox::epoch)).unwrap_or_default();
    let mut known = epoch();
    let mut next = Instant::now() + LOOK_EVERY;
    // When what is in a slot was first seen to be pushed.
    let mut pushed: HashMap<u32, Instant> = HashMap::new();
    let settle = Duration::from_millis(config.redis.settle_ms);
    while !backend.is_closing() {
        std::thread::sleep(RETRY);
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + LOOK_EVERY;
        if backend.health.is_away() {
            continue;
        }
        let found = epoch();
        let has_lost_all = !known.is_empty() && known != found;
        known = found;
        for slot in (0..config.local.slots).filter(|slot| *slot != own) {
            let lock = lock_file(config, slot);
            let Ok(used) = lock.metadata().and_then(|found| found.modified()) else { continue };
            if (used == PUSHED && !has_lost_all) || backend.is_closing() {
                continue;
            }
            let is_settled = pushed.get(&slot).is_some_and(|pushed| pushed.elapsed() >= settle);
            match drain(config, under, slot, is_settled && !has_lost_all) {
                Ok(Drained::Pushed) if !has_lost_all => drop(pushed.entry(slot).or_insert_with(Instant::now)),
                Ok(_) => drop(pushed.remove(&slot)),
                Err(error) => tracing::warn!("slot {slot}: {error}; trying again later"),
            }
        }
    }
}

fn lock_file(config: &StoreConfig, slot: u32) -> PathBuf {
    directory(&config.local.directory(), slot).join("LOCK")
}

/// What became of a slot.
enum Drained {
    /// Redis has everything; whether it keeps it is seen later.
    Pushed,
    /// It had everything long ago, and has it still: the slot is marked.
    Settled,
    /// Not everything is pushed, or another process has the slot.
    Left,
}

/// Pushes what is dirty in a slot that no process has. What was pushed stands in Redis already when it is pushed again, after the time in
/// which Redis may forget (`is_settled`): then nothing is left to do.
fn drain(config: &StoreConfig, under: &Underlying, slot: u32, is_settled: bool) -> Result<Drained, Error> {
    let (wake, woken) = bounded(1);
    let outbox = outbox_options(config, wake);
    let local = match LocalBackend::open_with(&options(&config.local, slot), under.clone(), Some(outbox)) {
        Ok(local) => local,
        Err(Error::Locked { .. }) => return Ok(Drained::Left),
        Err(error) => return Err(error),
    };
    let (adopted, _channels) = TieredBackend::assemble(local, config, Arc::<Waiters>::default())?;
    let (drain, to_drain) = bounded(1);
    let _ = drain.send(Instant::now() + DRAIN_MAX);
    let mut drained = Drained::Left;
    if replicator::run(&adopted, &woken, &to_drain) {
        drained = Drained::Pushed;
        if is_settled {
            // While the slot is still locked: nobody else can have written to the file since.
            let lock = lock_file(config, slot);
            let marked = File::options().append(true).open(&lock).and_then(|file| file.set_modified(PUSHED));
            marked.map_err(Error::io("note in", &lock))?;
            drained = Drained::Settled;
        }
        tracing::info!("slot {slot}, which its process has left, is pushed to Redis");
    }
    adopted.local.close()?;
    Ok(drained)
}
