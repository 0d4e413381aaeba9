//! Objects as Python sees them: their data and metadata as bytes or memoryviews.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffer::{copied, memoryview};

#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct Object(pub crate::Object);

#[pymethods]
impl Object {
    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        memoryview(py, self.0.data.clone())
    }

    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        copied(py, &self.0.metadata)
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        copied(py, &self.0.data)
    }

    fn __len__(&self) -> usize {
        self.0.data.len()
    }

    fn __repr__(&self) -> String {
        format!("<Object: {} bytes, {} of metadata>", self.0.data.len(), self.0.metadata.len())
    }
}

#[pyclass(frozen, get_all, module = "scaler_object_storage")]
pub(super) struct Info {
    backend: &'static str,
    place: String,
    objects: u64,
    payloads: u64,
    payload_bytes: u64,
    capacity_bytes: u64,
    physical_bytes: u64,
    damaged_objects: u64,
    waiting_requests: u64,
    waiting_ids: u64,
    oldest_wait: f64,
}

impl From<crate::Info> for Info {
    fn from(info: crate::Info) -> Self {
        Info {
            backend: info.backend,
            place: info.place,
            objects: info.objects,
            payloads: info.payloads,
            payload_bytes: info.payload_bytes,
            capacity_bytes: info.capacity_bytes,
            physical_bytes: info.physical_bytes,
            damaged_objects: info.damaged_objects,
            waiting_requests: info.waiting_requests,
            waiting_ids: info.waiting_ids,
            oldest_wait: info.oldest_wait.as_secs_f64(),
        }
    }
}

#[pymethods]
impl Info {
    fn __repr__(&self) -> String {
        let Info { backend, place, objects, payload_bytes, physical_bytes, capacity_bytes, .. } = self;
        format!(
            "<Info: {backend} in {place}, {objects} objects, {payload_bytes} bytes of payloads, {physical_bytes} of {capacity_bytes} bytes taken>"
        )
    }
}
