//! Waiting for objects, in ways that fit Python.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::Error;
use crate::store::{self, Parked};

/// How often signals are looked for, which Python handles between two of its own instructions only.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct CancelToken {
    sender: Mutex<Option<Sender<()>>>,
    cancelled: Receiver<()>,
}

#[pymethods]
impl CancelToken {
    #[new]
    fn new() -> Self {
        let (sender, cancelled) = bounded(0);
        CancelToken { sender: Mutex::new(Some(sender)), cancelled }
    }

    fn cancel(&self) {
        self.sender.lock().take();
    }

    #[getter]
    fn cancelled(&self) -> bool {
        self.sender.lock().is_none()
    }
}

#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct Ticket(Mutex<Option<store::Ticket>>);

impl Ticket {
    pub fn new(ticket: store::Ticket) -> Self {
        Ticket(Mutex::new(Some(ticket)))
    }
}

#[pymethods]
impl Ticket {
    fn take_back(&self, py: Python<'_>) -> bool {
        let ticket = self.0.lock().take();
        py.detach(|| ticket.is_some_and(|ticket| ticket.take_back().is_some()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let ticket = self.0.get_mut().take();
        Python::attach(|py| py.detach(|| drop(ticket)));
    }
}

/// When a wait of this many seconds is over; None where that is never.
pub(super) fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout: not a number of seconds"));
    }
    // A wait that is too long to be told in seconds never ends.
    Ok(Duration::try_from_secs_f64(seconds.max(0.0)).ok().and_then(|timeout| Instant::now().checked_add(timeout)))
}

/// Waits until the object exists; None after the deadline or when cancelled. Python's signal handlers run meanwhile.
pub(super) fn wait(
    py: Python<'_>,
    store: &crate::ObjectStore,
    id: &[u8],
    deadline: Option<Instant>,
    cancel: Option<&CancelToken>,
) -> PyResult<Option<crate::Object>> {
    let (sender, answer) = bounded(1);
    let parked = py.detach(|| store.get_or_park(id, move |object| drop(sender.send(object))))?;
    let ticket = match parked {
        Parked::Ready(object) => return Ok(Some(object)),
        Parked::Waiting(ticket) => ticket,
    };
    let never = crossbeam_channel::never();
    let cancelled = cancel.map_or(&never, |token| &token.cancelled);
    let end = loop {
        let slice = Instant::now() + SIGNALS_EVERY;
        let until = deadline.map_or(slice, |deadline| deadline.min(slice));
        let end = py.detach(|| {
            select! {
                recv(answer) -> object => Some(object.map(Some).map_err(|_| Error::Closed)),
                recv(cancelled) -> _ => Some(Ok(None)),
                recv(crossbeam_channel::at(until)) -> _ => {
                    deadline.is_some_and(|deadline| deadline <= Instant::now()).then_some(Ok(None))
                }
            }
        });
        if let Some(end) = end {
            break end?;
        }
        py.check_signals()?;
    };
    let taken_back = py.detach(|| ticket.take_back());
    if end.is_none() && taken_back.is_none() {
        // Answered in the same moment: the answer is on its way.
        return Ok(Some(py.detach(|| answer.recv()).map_err(|_| Error::Closed)?));
    }
    Ok(end)
}
