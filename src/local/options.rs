//! The settings of the `local` backend.

use std::path::PathBuf;

use serde::Deserialize;

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
            lock_wait_ms: 10_000,
            keeper_command: PathBuf::new(),
            keeper_response_timeout_ms: 30_000,
            keeper_idle_seconds: 60,
        }
    }
}

impl LocalOptions {
    /// The directory in effect: `path`, or the default where it is empty.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        if !self.path.as_os_str().is_empty() {
            return self.path.clone();
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(std::env::temp_dir)
            .join("scaler_object_storage")
    }
}
