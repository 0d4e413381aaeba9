//! Blocking waits, and the tokens that cancel them.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select, unbounded};

use super::{ObjectStore, Parked};
use crate::backend::Ticket;
use crate::error::Error;
use crate::object::Object;

/// How [`ObjectStore::wait`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The object exists.
    Object(Object),
    /// The deadline passed first.
    TimedOut,
    /// The wait was cancelled first.
    Cancelled,
}

/// Ends waits from another thread. Cloning gives another handle on the same token.
#[derive(Clone, Debug)]
pub struct CancelToken {
    cancel: Arc<parking_lot::Mutex<Option<Sender<()>>>>,
    cancelled: Receiver<()>,
}

impl Default for CancelToken {
    fn default() -> Self {
        let (sender, cancelled) = bounded(0);
        CancelToken { cancel: Arc::new(parking_lot::Mutex::new(Some(sender))), cancelled }
    }
}

impl CancelToken {
    /// A token that nobody has cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every wait that was given this token, now and later.
    pub fn cancel(&self) {
        self.cancel.lock().take();
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.lock().is_none()
    }
}

/// A wait for an object, which the caller can carry out in several steps (`until`), doing something else in between.
pub(crate) struct Wait {
    ticket: Ticket,
    answer: Receiver<Object>,
}

impl Wait {
    /// Begins a wait; the object if it exists already.
    pub fn begin(store: &ObjectStore, id: &[u8]) -> Result<Result<Object, Wait>, Error> {
        // One answer at most. The end of a bounded channel would take the lock that the sender holds while it wakes this thread.
        let (sender, answer) = unbounded();
        Ok(match store.get_or_park(id, move |object| drop(sender.send(object)))? {
            Parked::Ready(object) => Ok(object),
            Parked::Waiting(ticket) => Err(Wait { ticket, answer }),
        })
    }

    /// Waits until the object exists, or until `deadline` or `cancel`.
    pub fn until(&self, deadline: Option<Instant>, cancel: Option<&CancelToken>) -> Result<Waited, Error> {
        let Some(CancelToken { cancelled, .. }) = cancel else { return self.until_answered(deadline) };
        let timeout = deadline.map_or_else(crossbeam_channel::never, crossbeam_channel::at);
        select! {
            recv(self.answer) -> object => object.map(Waited::Object).map_err(|_| Error::Closed),
            recv(timeout) -> _ => Ok(Waited::TimedOut),
            recv(cancelled) -> _ => Ok(Waited::Cancelled),
        }
    }

    /// As `until`, without a selection: one that has ended also takes the lock that the sender holds while it wakes this thread, so that each wake
    /// would cost two more changes of threads.
    fn until_answered(&self, deadline: Option<Instant>) -> Result<Waited, Error> {
        let answer = match deadline {
            Some(deadline) => self.answer.recv_deadline(deadline),
            None => self.answer.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match answer {
            Ok(object) => Ok(Waited::Object(object)),
            Err(RecvTimeoutError::Timeout) => Ok(Waited::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Closed),
        }
    }

    /// Cancels the request; if an answer won the race, returns that.
    pub fn end(self, ended: Waited) -> Result<Waited, Error> {
        if matches!(ended, Waited::Object(_)) || self.ticket.take_back().is_some() {
            return Ok(ended);
        }
        self.answer.recv().map(Waited::Object).map_err(|_| Error::Closed)
    }
}
