//! Attaching with a config: what the keeper's settings must be, and how a config is passed to a keeper that is started.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::options::{BackendKind, StoreConfig};
use crate::backend::Waiters;
use crate::error::Error;
use crate::local::Durability;
use crate::node::socket;
use crate::node::starting::{VARIABLE_PREFIX, absolute, program};
use crate::node::{AttachOptions, Attached, Starter};

/// Attaches to the keeper of the config's directory.
pub(super) fn attach(config: &StoreConfig, waiters: Arc<Waiters>) -> Result<Arc<Attached>, Error> {
    let backend = config.backend.name();
    let directory = config.directory()?.ok_or_else(|| {
        Error::Config(format!("the {backend} backend has no directory that processes could share; use local or tiered"))
    })?;
    if directory.to_str().is_none() {
        let shown = directory.display();
        return Err(Error::Config(format!("{shown}: a directory that processes share has a name that is UTF-8")));
    }
    let options = AttachOptions {
        expected: expectations(config)?,
        is_durable: config.local.durability == Durability::Disk,
        keeper_wait: Duration::from_millis(config.local.lock_wait_ms),
        response_timeout: Duration::from_millis(config.local.keeper_response_timeout_ms),
        redis_wait: match config.backend {
            BackendKind::Tiered => {
                Duration::from_millis(config.redis.response_timeout_ms.saturating_add(config.redis.connect_timeout_ms))
            }
            _ => Duration::ZERO,
        },
        drain_limit: Duration::from_millis(config.redis.drain_timeout_ms),
    };
    let starter = Some(Starter {
        directory: directory.clone(),
        command: config.local.keeper_command.clone(),
        environment: environment(config, &directory),
    });
    Attached::attach(directory, options, starter, waiters, backend)
}

/// Attaches to the keeper of the directory, whatever its settings are; None where there is none.
pub(super) fn attach_kept(
    config: &StoreConfig,
    directory: PathBuf,
    waiters: Arc<Waiters>,
) -> Result<Option<Arc<Attached>>, Error> {
    if !is_kept(&directory)? {
        return Ok(None);
    }
    let options = AttachOptions {
        expected: Vec::new(),
        is_durable: false,
        keeper_wait: Duration::from_millis(config.local.lock_wait_ms),
        response_timeout: Duration::from_millis(config.local.keeper_response_timeout_ms),
        redis_wait: Duration::from_millis(
            config.redis.response_timeout_ms.saturating_add(config.redis.connect_timeout_ms),
        ),
        drain_limit: Duration::ZERO,
    };
    Attached::attach(directory, options, None, waiters, "attached").map(Some)
}

/// Whether somebody listens in the directory.
fn is_kept(directory: &Path) -> Result<bool, Error> {
    match socket::connect(directory) {
        Ok(_) => Ok(true),
        Err(error) if socket::is_nobody(&error) => Ok(false),
        Err(error) => Err(Error::io("connect to the keeper of", directory)(error)),
    }
}

/// The settings, by name, on which two processes must agree to share a store: otherwise a process that expects another Redis would silently
/// get the keeper's.
///
/// # Errors
///
/// If the url of Redis is not valid. It may hold a password, so only its parsed address is told to other processes.
pub(crate) fn expectations(config: &StoreConfig) -> Result<Vec<(String, String)>, Error> {
    let mut expected = vec![
        ("backend".to_owned(), config.backend.name().to_owned()),
        ("local.max_size_mb".to_owned(), config.local.max_size_mb.to_string()),
    ];
    if config.backend == BackendKind::Local {
        expected.push(("local.object_ttl_seconds".to_owned(), config.local.object_ttl_seconds.to_string()));
    }
    if config.backend == BackendKind::Tiered {
        let redis = &config.redis;
        expected.extend([
            ("redis.url".to_owned(), redis.address()?),
            ("redis.key_prefix".to_owned(), redis.key_prefix.clone()),
            ("redis.value_format".to_owned(), redis.value_format.name().to_owned()),
            ("redis.max_object_size_mb".to_owned(), redis.max_object_size_mb.to_string()),
            ("redis.object_ttl_seconds".to_owned(), redis.object_ttl_seconds.to_string()),
        ]);
    }
    Ok(expected)
}

/// The config as the environment variables that the server's program reads. Not as its command line, which everybody on the machine can
/// read: the config may hold a password.
fn environment(config: &StoreConfig, directory: &Path) -> Vec<(String, String)> {
    let StoreConfig { backend, memory: _, local, redis } = config;
    // Absolute, since a keeper has another working directory.
    let path = |path: &Path| absolute(path).display().to_string();
    let mut settings = vec![
        ("BACKEND", backend.name().to_owned()),
        ("LOCAL_PATH", path(directory)),
        ("LOCAL_MAX_SIZE_MB", local.max_size_mb.to_string()),
        ("LOCAL_DURABILITY", local.durability.name().to_owned()),
        ("LOCAL_OBJECT_TTL_SECONDS", local.object_ttl_seconds.to_string()),
        ("LOCAL_LOCK_WAIT_MS", local.lock_wait_ms.to_string()),
        ("LOCAL_KEEPER_COMMAND", program(&local.keeper_command).display().to_string()),
        ("LOCAL_KEEPER_RESPONSE_TIMEOUT_MS", local.keeper_response_timeout_ms.to_string()),
        ("LOCAL_KEEPER_IDLE_SECONDS", local.keeper_idle_seconds.to_string()),
    ];
    if *backend == BackendKind::Tiered {
        let optional = |file: &Option<PathBuf>| file.as_deref().map(path).unwrap_or_default();
        settings.extend([
            ("REDIS_URL", redis.url.clone()),
            ("REDIS_MAX_OBJECT_SIZE_MB", redis.max_object_size_mb.to_string()),
            ("REDIS_KEY_PREFIX", redis.key_prefix.clone()),
            ("REDIS_CONNECTION_POOL_SIZE", redis.connection_pool_size.to_string()),
            ("REDIS_COMPRESSION", redis.compression.name().to_owned()),
            ("REDIS_VALUE_FORMAT", redis.value_format.name().to_owned()),
            ("REDIS_CONNECT_TIMEOUT_MS", redis.connect_timeout_ms.to_string()),
            ("REDIS_RESPONSE_TIMEOUT_MS", redis.response_timeout_ms.to_string()),
            ("REDIS_OBJECT_TTL_SECONDS", redis.object_ttl_seconds.to_string()),
            ("REDIS_TOMBSTONE_TTL_SECONDS", redis.tombstone_ttl_seconds.to_string()),
            ("REDIS_WAIT_REPLICAS", redis.wait_replicas.to_string()),
            ("REDIS_DRAIN_TIMEOUT_MS", redis.drain_timeout_ms.to_string()),
            ("REDIS_SETTLE_MS", redis.settle_ms.to_string()),
            ("REDIS_TLS_CA", optional(&redis.tls_ca)),
            ("REDIS_TLS_CERT", optional(&redis.tls_cert)),
            ("REDIS_TLS_KEY", optional(&redis.tls_key)),
        ]);
    }
    settings.into_iter().map(|(name, value)| (format!("{VARIABLE_PREFIX}{name}"), value)).collect()
}

#[cfg(all(test, feature = "config"))]
mod tests;
