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

/// Runs a write to `id`, then answers whoever waited for it, then whoever waited for what those made, and so on: those who want a
/// duplicate on this thread only if it may wait.
pub(crate) fn waking<T>(
    waiters: &Waiters,
    backend: &dyn Backend,
    patience: Patience,
    id: &[u8],
    write: impl FnOnce(OnStored<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut woken = VecDeque::new();
    let result = write(&mut |stored| collect(id, waiters, &stored, &mut woken));
    // Also after an error: an object that was stored and could not be made durable is there, so it is what they waited for.
    answer(waiters, backend, patience, woken);
    result
}

/// Answers those who have waited for `id` since before `moment`, when it still had this content. For threads that may not wait.
pub(crate) fn answer_early(waiters: &Waiters, backend: &dyn Backend, id: &[u8], object: &Object, moment: Instant) {
    let early = waiters.take_since_before(id, moment).into_iter();
    let woken = early.map(|waiter| Woken { id: id.into(), object: object.clone(), waiter }).collect();
    answer(waiters, backend, Patience::Background, woken);
}

/// Starts the thread that makes the duplicates which other threads may not wait for. It ends when it is not handed any more.
pub(crate) fn spawn_duplicator(waiters: &Arc<Waiters>, backend: &Arc<dyn Backend>) -> std::io::Result<JoinHandle<()>> {
    // Unbounded in form: it holds requests that were parked, of which there are as many as are let in.
    let (hand, handed) = unbounded();
    let (to_wake, backend) = (Arc::clone(waiters), Arc::clone(backend));
    let run = move || make_duplicates(&to_wake, &*backend, &handed);
    let thread = std::thread::Builder::new().name("duplicator".to_owned()).spawn(run)?;
    waiters.set_duplicator(Some(hand));
    Ok(thread)
}

/// Waits for its end; what it waits for itself has to end before.
pub(crate) fn join_duplicator(duplicator: JoinHandle<()>) {
    // Whoever was told of a duplicate may have had the store's last handle, and close it on this thread.
    if duplicator.thread().id() != std::thread::current().id() && duplicator.join().is_err() {
        tracing::error!("the duplicator panicked; parked duplicates were dropped unanswered");
    }
}

fn make_duplicates(waiters: &Waiters, backend: &dyn Backend, handed: &Receiver<Woken>) {
    // After the store is closed, what is left is dropped unanswered, as those who wait are.
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

/// Carries out a duplicate that waited for `original`, whose content is `object` even if it is gone again by now.
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

/// Takes those who wait for `id`; where it cannot be read back, they wait on.
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
