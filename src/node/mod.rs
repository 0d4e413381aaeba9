//! Processes of one machine that share one store: one of them keeps it, the others are attached.
//!
//! The keeper ([`Keeper`]) has the directory open and listens on its socket. An attached process ([`attached`]) asks it, and reads and
//! writes large bodies by itself: in files of the journal, where the slots of its session ([`session`]) keep them as they are, over the
//! end of any connection and any keeper. [`messages`] has what they say to each other, [`starting`] who becomes the keeper.

mod attached;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod interrupt;
mod keeper;
mod listening;
mod messages;
mod remembered;
mod serving;
mod session;
mod sessions;
mod socket;
mod starting;
mod writing;

use attached::{AttachOptions, Attached};
pub use keeper::{Keeper, KeeperOptions};
use starting::Starter;
pub use starting::{InheritedTurn, inherit_turn};

use std::sync::Arc;
use std::time::Duration;

use crate::backend::Waiters;
use crate::error::Error;
use crate::local::Durability;
use crate::store::{BackendKind, StoreConfig};

/// Attaches to the keeper of the config's directory.
pub(crate) fn attach(config: &StoreConfig, waiters: Arc<Waiters>) -> Result<Arc<Attached>, Error> {
    let backend = config.backend.name();
    let directory = config.directory().ok_or_else(|| {
        Error::Config(format!("the {backend} backend has no directory that processes could share; use local or tiered"))
    })?;
    if directory.to_str().is_none() {
        let shown = directory.display();
        return Err(Error::Config(format!("{shown}: a directory that processes share has a name that is UTF-8")));
    }
    let options = AttachOptions {
        expected: expectations(config),
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
    let starter = Starter {
        directory: directory.clone(),
        command: config.local.keeper_command.clone(),
        environment: starting::environment(config),
    };
    Attached::attach(directory, options, starter, waiters, backend)
}

/// What two processes must agree on to share a store, by name: a process that expects another Redis would otherwise silently get the keeper's.
fn expectations(config: &StoreConfig) -> Vec<(String, String)> {
    let mut expected = vec![
        ("backend".to_owned(), config.backend.name().to_owned()),
        ("local.max_size_mb".to_owned(), config.local.max_size_mb.to_string()),
    ];
    if config.backend == BackendKind::Tiered {
        let redis = &config.redis;
        expected.extend([
            ("redis.url".to_owned(), without_user(&redis.url)),
            ("redis.key_prefix".to_owned(), redis.key_prefix.clone()),
            ("redis.value_format".to_owned(), redis.value_format.name().to_owned()),
            ("redis.max_object_size_mb".to_owned(), redis.max_object_size_mb.to_string()),
            ("redis.object_ttl_seconds".to_owned(), redis.object_ttl_seconds.to_string()),
        ]);
    }
    expected
}

/// A url without user and password.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}
