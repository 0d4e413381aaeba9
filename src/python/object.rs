//! Objects as Python sees them: their data and metadata as bytes or memoryviews.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffer::{copied, memoryview};

/// What is stored under an id: data and metadata, either of which may be empty.
///
/// It stays valid and unchanged whatever becomes of the id and of the store.
#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct Object(pub crate::Object);

#[pymethods]
impl Object {
    /// The payload, read-only. Large ones share the store's own pages: nothing is copied.
    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        memoryview(py, self.0.data.clone())
    }

    /// What the writer said about the payload; the store does not interpret it.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        copied(py, &self.0.metadata)
    }

    /// The payload, copied.
    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        copied(py, &self.0.data)
    }

    /// Bytes of the payload.
    fn __len__(&self) -> usize {
        self.0.data.len()
    }

    fn __repr__(&self) -> String {
        format!("<Object: {} bytes, {} of metadata>", self.0.data.len(), self.0.metadata.len())
    }
}

/// What a store holds and who waits.
#[pyclass(frozen, get_all, module = "scaler_object_storage")]
pub(super) struct Info {
    backend: &'static str,
    /// The directory, the address of Redis, or ``memory``.
    place: String,
    objects: u64,
    /// Payloads stored for the objects; objects that share one count it once.
    payloads: u64,
    /// Bytes of the payloads, metadata included.
    payload_bytes: u64,
    /// The most bytes that the store may take.
    capacity_bytes: u64,
    /// Bytes that it takes now, with what is dead but not yet reclaimed.
    physical_bytes: u64,
    /// Objects found damaged since the store was opened; each is a miss and a line in the log.
    damaged_objects: u64,
    waiting_requests: u64,
    waiting_ids: u64,
    /// How long the oldest request has waited, in seconds.
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
