//! Errors as Python's exceptions: one class for each kind, in `scaler_object_storage/exceptions.py`.

use std::io;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::error::Error;

/// The class for this kind of error.
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
        Error::Refused { .. } => "RefusedError",
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

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        Python::attach(|py| {
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

/// What the operating system says, without the number, which Python shows itself.
fn message(source: &io::Error) -> String {
    let text = source.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}
