use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::buffer::BytesLike;
use crate::error::Error;

#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct ObjectWriter(Mutex<Option<crate::ObjectWriter>>);

impl ObjectWriter {
    pub fn new(writer: crate::ObjectWriter) -> Self {
        ObjectWriter(Mutex::new(Some(writer)))
    }
}

#[pymethods]
impl ObjectWriter {
    fn write(&self, py: Python<'_>, piece: BytesLike<'_, '_>) -> PyResult<usize> {
        let piece = piece.as_slice();
        py.detach(|| self.0.lock().as_mut().ok_or(Error::Closed)?.write(piece))?;
        Ok(piece.len())
    }

    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.lock().take().ok_or(Error::Closed)?.commit())?;
        Ok(())
    }

    fn discard(&self, py: Python<'_>) {
        py.detach(|| drop(self.0.lock().take()));
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Commits, unless the block raised, committed or discarded it.
    #[pyo3(signature = (error_class, *_error))]
    fn __exit__(&self, py: Python<'_>, error_class: &Bound<'_, PyAny>, _error: &Bound<'_, PyTuple>) -> PyResult<()> {
        let writer = py.detach(|| self.0.lock().take());
        if error_class.is_none()
            && let Some(writer) = writer
        {
            py.detach(|| writer.commit())?;
        }
        Ok(())
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        let writer = self.0.get_mut().take();
        Python::attach(|py| py.detach(|| drop(writer)));
    }
}
