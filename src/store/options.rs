//! What decides which store is opened: the config, and the builder that fills one in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::ObjectStore;
use crate::error::Error;
use crate::local::{Durability, LocalOptions, Underlying};
use crate::memory::MemoryOptions;
use crate::redis::RedisOptions;

/// Which backend keeps the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// In this process's memory, gone with it.
    Memory,
    /// In a journal on this node's disk.
    #[default]
    Local,
    /// In Redis, and nowhere else.
    Redis,
    /// In a journal on this node's disk, shared with other nodes through Redis.
    Tiered,
}

impl BackendKind {
    /// Its name in the config.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BackendKind::Memory => "memory",
            BackendKind::Local => "local",
            BackendKind::Redis => "redis",
            BackendKind::Tiered => "tiered",
        }
    }
}

/// Everything that decides what [`ObjectStore::open`] opens; reads from the TOML tables of the server's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Where objects are kept. Default: `local`.
    pub backend: BackendKind,
    /// Settings of the `memory` backend.
    pub memory: MemoryOptions,
    /// Settings of the `local` backend, and of the local tier of the `tiered` one.
    pub local: LocalOptions,
    /// Settings of the `redis` backend, and of the shared tier of the `tiered` one.
    pub redis: RedisOptions,
}

impl StoreConfig {
    /// The directory of the store; None if its backend has none.
    pub(crate) fn directory(&self) -> Result<Option<PathBuf>, Error> {
        match self.backend {
            BackendKind::Local | BackendKind::Tiered => self.local.directory().map(Some),
            BackendKind::Memory | BackendKind::Redis => Ok(None),
        }
    }
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

    /// Keeps objects in the Redis at this url, and nowhere else: see [`RedisOptions::url`].
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.config.backend = BackendKind::Redis;
        self.config.redis.url = url.into();
        self
    }

    /// Keeps objects in a journal in this directory, and shares them with other nodes through the Redis at this url.
    pub fn tiered(mut self, path: impl AsRef<Path>, url: impl Into<String>) -> Self {
        self = self.local(path).redis(url);
        self.config.backend = BackendKind::Tiered;
        self
    }

    /// Changes how Redis is used (`redis` and `tiered` backends).
    pub fn redis_options(mut self, change: impl FnOnce(&mut RedisOptions)) -> Self {
        change(&mut self.config.redis);
        self
    }

    /// The most space that the chosen backend may take, in MiB: see [`MemoryOptions::max_size_mb`](crate::MemoryOptions::max_size_mb) and
    /// [`LocalOptions::max_size_mb`] for the defaults.
    pub fn max_size_mb(mut self, max_size_mb: u64) -> Self {
        self.config.memory.max_size_mb = max_size_mb;
        self.config.local.max_size_mb = max_size_mb;
        self
    }

    /// How long objects of the chosen backend live after they were stored, in whole seconds: parts of one are rounded up. Default: zero, for ever.
    pub fn object_ttl(mut self, lifetime: Duration) -> Self {
        let seconds = lifetime.as_secs().saturating_add(u64::from(lifetime.subsec_nanos() > 0));
        self.config.memory.object_ttl_seconds = seconds;
        self.config.local.object_ttl_seconds = seconds;
        self.config.redis.object_ttl_seconds = seconds;
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

    /// The program that keeps the directory for attached processes where nobody does: see [`LocalOptions::keeper_command`].
    pub fn keeper_command(mut self, command: impl AsRef<Path>) -> Self {
        self.config.local.keeper_command = command.as_ref().to_path_buf();
        self
    }

    /// How long such a keeper stays when nobody is attached any more, in whole seconds. Default: 60 seconds.
    pub fn keeper_idle(mut self, idle: Duration) -> Self {
        self.config.local.keeper_idle_seconds = idle.as_secs();
        self
    }

    /// How long an attached process waits for an answer before the call fails: see [`LocalOptions::keeper_response_timeout_ms`].
    pub fn keeper_response_timeout(mut self, timeout: Duration) -> Self {
        self.config.local.keeper_response_timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
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

    /// Attaches to the store that another process of this machine keeps open, or has one started that does: see
    /// [`ObjectStore::attach`].
    ///
    /// # Errors
    ///
    /// As [`ObjectStore::attach`].
    pub fn attach(self) -> Result<ObjectStore, Error> {
        ObjectStore::attach(&self.config)
    }

    /// The settings so far, as [`Keeper::listen`](crate::Keeper::listen) wants them.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }
}
