//! Python's signal handlers, while a call waits for the keeper: Python runs them between two of its own instructions only.

use std::cell::RefCell;

use pyo3::prelude::*;

use crate::node::interrupt;

thread_local! {
    /// What a handler has raised in the middle of a call of this thread.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Runs what may block, and lets other threads run meanwhile. Where a signal handler raises, so does the call, whatever has become of it.
pub(super) fn detached<T: Send>(py: Python<'_>, operation: impl FnOnce() -> T + Send) -> PyResult<T> {
    interrupt::set(is_over);
    let value = py.detach(operation);
    match RAISED.take() {
        None => Ok(value),
        Some(raised) => Err(raised),
    }
}

/// Runs the handlers of signals that have come; whether the call is to end. In other threads than the main one there are none.
fn is_over() -> bool {
    if RAISED.with_borrow(Option::is_some) {
        return true;
    }
    // No interpreter: the process ends.
    match Python::try_attach(|py| py.check_signals()) {
        None | Some(Ok(())) => false,
        Some(Err(raised)) => {
            RAISED.set(Some(raised));
            true
        }
    }
}
