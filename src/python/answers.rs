//! The thread that calls back into Python when a parked request is answered.

use std::sync::OnceLock;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use pyo3::prelude::*;

use crate::error::Error;

/// A call into Python, made attached to the interpreter.
pub(super) type Call = Box<dyn FnOnce(Python<'_>) -> PyResult<()> + Send>;

/// A thread that calls Python, so that no thread of the store waits for the interpreter. It ends when all senders are dropped. Its queue is
/// bounded by the number of parked requests.
#[derive(Default)]
pub(super) struct Answers(OnceLock<Sender<Call>>);

impl Answers {
    /// The queue to the thread, which the first call starts.
    pub fn sender(&self) -> Result<Sender<Call>, Error> {
        if let Some(sender) = self.0.get() {
            return Ok(sender.clone());
        }
        let (sender, calls) = unbounded();
        thread::Builder::new()
            .name("answers".into())
            .spawn(move || run(&calls))
            .map_err(Error::io("start a thread for", "answers"))?;
        Ok(self.0.get_or_init(|| sender).clone())
    }
}

fn run(calls: &Receiver<Call>) {
    for call in calls {
        let called = Python::try_attach(|py| {
            if let Err(error) = call(py) {
                error.write_unraisable(py, None);
            }
        });
        if called.is_none() {
            break; // the interpreter is ending
        }
    }
}
