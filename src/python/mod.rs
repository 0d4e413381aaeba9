//! The Python package's native module. What it offers is described in `python/scaler_object_storage/_native.pyi`.

mod answers;
mod asynchronous;
mod buffer;
mod errors;
mod listing;
mod logs;
mod object;
mod opened;
mod settings;
mod signals;
mod store;
mod wait;
mod writer;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::listing::Listed;
    #[pymodule_export]
    use super::object::{Info, Object};
    #[pymodule_export]
    use super::settings::read_config;
    #[pymodule_export]
    use super::store::ObjectStore;
    #[pymodule_export]
    use super::wait::{CancelToken, Ticket};
    #[pymodule_export]
    use super::writer::ObjectWriter;
    use super::{logs, opened};
    use pyo3::prelude::*;
    use pyo3::wrap_pyfunction;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        logs::install(py)?;
        // After `logs::install`: what is registered last is called first, so stores are closed, and log, before `logging` shuts down.
        py.import("atexit")?.call_method1("register", (wrap_pyfunction!(opened::close_all, module)?,))?;
        Ok(())
    }
}

/// Drops a value whose drop may block, with the interpreter's lock released.
fn drop_detached<T: Send>(value: T) {
    Python::attach(|py| py.detach(|| drop(value)));
}
