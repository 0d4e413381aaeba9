//! Blocking waits of Python threads, during which signal handlers run, and their cancellation.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::drop_detached;
use super::signals::detached;
use crate::store::{Wait, Waited};

/// How often a wait lets Python handle signals, which it does only between two of its own instructions.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// Ends waits from another thread.
#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct CancelToken(crate::CancelToken);

#[pymethods]
impl CancelToken {
    #[new]
    fn new() -> Self {
        CancelToken(crate::CancelToken::new())
    }

    /// Ends every wait that was given this token, now and later.
    fn cancel(&self) {
        self.0.cancel();
    }

    #[getter]
    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// A parked request. Dropping the ticket takes the request back.
#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct Ticket(Mutex<Option<crate::Ticket>>);

impl Ticket {
    pub fn new(ticket: crate::Ticket) -> Self {
        Ticket(Mutex::new(Some(ticket)))
    }
}

#[pymethods]
impl Ticket {
    /// Takes the request back; False where it has been answered, or is being answered just now.
    fn take_back(&self, py: Python<'_>) -> bool {
        let ticket = self.0.lock().take();
        py.detach(|| ticket.is_some_and(|ticket| ticket.take_back().is_some()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        drop_detached(self.0.get_mut().take());
    }
}

/// The deadline of a wait of this many seconds; None if it never ends.
pub(super) fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout: not a number of seconds"));
    }
    // A wait that is too long to be told in seconds never ends.
    Ok(Duration::try_from_secs_f64(seconds.max(0.0)).ok().and_then(|timeout| Instant::now().checked_add(timeout)))
}

/// Waits until the object exists. None after the deadline or when cancelled. Python's signal handlers run meanwhile.
pub(super) fn wait(
    py: Python<'_>,
    store: &crate::ObjectStore,
    id: &[u8],
    deadline: Option<Instant>,
    cancel: Option<&CancelToken>,
) -> PyResult<Option<crate::Object>> {
    let wait = match detached(py, || Wait::begin(store, id))?? {
        Ok(object) => return Ok(Some(object)),
        Err(wait) => wait,
    };
    let (cancel, has_signals) = (cancel.map(|token| &token.0), is_main_thread(py)?);
    let ended = loop {
        let turn =
            has_signals.then(|| Instant::now() + SIGNALS_EVERY).filter(|turn| deadline.is_none_or(|end| *turn < end));
        let ended = detached(py, || wait.until(turn.or(deadline), cancel))??;
        if ended != Waited::TimedOut || turn.is_none() {
            break ended;
        }
        py.check_signals()?;
    };
    match detached(py, || wait.end(ended))?? {
        Waited::Object(object) => Ok(Some(object)),
        Waited::TimedOut | Waited::Cancelled => Ok(None),
    }
}

/// Whether this is the main thread, the only one in which Python handles signals.
fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let threading = py.import("threading")?;
    threading.call_method0("main_thread")?.getattr("ident")?.eq(threading.call_method0("get_ident")?)
}
