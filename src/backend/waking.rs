//! How a write answers those who waited for its id, and those who waited for the duplicates that result.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, unbounded};

use super::patience::Patience;
use super::waiters::{Then, Waiters, Woken};
use super::{Backend, OnStored, Stored};
use crate::error::Error;
use crate::object::Object;

/// Runs a write to `id`, then answers its waiters, then the waiters of the duplicates that these make, and so on. If this thread may not
/// wait, duplicates are handed over to the duplicator.
pub(crate) fn waking<T>(
    waiters: &Waiters,
    backend: &dyn Backend,
    patience: Patience,
    id: &[u8],
    write: impl FnOnce(OnStored<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut woken = VecDeque::new();
    let result = write(&mut |stored| collect(id, waiters, &stored, &mut woken));
    // Also after an error: an object that was stored but could not be made durable exists, so its waiters are answered.
    answer(waiters, backend, patience, woken);
    result
}

/// Answers those who have waited for `id` since before `moment`, at which it had this content. For threads that may not wait.
pub(crate) fn answer_early(waiters: &Waiters, backend: &dyn Backend, id: &[u8], object: &Object, moment: Instant) {
    let early = waiters.take_since_before(id, moment).into_iter();
    let woken = early.map(|waiter| Woken { id: id.into(), object: object.clone(), waiter }).collect();
    answer(waiters, backend, Patience::Background, woken);
}

/// Starts the duplicator, the thread that makes the duplicates for threads that may not wait. It ends when its queue is closed.
pub(crate) fn spawn_duplicator(waiters: &Arc<Waiters>, backend: &Arc<dyn Backend>) -> std::io::Result<JoinHandle<()>> {
    // Unbounded in form: it holds requests that were parked, whose number is bounded where they are let in.
    let (hand, handed) = unbounded();
    let (to_wake, backend) = (Arc::clone(waiters), Arc::clone(backend));
    let run = move || make_duplicates(&to_wake, &*backend, &handed);
    let thread = std::thread::Builder::new().name("duplicator".to_owned()).spawn(run)?;
    waiters.set_duplicator(Some(hand));
    Ok(thread)
}

/// Waits until the duplicator has ended. Whatever it may be waiting for has to be ended before.
pub(crate) fn join_duplicator(duplicator: JoinHandle<()>) {
    // The callback of a duplicate may drop the store's last handle, and so close the store on the duplicator's own thread.
    if duplicator.thread().id() != std::thread::current().id() && duplicator.join().is_err() {
        tracing::error!("the duplicator panicked; parked duplicates were dropped unanswered");
    }
}

fn make_duplicates(waiters: &Waiters, backend: &dyn Backend, handed: &Receiver<Woken>) {
    // Once the store is closed, what is left is dropped unanswered, like all waiters.
    while let Ok(woken) = handed.recv()
        && waiters.has_duplicator()
    {
        answer(waiters, backend, Patience::Caller, VecDeque::from([woken]));
    }
}

fn answer(waiters: &Waiters, backend: &dyn Backend, patience: Patience, mut woken: VecDeque<Woken>) {
    while let Some(next) = woken.pop_front() {
        if patience == Patience::Background && matches!(next.waiter.then, Then::Duplicate { .. }) {
            waiters.hand_over(next);
            continue;
        }
        let Woken { id, object, waiter } = next;
        match waiter.then {
            Then::Answer(answer) => answer(object),
            Then::Duplicate { new, done } => done(duplicate(waiters, backend, &id, &new, &object, &mut woken)),
        }
    }
}

/// Carries out a duplicate that waited for `original`, which had the content `object`, even if it is gone again by now.
fn duplicate(
    waiters: &Waiters,
    backend: &dyn Backend,
    original: &[u8],
    new: &[u8],
    object: &Object,
    woken: &mut VecDeque<Woken>,
) -> Result<(), Error> {
    if original == new {
        return Ok(()); // storing it again could undo a write that came in between
    }
    let stored: OnStored<'_> = &mut |stored| collect(new, waiters, &stored, woken);
    if backend.duplicate(original, new, stored)? {
        return Ok(());
    }
    backend.put(new, &object.data, &object.metadata, stored)
}

/// Takes the waiters for `id`, unless the object cannot be read back: then they wait on.
fn collect(id: &[u8], waiters: &Waiters, stored: &Stored<'_>, woken: &mut VecDeque<Woken>) {
    if waiters.has_any(id)
        && let Some(object) = (stored.object)()
    {
        let taken = match stored.since_before {
            Some(moment) => waiters.take_since_before(id, moment),
            None => waiters.take(id),
        };
        let taken = taken.into_iter();
        woken.extend(taken.map(|waiter| Woken { id: id.into(), object: object.clone(), waiter }));
    }
}
