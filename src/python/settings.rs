//! Settings that are given to Python as arguments: the tables of the config file, as dictionaries.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};
use toml::{Table, Value};

use crate::config::{CommandLine, ServerConfig};
use crate::error::Error;
use crate::local::LocalOptions;
use crate::store::StoreConfig;

pub(super) fn store_config(backend: &str, tables: [(&str, Option<&Bound<'_, PyDict>>); 3]) -> PyResult<StoreConfig> {
    let mut section = Table::new();
    section.insert("backend".into(), Value::String(backend.into()));
    for (name, given) in tables {
        let Some(given) = given else { continue };
        let mut table = Table::new();
        for (key, setting) in given {
            let key: String = key.extract()?;
            if !setting.is_none() {
                let value = value(&format!("{name}.{key}"), &setting)?;
                table.insert(key, value);
            }
        }
        section.insert(name.into(), Value::Table(table));
    }
    Ok(ServerConfig::from_table(section)?.store)
}

pub(super) fn store_config_of_file(path: PathBuf) -> Result<StoreConfig, Error> {
    Ok(ServerConfig::load(&command_line(path), environment())?.store)
}

/// The config, with the package's own program as the keeper command if it names none.
pub(super) fn with_program(py: Python<'_>, mut config: StoreConfig) -> PyResult<StoreConfig> {
    if config.local.keeper_command.as_os_str().is_empty() {
        let program = py.import("scaler_object_storage.program")?.call_method0("path")?;
        config.local.keeper_command = program.extract::<Option<PathBuf>>()?.unwrap_or_default();
    }
    Ok(config)
}

/// The arguments that make `ObjectStore` open what this config file, and the environment, describe.
#[pyfunction]
pub(super) fn read_config(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let mut given = ServerConfig::load_store_table(&command_line(path), environment())?;
    let local = given.entry("local").or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(local) = local {
        let directory = |path: &Path| LocalOptions { path: path.to_path_buf(), ..LocalOptions::default() }.directory();
        let path = directory(local.get("path").and_then(Value::as_str).unwrap_or_default().as_ref())?;
        local.insert("path".into(), value("local.path", path.into_pyobject(py)?.as_any())?);
    }
    dictionary(py, given, "")
}

fn command_line(path: PathBuf) -> CommandLine {
    CommandLine { config: Some(path), ..CommandLine::default() }
}

/// The environment variables, except those that are not UTF-8, which cannot be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// A table of settings as a dictionary. Settings of the store are texts, numbers, and tables of these.
fn dictionary<'py>(py: Python<'py>, table: Table, within: &str) -> PyResult<Bound<'py, PyDict>> {
    let settings = PyDict::new(py);
    for (key, value) in table {
        match value {
            Value::Table(inner) => settings.set_item(&key, dictionary(py, inner, &format!("{within}{key}."))?)?,
            Value::String(text) => settings.set_item(key, text)?,
            Value::Integer(number) => settings.set_item(key, number)?,
            other => return Err(Error::Config(format!("{within}{key}: {} is not expected", other.type_str())).into()),
        }
    }
    Ok(settings)
}

fn value(name: &str, setting: &Bound<'_, PyAny>) -> PyResult<Value> {
    if setting.is_instance_of::<PyBool>() {
        return Ok(Value::Boolean(setting.extract()?));
    }
    if setting.is_instance_of::<PyInt>() {
        let number = setting.extract().map_err(|_| Error::Config(format!("{name}: {setting} is too large")))?;
        return Ok(Value::Integer(number));
    }
    if setting.is_instance_of::<PyFloat>() {
        return Ok(Value::Float(setting.extract()?));
    }
    if setting.is_instance_of::<PyString>() {
        return Ok(Value::String(setting.extract()?));
    }
    match setting.extract::<PathBuf>() {
        Ok(path) => match path.into_os_string().into_string() {
            Ok(path) => Ok(Value::String(path)),
            Err(path) => Err(Error::Config(format!("{name}: {} is not UTF-8", path.display())).into()),
        },
        Err(_) => {
            let class = setting.get_type().name()?;
            Err(Error::Config(format!("{name}: a value of type {class} is not text, a path or a number")).into())
        }
    }
}
