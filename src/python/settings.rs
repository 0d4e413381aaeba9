//! Settings given as arguments: the tables of the config file, as dictionaries.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};
use toml::{Table, Value};

use crate::config::ServerConfig;
use crate::error::Error;
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
