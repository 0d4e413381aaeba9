use std::collections::VecDeque;
use std::time::Instant;

use super::waiters::{Then, Waiter, Waiters};
use super::{Backend, OnStored};
use crate::error::Error;
use crate::object::Object;

/// A waiter whose time has come, with what it waited for.
struct Woken {
    id: Box<[u8]>,
    object: Object,
    waiter: Waiter,
}

/// Runs a write to `id`, then answers whoever waited for it, then whoever waited for what those made, and so on.
pub(crate) fn waking<T>(
    waiters: &Waiters,
    backend: &dyn Backend,
    id: &[u8],
    write: impl FnOnce(OnStored<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut woken = VecDeque::new();
    let result = write(&mut |object| collect(id, waiters, object, &mut woken));
    // Also after an error: an object that was stored and could not be made durable is there, so it is what they waited for.
    answer(waiters, backend, woken);
    result
}

/// Answers those who have waited for `id` since before `moment`, when it still had this content.
pub(crate) fn answer_early(waiters: &Waiters, backend: &dyn Backend, id: &[u8], object: &Object, moment: Instant) {
    let early = waiters.take_since_before(id, moment).into_iter();
    answer(waiters, backend, early.map(|waiter| Woken { id: id.into(), object: object.clone(), waiter }).collect());
}

fn answer(waiters: &Waiters, backend: &dyn Backend, mut woken: VecDeque<Woken>) {
    while let Some(Woken { id, object, waiter }) = woken.pop_front() {
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
    let stored: OnStored<'_> = &mut |object| collect(new, waiters, object, woken);
    if backend.duplicate(original, new, stored)? {
        return Ok(());
    }
    backend.put(new, &object.data, &object.metadata, stored)
}

/// Takes those who wait for `id`; where it cannot be read back, they wait on.
fn collect(id: &[u8], waiters: &Waiters, object: &dyn Fn() -> Option<Object>, woken: &mut VecDeque<Woken>) {
    if waiters.has_any(id)
        && let Some(object) = object()
    {
        let taken = waiters.take(id).into_iter();
        woken.extend(taken.map(|waiter| Woken { id: id.into(), object: object.clone(), waiter }));
    }
}
