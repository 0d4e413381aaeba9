//! The stores that Python has open, and how they are closed, at the latest when the interpreter exits.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::answers::Answers;
use super::errors::exiting;
use super::signals::detached;
use crate::error::Error;

/// The stores to close when the interpreter exits.
static OPEN: Mutex<Vec<Weak<Opened>>> = Mutex::new(Vec::new());

/// Closes what is still open.
#[pyfunction]
pub(super) fn close_all(py: Python<'_>) {
    exiting();
    // Locked only by a thread that holds the interpreter's lock. A forking thread holds that too, so a forked child never finds it taken.
    let open = std::mem::take(&mut *OPEN.lock());
    open.iter().filter_map(Weak::upgrade).for_each(|opened| opened.close_unasked(py));
    py.detach(|| log::logger().flush());
}

/// An open store, which lives for as long as Python refers to it or to one of its writers.
pub(super) struct Opened {
    pub store: crate::ObjectStore,
    pub answers: Answers,
}

impl Opened {
    /// Registers the store, to be closed when the interpreter exits if it was not closed before.
    pub fn new(store: crate::ObjectStore) -> Arc<Self> {
        let opened = Arc::new(Opened { store, answers: Answers::default() });
        let mut open = OPEN.lock();
        open.retain(|opened| opened.strong_count() > 0);
        open.push(Arc::downgrade(&opened));
        opened
    }

    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        match detached(py, || self.store.close())? {
            // A child that leaves its parent's `with` block has nothing to close.
            Ok(()) | Err(Error::Forked) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes the store when there is no caller to raise an error to.
    fn close_unasked(&self, py: Python<'_>) {
        if let Err(error) = self.close(py) {
            error.write_unraisable(py, None);
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        Python::attach(|py| self.close_unasked(py));
    }
}
