//! Runs Python's signal handlers while a call waits for the keeper or for Redis: Python itself runs them only between two of its own instructions.

use std::cell::RefCell;

use pyo3::prelude::*;

use crate::interrupt;

thread_local! {
    /// What a signal handler has raised during the current call of this thread.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Runs an operation that may block, with the interpreter's lock released. If a signal handler raises, so does the call, whatever the
/// operation's outcome.
pub(super) fn detached<T: Send>(py: Python<'_>, operation: impl FnOnce() -> T + Send) -> PyResult<T> {
    interrupt::set(is_over);
    let value = py.detach(operation);
    match RAISED.take() {
        None => Ok(value),
        Some(raised) => Err(raised),
    }
}

/// Runs the handlers of signals that have arrived. Returns whether the call is to end. Python runs handlers only in the main thread.
fn is_over() -> bool {
    if RAISED.with_borrow(Option::is_some) {
        return true;
    }
    // None: the interpreter is gone, as the process is ending.
    match Python::try_attach(|py| py.check_signals()) {
        None | Some(Ok(())) => false,
        Some(Err(raised)) => {
            RAISED.set(Some(raised));
            true
        }
    }
}
