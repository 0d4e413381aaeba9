//! What was configured and has no effect: it is no error, as one file may serve several programs, but somebody meant something by it.

use std::collections::BTreeSet;
use std::path::Path;

use toml::{Table, Value};

use super::{CONFIG_VARIABLE, CommandLine, SECTION, ServerConfig, Setting, settings};
use crate::error::Error;
use crate::store::BackendKind;

/// A section whose name is at most so many typing errors away is taken for a misspelling of ours.
const TYPING_ERRORS_MAX: usize = 3;

impl ServerConfig {
    /// What was configured and has no effect, one sentence for each: a section of the config file whose name is misspelt, or a file without our
    /// section; settings of a backend that is not chosen; certificates for an address, or for a Redis, without TLS.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn without_effect(
        command_line: &CommandLine,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Vec<String>, Error> {
        let environment: Vec<_> = environment.into_iter().collect();
        let mut found = Vec::new();
        let named = environment.iter().find(|(name, path)| name == CONFIG_VARIABLE && !path.is_empty());
        if let Some(path) = command_line.config.as_deref().or(named.map(|(_, path)| Path::new(path))) {
            found.extend(in_file(path)?);
        }
        let values = Self::given(command_line, environment)?;
        let config = Self::of(values.clone())?;
        let given: BTreeSet<&str> = values.keys().copied().collect();
        found.extend(of_other_backends(&given, config.store.backend));
        found.extend(of_tls(&given, &config));
        Ok(found)
    }
}

fn in_file(path: &Path) -> Result<Vec<String>, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    // What is no TOML is an error of `load`.
    let Ok(file) = toml::from_str::<Table>(&text) else { return Ok(Vec::new()) };
    let shown = path.display();
    let mut found: Vec<_> = file.iter().filter_map(|(name, value)| in_vain(name, value)).collect();
    if found.is_empty() && !file.contains_key(SECTION) {
        found.push(format!("there is no section [{SECTION}] in it, so that nothing in it has an effect"));
    }
    Ok(found.into_iter().map(|text| format!("{shown}: {text}")).collect())
}

/// Why something outside of our section was probably meant for us.
fn in_vain(name: &str, value: &Value) -> Option<String> {
    if name == SECTION {
        return None;
    }
    if value.is_table() {
        let spelt = name.replace('-', "_");
        let is_like = strsim::damerau_levenshtein(&spelt, SECTION) <= TYPING_ERRORS_MAX;
        return is_like.then(|| format!("the section [{name}] has no effect: is it a misspelling of [{SECTION}]?"));
    }
    let setting = settings().find(|setting| setting.key == name.replace('-', "_"))?;
    Some(format!("{} stands outside of a section and has no effect: it belongs into [{SECTION}]", setting.key))
}

/// The table of a setting's key: `local`, `memory`, `redis`, or none.
fn table(setting: &Setting) -> Option<&'static str> {
    setting.key.split_once('.').map(|(table, _)| table)
}

fn of_other_backends(given: &BTreeSet<&str>, backend: BackendKind) -> Option<String> {
    let used: &[&str] = match backend {
        BackendKind::Local => &["local"],
        BackendKind::Memory => &["memory"],
        BackendKind::Redis => &["redis"],
        BackendKind::Tiered => &["local", "redis"],
    };
    // With Redis behind the local store, lifetimes are Redis's.
    let is_shadowed = |key: &str| backend == BackendKind::Tiered && key == "local.object_ttl_seconds";
    let is_unused =
        |setting: &&Setting| table(setting).is_some_and(|table| !used.contains(&table)) || is_shadowed(setting.key);
    let unused: Vec<_> =
        settings().filter(is_unused).filter(|setting| given.contains(setting.key)).map(|it| it.key).collect();
    let name = backend.name();
    (!unused.is_empty()).then(|| format!("with the backend {name} there is no effect of {}", unused.join(", ")))
}

fn of_tls(given: &BTreeSet<&str>, config: &ServerConfig) -> Vec<String> {
    let mut found = Vec::new();
    let encrypted = ["tls://", "wss://"];
    if config.tls_cert.is_some() && !encrypted.iter().any(|scheme| config.bind_address.starts_with(scheme)) {
        let (address, _) = config.bind_address.split_once("://").unwrap_or((&config.bind_address, ""));
        found.push(format!("tls_cert and tls_key have no effect: connections to a {address}:// address are not encrypted, those to tls:// are"));
    }
    let files: Vec<_> =
        ["redis.tls_ca", "redis.tls_cert", "redis.tls_key"].into_iter().filter(|key| given.contains(key)).collect();
    let is_used = matches!(config.store.backend, BackendKind::Redis | BackendKind::Tiered);
    let url = config.store.redis.url.trim_start();
    if is_used && !files.is_empty() && !url.starts_with("rediss") && !url.starts_with("valkeys") {
        found.push(format!("{} no effect: redis.url is not encrypted, as rediss:// is", has(&files)));
    }
    if is_used && config.store.redis.wait_replicas > 0 && url.contains("+cluster://") {
        found.push("redis.wait_replicas has no effect with a Redis Cluster".to_owned());
    }
    found
}

fn has(keys: &[&str]) -> String {
    format!("{} {}", keys.join(", "), if keys.len() == 1 { "has" } else { "have" })
}
