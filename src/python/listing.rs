//! Listings as Python sees them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffer::copied;
use super::opened::Opened;
use super::signals::detached;
use crate::backend::{LISTED_MAX, ListPosition, ObjectState};

/// What is known of one object.
#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct Listed(pub crate::Listed);

#[pymethods]
impl Listed {
    /// Its id; empty where that cannot be read any more, which is damage.
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        copied(py, self.0.id.as_bytes())
    }

    /// Bytes of its data. Of a value of Scaler's Redis backend, which says no more, of data and metadata together.
    #[getter]
    fn data_bytes(&self) -> u64 {
        self.0.data_bytes
    }

    /// Bytes of its metadata.
    #[getter]
    fn metadata_bytes(&self) -> u64 {
        self.0.metadata_bytes
    }

    /// When it was stored, in seconds since 1970: the clock of its version, which is Redis's where the store has one. None for a value of Scaler's
    /// Redis backend.
    #[getter]
    fn stored_at(&self) -> Option<f64> {
        self.0.version.map(|version| version.ms() as f64 / 1000.0)
    }

    /// Which write it is from: ``MILLISECONDS.COUNTER@NODE``.
    #[getter]
    fn version(&self) -> Option<String> {
        self.0.version.map(|version| version.to_string())
    }

    /// When it ends by itself, in seconds since 1970 on Redis's clock; None: never, or not decided yet.
    #[getter]
    fn expires_at(&self) -> Option<f64> {
        self.0.expires_ms.map(|ms| ms as f64 / 1000.0)
    }

    /// ``kept`` (here, and shared with nobody), ``dirty`` (Redis may lack it), ``clean`` (Redis has it), ``suspect`` (checked before it is handed
    /// out), ``remote`` (in Redis alone) or ``damaged``.
    #[getter]
    fn state(&self) -> &'static str {
        self.0.state.name()
    }

    /// What is wrong with it, where it is damaged.
    #[getter]
    fn damage(&self) -> Option<&str> {
        match &self.0.state {
            ObjectState::Damaged { reason } => Some(reason),
            _ => None,
        }
    }

    /// Where it is: files of the journal and offsets in them, ``memory`` or ``Redis``.
    #[getter]
    fn place(&self) -> &str {
        &self.0.place
    }

    fn __repr__(&self) -> String {
        let crate::Listed { id, data_bytes, metadata_bytes, state, .. } = &self.0;
        format!("<Listed: {id}, {data_bytes} bytes, {metadata_bytes} of metadata, {}>", state.name())
    }
}

/// The iterator over a store's objects.
#[pyclass(frozen, module = "scaler_object_storage")]
pub(super) struct Objects {
    opened: Arc<Opened>,
    state: Mutex<State>,
}

struct State {
    found: VecDeque<crate::Listed>,
    /// None: there are no more pages.
    next: Option<ListPosition>,
}

impl Objects {
    pub fn new(opened: Arc<Opened>) -> Self {
        let state = State { found: VecDeque::new(), next: Some(ListPosition::default()) };
        Objects { opened, state: Mutex::new(state) }
    }
}

#[pymethods]
impl Objects {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Listed>> {
        loop {
            let mut state = self.state.lock();
            if let Some(found) = state.found.pop_front() {
                return Ok(Some(Listed(found)));
            }
            // Not held while the page is asked for: whoever waits for it holds the interpreter's lock.
            let Some(position) = state.next.take() else { return Ok(None) };
            drop(state);
            let page = detached(py, || self.opened.store.list(&position, LISTED_MAX))??;
            let mut state = self.state.lock();
            state.found.extend(page.objects);
            state.next = page.next;
        }
    }
}
