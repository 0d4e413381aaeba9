//! Parked requests: they wait without a thread, and a callback answers them.

use super::ObjectStore;
use crate::backend::{Then, Ticket};
use crate::error::Error;
use crate::object::Object;

/// An answer now, or a ticket for one later.
pub enum Parked<T> {
    /// It is answered.
    Ready(T),
    /// It waits; dropping the ticket takes the request back.
    Waiting(Ticket),
}

impl ObjectStore {
    /// The object if it exists; otherwise `answer` is called with it as soon as it does, on the thread that stores it and before
    /// that thread's `put` returns. `answer` must not block. If the object is there at once, `answer` is not called.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// ```
    /// # use scaler_object_storage::{Error, ObjectStore};
    /// # let store = ObjectStore::builder().memory().open()?;
    /// use std::sync::mpsc;
    /// use scaler_object_storage::Parked;
    ///
    /// let (sender, answers) = mpsc::channel();
    /// let Parked::Waiting(ticket) = store.get_or_park(b"result", move |object| drop(sender.send(object)))? else {
    ///     panic!("nothing is there yet")
    /// };
    /// store.put(b"result", b"42", b"")?; // answers on this thread, before it returns
    /// assert_eq!(answers.recv().expect("answered").data, "42");
    /// # drop(ticket);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn get_or_park(
        &self,
        id: &[u8],
        answer: impl FnOnce(Object) + Send + 'static,
    ) -> Result<Parked<Object>, Error> {
        self.inner.id_bytes.check(id)?;
        let backend = self.backend()?;
        if let Some(object) = backend.get_here(id)? {
            return Ok(Parked::Ready(object));
        }
        let ticket = self.inner.waiters.park(id, Then::Answer(Box::new(answer)));
        if let Some(object) = backend.get_here(id)?
            && ticket.take_back().is_some()
        {
            return Ok(Parked::Ready(object));
        }
        backend.seek(id);
        self.backend()?; // closed meanwhile: dropping the ticket takes the request back
        Ok(Parked::Waiting(ticket))
    }

    /// Duplicates if `original` exists; otherwise as soon as it does, and then calls `done`, before whoever waits for `new` is
    /// answered. `done` must not block. If the duplicate is made at once, `done` is not called. If another node's write ends the wait, the
    /// duplicate is made on a thread of the store's own, since it may have to wait for room.
    ///
    /// # Errors
    ///
    /// As [`duplicate`](Self::duplicate).
    pub fn duplicate_or_park(
        &self,
        original: &[u8],
        new: &[u8],
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<Parked<()>, Error> {
        self.inner.id_bytes.check(original)?;
        self.inner.id_bytes.check(new)?;
        let mut done: Box<dyn FnOnce(Result<(), Error>) + Send> = Box::new(done);
        loop {
            if self.duplicate_here(original, new)? {
                return Ok(Parked::Ready(()));
            }
            let ticket = self.inner.waiters.park(original, Then::Duplicate { new: new.into(), done });
            let backend = self.backend()?;
            if backend.get_here(original)?.is_none() {
                backend.seek(original);
                return Ok(Parked::Waiting(ticket));
            }
            match ticket.take_back() {
                Some(Then::Duplicate { done: unused, .. }) => done = unused,
                _ => return Ok(Parked::Waiting(ticket)),
            }
        }
    }
}
