//! Awaitables for asyncio: futures of the event loop that runs on the calling thread.

use std::sync::Arc;
use std::task::Poll;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::answers::Call;
use super::drop_detached;
use super::object::Object;
use super::opened::Opened;
use crate::error::Error;
use crate::store::Parked;

/// The event loop that runs on this thread; an error if there is none.
pub(super) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("asyncio")?.call_method0("get_running_loop")
}

/// A future that has its result already.
pub(super) fn ready<'py, T: IntoPyObject<'py>>(py: Python<'py>, value: T) -> PyResult<Bound<'py, PyAny>> {
    let future = running_loop(py)?.call_method0("create_future")?;
    future.call_method1("set_result", (value,))?;
    Ok(future)
}

/// A future of the object, as soon as it exists. Cancelling it takes the request back.
pub(super) fn wait<'py>(py: Python<'py>, opened: &Arc<Opened>, id: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    if let Poll::Ready(Some(object)) = opened.store.get_at_once(id)? {
        return ready(py, Object(object));
    }
    let event_loop = running_loop(py)?;
    let future = event_loop.call_method0("create_future")?;
    let answer =
        Answer { asked: Some((event_loop.unbind(), future.clone().unbind())), answers: opened.answers.sender()? };
    let request = Arc::<Mutex<Request>>::default();
    future.call_method1("add_done_callback", (GiveUp(Arc::clone(&request)),))?;
    let (store, id) = (opened.store.clone(), Box::<[u8]>::from(id));
    // Parking may ask the keeper, so it is not done on the loop's thread.
    blocking::unblock(move || park(&store, &id, answer, &request)).detach();
    Ok(future)
}

fn park(store: &crate::ObjectStore, id: &[u8], answer: Answer, request: &Mutex<Request>) {
    // Shared with the callback: if the object is there at once, or parking fails, the answer is given here.
    let answer = Arc::new(Mutex::new(Some(answer)));
    let take = |answer: &Mutex<Option<Answer>>| answer.lock().take();
    let parked = Arc::clone(&answer);
    let told = move |object| {
        if let Some(answer) = take(&parked) {
            answer.tell(Ok(object));
        }
    };
    match store.get_or_park(id, told) {
        Ok(Parked::Ready(object)) => {
            if let Some(answer) = take(&answer) {
                answer.tell(Ok(object));
            }
        }
        Ok(Parked::Waiting(ticket)) => {
            let mut request = request.lock();
            if !request.is_over {
                request.ticket = Some(ticket);
            }
        }
        Err(error) => {
            if let Some(answer) = take(&answer) {
                answer.tell(Err(error));
            }
        }
    }
}

/// A request that may be parked.
#[derive(Default)]
struct Request {
    ticket: Option<crate::Ticket>,
    is_over: bool,
}

/// Called when the future has its result or is cancelled.
#[pyclass(frozen)]
struct GiveUp(Arc<Mutex<Request>>);

#[pymethods]
impl GiveUp {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        let ticket = {
            let mut request = self.0.lock();
            request.is_over = true;
            request.ticket.take()
        };
        drop_detached(ticket);
    }
}

/// Gives a future of the event loop its result. If dropped without one, the result is that the store is closed.
struct Answer {
    /// The loop and the future.
    asked: Option<(Py<PyAny>, Py<PyAny>)>,
    answers: Sender<Call>,
}

impl Answer {
    fn tell(mut self, result: Result<crate::Object, Error>) {
        self.send(result);
    }

    fn send(&mut self, result: Result<crate::Object, Error>) {
        let Some((event_loop, future)) = self.asked.take() else { return };
        let call = move |py: Python<'_>| {
            let settle = wrap_pyfunction!(settle, py)?;
            let (object, error) = match result {
                Ok(object) => (Some(Object(object)), None),
                Err(error) => (None, Some(PyErr::from(error))),
            };
            match event_loop.call_method1(py, "call_soon_threadsafe", (settle, future, object, error)) {
                // The loop is closed: nobody waits any more.
                Err(error) if error.is_instance_of::<PyRuntimeError>(py) => Ok(()),
                called => called.map(drop),
            }
        };
        // Fails only when the thread that calls Python has ended, as the interpreter is ending.
        drop(self.answers.send(Box::new(call)));
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.send(Err(Error::Closed));
    }
}

/// Runs on the loop's thread.
#[pyfunction]
fn settle(future: &Bound<'_, PyAny>, object: &Bound<'_, PyAny>, error: Option<Bound<'_, PyAny>>) -> PyResult<()> {
    if future.call_method0("done")?.is_truthy()? {
        return Ok(()); // cancelled
    }
    match error {
        Some(error) => future.call_method1("set_exception", (error,)),
        None => future.call_method1("set_result", (object,)),
    }
    .map(drop)
}
