//! The Python package's native module. What it offers is described in `python/scaler_object_storage/_native.pyi`.

mod answers;
mod buffer;
mod errors;
mod object;
mod settings;
mod store;
mod wait;
mod writer;

use log::LevelFilter;
use pyo3::prelude::*;
use pyo3_log::{Caching, Logger};

#[pymodule]
mod _native {
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
    use super::{Caching, LevelFilter, Logger, store};
    use pyo3::prelude::*;
    use pyo3::wrap_pyfunction;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        py.import("atexit")?.call_method1("register", (wrap_pyfunction!(store::close_all, module)?,))?;
        // What is less severe never crosses over: asking Python takes the interpreter's lock. Fails where the module is made again.
        let _ = Logger::new(py, Caching::Loggers)?.filter(LevelFilter::Info).install();
        Ok(())
    }
}
