use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::ObjectStore;
use crate::error::Error;
use crate::local::Underlying;

/// When an acknowledged write is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It survives the death of the process (`kill -9`). After a power loss the store opens and returns no wrong bytes, but recent
    /// writes and deletes may be undone.
    #[default]
    Process,
    /// It also survives a power loss: the acknowledgement waits for the disk.
    Disk,
}

/// Which backend keeps the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// In this process's memory, gone with it.
    Memory,
    /// In a journal on this node's disk.
    #[default]
    Local,
}

/// Settings of the `memory` backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryOptions {
    /// Most memory that objects may take, in MiB; a put beyond it fails. Default 0: half of the machine's (or container's) memory.
    pub max_size_mb: u64,
}

/// Settings of the `local` backend.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions { path: PathBuf::new(), max_size_mb: 0, durability: Durability::default(), lock_wait_ms: 10_000 }
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

/// Everything that decides what [`ObjectStore::open`] opens; reads from the TOML tables of the server's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Where objects are kept. Default: `local`.
    pub backend: BackendKind,
    /// Settings of the `memory` backend.
    pub memory: MemoryOptions,
    /// Settings of the `local` backend.
    pub local: LocalOptions,
}

/// Opens an [`ObjectStore`], one setting at a time. Made by [`ObjectStore::builder`].
#[derive(Clone, Default)]
#[must_use = "a builder does nothing until open() is called"]
pub struct ObjectStoreBuilder {
    config: StoreConfig,
    under: Underlying,
}

impl ObjectStoreBuilder {
    /// Keeps objects in this process's memory.
    pub fn memory(mut self) -> Self {
        self.config.backend = BackendKind::Memory;
        self
    }

    /// Keeps objects in a journal in this directory, which is made if it does not exist. This is the default backend.
    pub fn local(mut self, path: impl AsRef<Path>) -> Self {
        self.config.backend = BackendKind::Local;
        self.config.local.path = path.as_ref().to_path_buf();
        self
    }

    /// The most space that the chosen backend may take, in MiB: see [`MemoryOptions::max_size_mb`] and
    /// [`LocalOptions::max_size_mb`] for the defaults.
    pub fn max_size_mb(mut self, max_size_mb: u64) -> Self {
        self.config.memory.max_size_mb = max_size_mb;
        self.config.local.max_size_mb = max_size_mb;
        self
    }

    /// When a write is acknowledged (`local` backend). Default: [`Durability::Process`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.local.durability = durability;
        self
    }

    /// How long [`open`](Self::open) waits for another process to release the directory (`local` backend). Default: 10 seconds.
    pub fn lock_wait(mut self, lock_wait: Duration) -> Self {
        self.config.local.lock_wait_ms = u64::try_from(lock_wait.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// For tests: replaces what is underneath the `local` backend.
    #[doc(hidden)]
    pub fn under(mut self, under: Underlying) -> Self {
        self.under = under;
        self
    }

    /// Opens the store.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] where another process has the directory, [`Error::UnknownFormat`] where a newer program wrote it,
    /// [`Error::Io`] where the operating system refuses, [`Error::Config`] where a setting is out of range.
    pub fn open(self) -> Result<ObjectStore, Error> {
        ObjectStore::open_under(&self.config, self.under)
    }
}
