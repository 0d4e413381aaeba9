//! Errors as Python's exceptions: one class for each kind, in `scaler_object_storage/exceptions.py`.

use std::io;
use std::sync::OnceLock;
use std::thread::ThreadId;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::error::Error;

/// The name of the exception class for this kind of error.
fn class_name(error: &Error) -> &'static str {
    match error {
        Error::InvalidId { .. } => "InvalidIdError",
        Error::TooLarge { .. } => "TooLargeError",
        Error::Full { .. } => "FullError",
        Error::Locked { .. } => "LockedError",
        Error::UnknownFormat { .. } => "UnknownFormatError",
        Error::Io { .. } => "IoError",
        Error::Catalog { .. } => "CatalogError",
        Error::WritesRefused { .. } => "WritesRefusedError",
        Error::Unreachable { .. } => "UnreachableError",
        Error::Denied { .. } => "DeniedError",
        Error::Refused { .. } => "RefusedError",
        Error::Detached { .. } => "DetachedError",
        Error::Unanswered { .. } => "UnansweredError",
        Error::Closed => "ClosedError",
        Error::Forked => "ForkedError",
        Error::Config(_) => "ConfigError",
        Error::LengthMismatch { .. } => "LengthMismatchError",
        Error::WriteFailed { .. } => "WriteFailedError",
    }
}

fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = MODULE.get_or_try_init(py, || py.import("scaler_object_storage.exceptions").map(Bound::unbind))?;
    Ok(module.bind(py).getattr(name)?.cast_into()?)
}

/// The thread in which the interpreter exits, once it does.
static EXITING: OnceLock<ThreadId> = OnceLock::new();

/// Notes that the interpreter exits in this thread.
pub(super) fn exiting() {
    EXITING.get_or_init(|| std::thread::current().id());
}

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        Python::attach(|py| {
            // Only daemon threads are left beside the one that exits. If one got this exception it would print it to a file that is being
            // closed, and the interpreter would abort. So it stays here, and ends with the process.
            if matches!(error, Error::Closed)
                && EXITING.get().is_some_and(|exiting| *exiting != std::thread::current().id())
            {
                py.detach(|| {
                    loop {
                        std::thread::park();
                    }
                });
            }
            let class = match class(py, class_name(&error)) {
                Ok(class) => class,
                Err(no_class) => return no_class,
            };
            match &error {
                Error::Io { action, path, source } if source.raw_os_error().is_some() => {
                    let reason = format!("cannot {action}: {}", message(source));
                    PyErr::from_type(class, (source.raw_os_error(), reason, path.as_os_str().to_owned()))
                }
                error => PyErr::from_type(class, error.to_string()),
            }
        })
    }
}

/// The operating system's message without the error number, which Python shows itself.
fn message(source: &io::Error) -> String {
    let text = source.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}
