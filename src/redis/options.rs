//! The settings of the `redis` backend, and of the shared tier of `tiered`.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use super::url::Url;
use crate::error::Error;
use crate::id::ObjectId;

/// Whether values are compressed before they go to Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// lz4, kept where it makes a value smaller.
    #[default]
    Lz4,
    /// Values go as they are.
    None,
}

impl Compression {
    /// The value's name in the config.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Compression::Lz4 => "lz4",
            Compression::None => "none",
        }
    }
}

/// How a value is laid out in Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "lowercase")]
pub enum ValueFormat {
    /// With version and checksum, compressed, in chunks where it is large.
    #[default]
    Tiered,
    /// As the Python Redis backend writes it, so that it can read what is stored here: the last write to reach Redis wins.
    Python,
}

impl ValueFormat {
    /// The value's name in the config.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ValueFormat::Tiered => "tiered",
            ValueFormat::Python => "python",
        }
    }
}

/// Settings of the `redis` backend, and of the shared tier of the `tiered` one.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
#[serde(default, deny_unknown_fields)]
pub struct RedisOptions {
    /// Where Redis is: `redis://[user[:password]@]host[:port][/database]`, `rediss://` (TLS), `redis+unix:///socket[?db=N]`,
    /// `redis+sentinel://host:port[,host:port...]/master-name[/database]`, `redis+cluster://host:port[,host:port...]`. Default:
    /// `redis://localhost:6379/0`.
    pub url: String,
    /// Largest object, in MiB: a larger put is refused. Default: 100; 0 is no limit.
    pub max_object_size_mb: u64,
    /// What every key begins with; stores with different prefixes never see each other. Default: `scaler:obj:`.
    pub key_prefix: String,
    /// Connections that read from Redis. Default: 10.
    pub connection_pool_size: usize,
    /// Default: lz4.
    pub compression: Compression,
    /// Default: `tiered`.
    pub value_format: ValueFormat,
    /// How long a connection may take to be made, in milliseconds. Default: 2000: a SYN that is lost once is sent again after one
    /// second.
    pub connect_timeout_ms: u64,
    /// How long Redis may take to answer, in milliseconds. Default: 5000: more than a fork for a snapshot of a large Redis takes,
    /// less than a failover.
    pub response_timeout_ms: u64,
    /// How long objects live after they were stored, in seconds, by Redis's clock. Default: 0, for ever.
    pub object_ttl_seconds: u64,
    /// How long it is remembered that an object was deleted, in seconds: a node that was cut off for longer may bring it back.
    /// Default: 3600.
    pub tombstone_ttl_seconds: u64,
    /// How many replicas must have an object before it counts as replicated (not with Redis Cluster). Default: 0.
    pub wait_replicas: u32,
    /// How long closing waits for what Redis does not have yet, in milliseconds. The rest is pushed by the next open. Default:
    /// 10 000.
    pub drain_timeout_ms: u64,
    /// How long after Redis has acknowledged an object it is still pushed again when a connection breaks, in milliseconds: a
    /// failover forgets acknowledged writes. Default: 30 000.
    pub settle_ms: u64,
    /// Certificate authorities that sign Redis's certificate, in PEM, for `rediss://`. Default: the system's.
    pub tls_ca: Option<PathBuf>,
    /// The certificate that this node shows, in PEM; given together with `tls_key`. Default: none.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, in PEM. Default: none.
    pub tls_key: Option<PathBuf>,
}

impl RedisOptions {
    /// Bytes of the largest object, data and metadata together.
    pub(crate) fn object_bytes_max(&self) -> u64 {
        match self.max_object_size_mb {
            0 => u64::MAX,
            mb => mb.saturating_mul(1 << 20),
        }
    }

    /// The url as logs and other processes may see it: without user and password, and the same however it is written.
    pub(crate) fn address(&self) -> Result<String, Error> {
        Url::parse(&self.url).map(|url| url.address()).map_err(Error::Config)
    }

    /// Refuses an object of more bytes.
    pub(crate) fn check_size(&self, id: &[u8], bytes: u64) -> Result<(), Error> {
        let bytes_max = self.object_bytes_max();
        if bytes > bytes_max {
            return Err(Error::TooLarge { id: ObjectId::new(id), bytes, bytes_max });
        }
        Ok(())
    }
}

impl Default for RedisOptions {
    fn default() -> Self {
        RedisOptions {
            url: "redis://localhost:6379/0".into(),
            max_object_size_mb: 100,
            key_prefix: "scaler:obj:".into(),
            connection_pool_size: 10,
            compression: Compression::default(),
            value_format: ValueFormat::default(),
            connect_timeout_ms: 2000,
            response_timeout_ms: 5000,
            object_ttl_seconds: 0,
            tombstone_ttl_seconds: 3600,
            wait_replicas: 0,
            drain_timeout_ms: 10_000,
            settle_ms: 30_000,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
        }
    }
}

impl fmt::Debug for RedisOptions {
    /// Without the url: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions").field("key_prefix", &self.key_prefix).finish_non_exhaustive()
    }
}
