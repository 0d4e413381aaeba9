//! The settings of the `local` backend.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;

/// When an acknowledged write is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It survives the death of the process (`kill -9`). After a power loss the store opens and returns no wrong bytes, but recent
    /// writes and deletes may be undone.
    #[default]
    Process,
    /// It also survives a power loss: the acknowledgement waits for the disk.
    Disk,
}

impl Durability {
    /// The value's name in the config.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Durability::Process => "process",
            Durability::Disk => "disk",
        }
    }
}

/// Settings of the `local` backend.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
#[serde(default, deny_unknown_fields)]
pub struct LocalOptions {
    /// The store's directory, made if it does not exist. Default (empty): `scaler_object_storage` in `$XDG_STATE_HOME`, which
    /// itself defaults to `~/.local/state`.
    pub path: PathBuf,
    /// Most disk space that the directory may take, in MiB; puts fail when four fifths of it are live objects. At least 16. Default
    /// 0: four fifths of what is free on its filesystem at open, and what the directory already holds.
    pub max_size_mb: u64,
    /// When a write is acknowledged. Default: `process`.
    pub durability: Durability,
    /// How long objects live after they were stored, in seconds, by this machine's clock. Where that is set while the store is open, they live
    /// longer, never shorter; the next open has nothing but the clock to tell what is over. With the `tiered` backend, [`RedisOptions::object_ttl_seconds`](crate::RedisOptions::object_ttl_seconds) says it instead.
    /// Default: 0, for ever.
    pub object_ttl_seconds: u64,
    /// How long to wait, in milliseconds, for another process to release the directory. Default: 10 000.
    pub lock_wait_ms: u64,
    /// The program that keeps the directory for attached processes where nobody does. Default (empty): `scaler_object_storage_server`
    /// beside this program, or in the `PATH`.
    pub keeper_command: PathBuf,
    /// How long an attached process waits for the keeper's answer before a call fails, in milliseconds; calls that wait for Redis, or for
    /// room, wait as long as these may take besides. Default: 30 000.
    pub keeper_response_timeout_ms: u64,
    /// How long, in seconds, such a keeper stays when nobody is attached any more. Default: 60.
    pub keeper_idle_seconds: u64,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions {
            path: PathBuf::new(),
            max_size_mb: 0,
            durability: Durability::default(),
            object_ttl_seconds: 0,
            lock_wait_ms: 10_000,
            keeper_command: PathBuf::new(),
            keeper_response_timeout_ms: 30_000,
            keeper_idle_seconds: 60,
        }
    }
}

impl LocalOptions {
    /// The directory in effect: `path`, or the default where it is empty.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where `path` is empty and neither `$XDG_STATE_HOME` nor `$HOME` is set, or where it names a variable or a home directory,
    /// which are not looked up here.
    pub fn directory(&self) -> Result<PathBuf, Error> {
        if !self.path.as_os_str().is_empty() {
            refuse_variables(&self.path)?;
            return Ok(self.path.clone());
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        let state = state.ok_or_else(|| {
            Error::Config(
                "there is no directory for the store: HOME is not set, nor is XDG_STATE_HOME; set local.path \
                 (SCALER_OBJECT_STORAGE_LOCAL_PATH, --local-path)"
                    .to_owned(),
            )
        })?;
        Ok(state.join("scaler_object_storage"))
    }
}

/// A shell would have put something in their place: a directory of such a name is never meant.
fn refuse_variables(path: &Path) -> Result<(), Error> {
    let is_home = path.components().next().is_some_and(|first| first.as_os_str().as_encoded_bytes().starts_with(b"~"));
    let is_variable = path.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"$"));
    if !is_home && !is_variable {
        return Ok(());
    }
    Err(Error::Config(format!(
        "local.path: {}: variables, and home directories other than ~/ in settings, are not looked up in a path; write the path out",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_replace_is_refused() {
        for path in ["$HOME/objects", "/data/$USER/objects", "${STATE}/x", "~other/objects", "~"] {
            let options = LocalOptions { path: path.into(), ..LocalOptions::default() };
            let error = options.directory().unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("local.path"), "{error}");
        }
        for path in ["/data/a~b", "a$b", "/srv/~x"] {
            LocalOptions { path: path.into(), ..LocalOptions::default() }.directory().unwrap();
        }
    }
}
