//! The settings of the server and of its store: command line over environment over config file over defaults.
//!
//! ```
//! use std::collections::BTreeMap;
//! use scaler_object_storage::config::{CommandLine, ServerConfig};
//!
//! # let directory = tempfile::tempdir()?;
//! # let file = directory.path().join("scaler.toml");
//! std::fs::write(&file, "[object_storage_server]\nbackend = 'memory'\nidentity = 'from the file'")?;
//! let command_line = CommandLine { config: Some(file), ..CommandLine::default() };
//! let environment = [("SCALER_OBJECT_STORAGE_IDENTITY".to_string(), "from the environment".to_string())];
//!
//! let config = ServerConfig::load(&command_line, environment)?;
//! assert_eq!(config.identity, "from the environment");
//! assert_eq!(config.bind_address, "tcp://127.0.0.1:2346");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod effect;
mod file;
mod setting;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::{Table, Value};

pub use setting::{Kind, SERVER_SETTINGS, STORE_SETTINGS, Setting, settings, without_password};

use crate::error::Error;
use crate::store::StoreConfig;

/// The section of the config file that is ours.
pub const SECTION: &str = "object_storage_server";

/// What the names of our environment variables begin with.
pub const VARIABLE_PREFIX: &str = "SCALER_OBJECT_STORAGE_";

/// The environment variable that names the config file where the command line does not.
pub const CONFIG_VARIABLE: &str = "SCALER_OBJECT_STORAGE_CONFIG";

/// Setting's key -> value, from one source or from several merged.
type Values = BTreeMap<&'static str, Value>;

/// Least severe message that is logged, by its name in Python's logging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LoggingLevel {
    /// Only what ends the process.
    Critical,
    /// And what failed.
    Error,
    /// And what may need attention.
    Warning,
    /// And what happened.
    #[default]
    Info,
    /// And how.
    Debug,
}

/// Where the server listens, how it logs, and what store it opens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where to listen. Default: `tcp://127.0.0.1:2346`.
    pub bind_address: String,
    /// The server's name for its clients. Default: `ObjectStorageServer`.
    pub identity: String,
    /// Log files, `/dev/stdout` or `/dev/stderr`. Default: `/dev/stdout`.
    pub logging_paths: Vec<PathBuf>,
    /// A config file for Python's logging, which is ignored. Default: none.
    pub logging_config_file: Option<PathBuf>,
    /// Least severe message that is logged. Default: `INFO`.
    pub logging_level: LoggingLevel,
    /// The certificate chain; given together with `tls_key`. Default: none.
    pub tls_cert: Option<PathBuf>,
    /// Its private key. Default: none.
    pub tls_key: Option<PathBuf>,
    /// Where metrics, health and the status page are served over HTTP: a port, on loopback, or `ip:port`. Default: nowhere.
    pub metrics_address: Option<String>,
    /// The store. Default: the `local` backend in its default directory.
    #[serde(skip)]
    pub store: StoreConfig,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            bind_address: "tcp://127.0.0.1:2346".into(),
            identity: "ObjectStorageServer".into(),
            logging_paths: vec!["/dev/stdout".into()],
            logging_config_file: None,
            logging_level: LoggingLevel::default(),
            tls_cert: None,
            tls_key: None,
            metrics_address: None,
            store: StoreConfig::default(),
        }
    }
}

/// What the command line says: the config file, and settings by their keys with the words given for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The config file.
    pub config: Option<PathBuf>,
    /// Setting's key (`local.path`) -> words.
    pub settings: BTreeMap<&'static str, Vec<String>>,
    /// Whether every object is deleted at the start. No setting, so that no file can say it again and again.
    pub clear: bool,
}

impl ServerConfig {
    /// The config that the command line, these environment variables, and the config file named by either of them make. An empty
    /// environment variable is as good as none.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where a setting is unknown or its value wrong: it names the setting, where it stands, and what is
    /// expected; [`Error::Io`] where the config file cannot be read.
    pub fn load(
        command_line: &CommandLine,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        Self::of(Self::given(command_line, environment)?)
    }

    /// The settings of the store that are given there, as tables of our section; what is not given is not in it.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_store_table(
        command_line: &CommandLine,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Table, Error> {
        let mut values = Self::given(command_line, environment)?;
        Self::of(values.clone())?;
        Ok(store_table(&mut values))
    }

    fn given(
        command_line: &CommandLine,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Values, Error> {
        let mut environment: BTreeMap<_, _> = environment.into_iter().collect();
        let named = environment.remove(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let mut values = match command_line.config.as_ref().or(named.as_ref()) {
            Some(path) => file::read(path)?,
            None => Values::new(),
        };
        for (key, reason) in file::GONE {
            let variable = setting::variable(key);
            if environment.get(&variable).is_some_and(|text| !text.is_empty()) {
                return Err(Error::Config(format!("{variable}: {reason}")));
            }
        }
        for setting in settings() {
            let variable = setting.variable();
            if let Some(text) = environment.get(&variable).filter(|text| !text.is_empty()) {
                let value = setting.value_of_text(&words(setting, text));
                values.insert(setting.key, value.map_err(|reason| Error::Config(format!("{variable}: {reason}")))?);
            }
            if let Some(words) = command_line.settings.get(setting.key) {
                let value = setting.value_of_text(words);
                values.insert(
                    setting.key,
                    value.map_err(|reason| Error::Config(format!("--{}: {reason}", setting.flag())))?,
                );
            }
        }
        Ok(values)
    }

    /// The config that a table built as our section of the config file makes, and nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where a setting is unknown or its value wrong.
    pub fn from_table(section: Table) -> Result<Self, Error> {
        Self::of(file::checked(section, |place, reason| format!("{place}: {reason}"))?)
    }

    fn of(mut values: Values) -> Result<Self, Error> {
        // Display and not message(): it names the setting.
        let invalid = |error: toml::de::Error| Error::Config(error.to_string().trim().replace('\n', " "));
        let store = store_table(&mut values);
        let server: Table = values.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        let mut config: ServerConfig = server.try_into().map_err(invalid)?;
        config.store = store.try_into().map_err(invalid)?;
        if config.logging_paths.is_empty() {
            config.logging_paths = ServerConfig::default().logging_paths;
        }
        if config.tls_cert.is_some() != config.tls_key.is_some() {
            return Err(Error::Config("tls_cert and tls_key must be given together".to_string()));
        }
        if config.store.redis.tls_cert.is_some() != config.store.redis.tls_key.is_some() {
            return Err(Error::Config("redis.tls_cert and redis.tls_key must be given together".to_string()));
        }
        Ok(config)
    }
}

/// Takes the settings of the store out of the values.
fn store_table(values: &mut Values) -> Table {
    let mut store = Table::new();
    for setting in &STORE_SETTINGS {
        let Some(value) = values.remove(setting.key) else { continue };
        let (table, key) = setting.key.split_once('.').map_or((None, setting.key), |(table, key)| (Some(table), key));
        match table.map(|table| store.entry(table).or_insert_with(|| Value::Table(Table::new()))) {
            Some(Value::Table(table)) => table.insert(key.to_string(), value),
            _ => store.insert(key.to_string(), value),
        };
    }
    store
}

/// An environment variable holds several paths as `PATH` does, with colons between them.
fn words(setting: &Setting, text: &str) -> Vec<String> {
    match setting.kind {
        Kind::Paths => text.split(':').filter(|word| !word.is_empty()).map(str::to_string).collect(),
        _ => vec![text.to_string()],
    }
}

/// Environment variables that look like a misspelling of one of ours: what is set, and what was probably meant.
///
/// They are no error, because a container platform makes variables of this prefix for a service called
/// `scaler-object-storage`.
pub fn misspelt_variables(environment: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    let known: Vec<String> = settings().map(Setting::variable).chain([CONFIG_VARIABLE.to_string()]).collect();
    let set = environment.into_iter().filter(|name| name.starts_with(VARIABLE_PREFIX) && !known.contains(name));
    let meant = |name: &str| known.iter().find(|known| strsim::damerau_levenshtein(known, name) <= 2).cloned();
    set.filter_map(|name| meant(&name).map(|meant| (name, meant))).collect()
}
