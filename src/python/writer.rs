//! The class `ObjectWriter` of the Python package: streamed writes.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::buffer::BytesLike;
use super::drop_detached;
use super::opened::Opened;
use super::signals::detached;
use crate::error::Error;

/// An object whose data arrives in pieces. Nothing exists before :meth:`commit`.
///
/// As a context manager it commits at the end of the block, and discards what was written if the block raises.
#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct ObjectWriter {
    writer: Mutex<Option<crate::ObjectWriter>>,
    opened: Arc<Opened>,
}

impl ObjectWriter {
    pub fn new(writer: crate::ObjectWriter, opened: Arc<Opened>) -> Self {
        ObjectWriter { writer: Mutex::new(Some(writer)), opened }
    }

    /// Whether this is a forked child, where a thread of the parent may have left the writer locked.
    fn is_forked(&self) -> bool {
        self.opened.store.is_forked()
    }

    fn with<T>(
        &self,
        operation: impl FnOnce(&mut Option<crate::ObjectWriter>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.is_forked() { Err(Error::Forked) } else { operation(&mut self.writer.lock()) }
    }
}

#[pymethods]
impl ObjectWriter {
    /// Appends a piece of the data; its length, as files return it.
    fn write(&self, py: Python<'_>, piece: BytesLike<'_, '_>) -> PyResult<usize> {
        let piece = piece.as_slice();
        detached(py, || self.with(|writer| writer.as_mut().ok_or(Error::Closed)?.write(piece)))??;
        Ok(piece.len())
    }

    /// Makes the object exist, and wakes whoever waits for it.
    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.with(|writer| writer.take().ok_or(Error::Closed))?.commit())??;
        Ok(())
    }

    /// Leaves no trace of it. After a commit this does nothing.
    fn discard(&self, py: Python<'_>) {
        // A forked child has nothing to discard.
        py.detach(|| drop(self.with(|writer| Ok(writer.take()))));
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Commits, unless the block raised, committed or discarded it.
    #[pyo3(signature = (error_class, *_error))]
    fn __exit__(&self, py: Python<'_>, error_class: &Bound<'_, PyAny>, _error: &Bound<'_, PyTuple>) -> PyResult<()> {
        if !error_class.is_none() {
            self.discard(py);
            return Ok(());
        }
        detached(py, || match self.with(|writer| Ok(writer.take()))? {
            Some(writer) => writer.commit(),
            None => Ok(()),
        })??;
        Ok(())
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        drop_detached(self.writer.get_mut().take());
    }
}
