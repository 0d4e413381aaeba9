//! Requests that are parked until an object exists, and their tickets. `waking` answers them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;
use crate::fork;
use crate::object::Object;

const SHARD_COUNT: usize = 32;

/// What is done when the awaited object exists. It runs on the thread that stored the object, before that thread's own acknowledgement; a
/// duplicate, which may have to wait for room, runs on the duplicator's thread if the storing thread may not wait.
pub(crate) enum Then {
    /// Hand the object over.
    Answer(Box<dyn FnOnce(Object) + Send>),
    /// Make the object the content of this id as well, then report how that went.
    Duplicate { new: Box<[u8]>, done: Box<dyn FnOnce(Result<(), Error>) + Send> },
}

/// A parked request.
pub(crate) struct Waiter {
    since: Instant,
    pub then: Then,
}

/// A waiter whose object exists, with that object.
pub(crate) struct Woken {
    pub id: Box<[u8]>,
    pub object: Object,
    pub waiter: Waiter,
}

/// Id -> who waits for it, for a part of all ids.
type Shard = Mutex<HashMap<Box<[u8]>, Queue>>;

/// The waiters for one id, by token. One that is cancelled leaves a gap, so that thousands can be cancelled one by one.
#[derive(Default)]
struct Queue {
    places: Vec<(u64, Option<Waiter>)>,
    gaps: usize,
}

impl Queue {
    fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.places.iter().filter_map(|(_, waiter)| waiter.as_ref())
    }

    fn remove(&mut self, token: u64) -> Option<Waiter> {
        let place = self.places.binary_search_by_key(&token, |(token, _)| *token).ok()?;
        let (_, waiter) = self.places.get_mut(place)?;
        let waiter = waiter.take()?;
        self.gaps += 1;
        if self.gaps > self.places.len() / 2 {
            self.places.retain(|(_, waiter)| waiter.is_some());
            self.gaps = 0;
        }
        Some(waiter)
    }
}

/// All waiters for objects that do not exist yet, for each id in the order in which they came.
#[derive(Default)]
pub(crate) struct Waiters {
    parked: AtomicUsize,
    next_token: AtomicU64,
    shards: [Shard; SHARD_COUNT],
    /// The queue to the duplicator's thread, while the store is open.
    duplicator: Mutex<Option<Sender<Woken>>>,
}

/// A parked request. Dropping it takes the request back, unless it has been answered.
#[must_use = "dropping a ticket cancels the request"]
pub struct Ticket {
    waiters: Weak<Waiters>,
    id: Box<[u8]>,
    token: u64,
    /// The fork generation of the process that parked it.
    generation: u64,
}

impl Waiters {
    fn shard(&self, id: &[u8]) -> &Shard {
        let index = xxh3_64(id) as usize % self.shards.len();
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        &self.shards[index]
    }

    /// Registers a waiter first; the caller then looks whether the object exists, and cancels if so. As `take` is called after the object is
    /// visible, one of the two always sees the other.
    pub fn park(self: &Arc<Self>, id: &[u8], then: Then) -> Ticket {
        let waiter = Waiter { since: Instant::now(), then };
        let mut shard = self.shard(id).lock();
        // Under the lock, so that the tokens of a queue ascend.
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        shard.entry(id.into()).or_default().places.push((token, Some(waiter)));
        drop(shard);
        self.parked.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Ticket { waiters: Arc::downgrade(self), id: id.into(), token, generation: fork::generation() }
    }

    /// Whether nobody waits for anything.
    pub fn is_empty(&self) -> bool {
        self.parked.load(Ordering::SeqCst) == 0
    }

    /// Whether anyone waits for `id`. To be called after the object is visible.
    pub fn has_any(&self, id: &[u8]) -> bool {
        fence(Ordering::SeqCst);
        self.parked.load(Ordering::SeqCst) > 0 && self.shard(id).lock().contains_key(id)
    }

    /// Takes all waiters for `id`.
    pub fn take(&self, id: &[u8]) -> Vec<Waiter> {
        let queue = self.shard(id).lock().remove(id).unwrap_or_default();
        let taken: Vec<Waiter> = queue.places.into_iter().filter_map(|(_, waiter)| waiter).collect();
        self.parked.fetch_sub(taken.len(), Ordering::SeqCst);
        taken
    }

    /// Takes the waiters for `id` that have waited since before `moment`.
    pub fn take_since_before(&self, id: &[u8], moment: Instant) -> Vec<Waiter> {
        let mut shard = self.shard(id).lock();
        let Some(queue) = shard.get_mut(id) else { return Vec::new() };
        let tokens = queue.places.iter();
        let early = tokens.filter(|(_, waiter)| waiter.as_ref().is_some_and(|waiter| waiter.since < moment));
        let tokens: Vec<u64> = early.map(|(token, _)| *token).collect();
        let taken: Vec<Waiter> = tokens.into_iter().filter_map(|token| queue.remove(token)).collect();
        if queue.places.is_empty() {
            shard.remove(id);
        }
        self.parked.fetch_sub(taken.len(), Ordering::SeqCst);
        taken
    }

    /// Every id that somebody waits for.
    pub fn ids(&self) -> Vec<Box<[u8]>> {
        if self.parked.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        self.shards.iter().flat_map(|shard| shard.lock().keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// Removes one waiter; None if a writer has taken it meanwhile.
    fn cancel(&self, id: &[u8], token: u64) -> Option<Waiter> {
        let mut shard = self.shard(id).lock();
        let queue = shard.get_mut(id)?;
        let waiter = queue.remove(token)?;
        if queue.places.is_empty() {
            shard.remove(id);
        }
        self.parked.fetch_sub(1, Ordering::SeqCst);
        Some(waiter)
    }

    pub(crate) fn set_duplicator(&self, duplicator: Option<Sender<Woken>>) {
        *self.duplicator.lock() = duplicator;
    }

    pub(crate) fn has_duplicator(&self) -> bool {
        self.duplicator.lock().is_some()
    }

    /// Hands a duplicate over to the duplicator, which may wait for room. Dropped unanswered once the store is closed.
    pub(crate) fn hand_over(&self, woken: Woken) {
        if let Some(duplicator) = &*self.duplicator.lock() {
            let _ = duplicator.send(woken);
        }
    }

    /// Drops every waiter unanswered: the store is closed.
    pub fn clear(&self) {
        for shard in &self.shards {
            let dropped = std::mem::take(&mut *shard.lock());
            let count = dropped.values().map(|queue| queue.waiters().count()).sum();
            self.parked.fetch_sub(count, Ordering::SeqCst);
        }
    }

    /// How many requests were ever parked.
    pub fn begun(&self) -> u64 {
        self.next_token.load(Ordering::Relaxed)
    }

    /// Waiting requests, ids waited for, age of the oldest wait.
    pub fn usage(&self) -> (u64, u64, Duration) {
        let (mut requests, mut ids, mut oldest) = (0, 0, None::<Instant>);
        for shard in &self.shards {
            let shard = shard.lock();
            ids += shard.len() as u64;
            for waiter in shard.values().flat_map(Queue::waiters) {
                requests += 1;
                oldest = Some(oldest.map_or(waiter.since, |since| since.min(waiter.since)));
            }
        }
        (requests, ids, oldest.map_or(Duration::ZERO, |since| since.elapsed()))
    }
}

impl Ticket {
    /// Takes the request back. Returns what was to be done, unless it was answered meanwhile.
    pub(crate) fn take_back(&self) -> Option<Then> {
        if self.generation != fork::generation() {
            return None; // the parent's threads may have left the shard locked
        }
        self.waiters.upgrade()?.cancel(&self.id, self.token).map(|waiter| waiter.then)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.take_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_drops_a_ticket_whose_shard_was_locked_at_the_fork() {
        fork::watch();
        let waiters = Arc::<Waiters>::default();
        let ticket = waiters.park(b"id", Then::Answer(Box::new(drop)));
        let locked = waiters.shard(b"id").lock();
        // Sound: the child drops a ticket, and ends without running anything else.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // Sound: ends a child that waits for ever.
            unsafe { libc::alarm(20) };
            drop(ticket);
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // Sound: waits for the child made above.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
        drop(locked);
        assert!(ticket.take_back().is_some());
    }
}
