//! What the integration tests share.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

pub mod mounted;
pub mod nodes;
pub mod redis;

use std::sync::OnceLock;
use std::time::Instant;

pub use redis_for_tests::{HANG, splitmix, until};
use scaler_object_storage::{Keeper, KeeperOptions, Object, ObjectStore, ObjectStoreBuilder};
use tempfile::TempDir;

use self::redis::RedisServer;

/// Smallest capacity that every backend accepts, in MiB.
pub const CAPACITY_MB_MIN: u64 = 16;

/// Sizes of data on both sides of every limit at which a backend changes how it keeps or hands out bytes: nothing, sharing of
/// equal payloads (1 KiB), handing out copies (16 KiB), bodies inside records (64 KiB).
pub const SIZES: &[usize] =
    &[0, 1, 7, 8, 1023, 1024, 1025, 16383, 16384, 16385, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1];

/// A backend that the contract is checked with, and where its objects are.
pub struct Fixture {
    backend: &'static str,
    directory: TempDir,
    redis: Option<RedisServer>,
    /// Keeps the store of an attached one.
    keeper: OnceLock<(Keeper, ObjectStore)>,
}

impl Fixture {
    pub fn new(backend: &'static str) -> Self {
        let redis = matches!(backend, "redis" | "tiered").then(RedisServer::start);
        Fixture { backend, directory: tempfile::tempdir().unwrap(), redis, keeper: OnceLock::new() }
    }

    /// How many payloads the store counts for so many objects of `distinct` contents: in Redis each object has its own.
    pub fn payloads(&self, distinct: u64, objects: u64) -> u64 {
        if self.backend == "redis" { objects } else { distinct }
    }

    pub fn builder(&self) -> ObjectStoreBuilder {
        match self.backend {
            "memory" => ObjectStore::builder().memory(),
            "local" | "attached" => ObjectStore::builder().local(self.directory.path()).max_size_mb(1024),
            "redis" => ObjectStore::builder().redis(self.url()),
            "tiered" => ObjectStore::builder()
                .tiered(self.directory.path(), self.url())
                .max_size_mb(1024)
                .redis_options(|options| options.settle_ms = 200),
            other => panic!("no fixture for backend {other}"),
        }
    }

    fn url(&self) -> String {
        self.redis.as_ref().unwrap().url()
    }

    pub fn open(&self) -> ObjectStore {
        self.open_built(self.builder())
    }

    pub fn open_smallest(&self) -> ObjectStore {
        self.open_built(self.builder().max_size_mb(CAPACITY_MB_MIN))
    }

    pub fn open_built(&self, builder: ObjectStoreBuilder) -> ObjectStore {
        if self.backend != "attached" {
            return builder.open().unwrap();
        }
        self.keeper.get_or_init(|| {
            let store = builder.clone().open().unwrap();
            (Keeper::listen(&store, builder.config(), KeeperOptions::default()).unwrap(), store)
        });
        builder.attach().unwrap()
    }
}

/// Whether objects outlive the store.
pub fn persists(store: &ObjectStore) -> bool {
    store.info().backend != "memory"
}

/// Bytes that look random and differ for every seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&splitmix(&mut state).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn object(data: &[u8], metadata: &[u8]) -> Object {
    Object { data: data.to_vec().into(), metadata: metadata.to_vec().into() }
}

/// The object under `id`, which must be there.
#[track_caller]
pub fn get(store: &ObjectStore, id: &[u8]) -> Object {
    store.get(id).unwrap().unwrap_or_else(|| panic!("{} is missing", String::from_utf8_lossy(id)))
}

/// A moment so late that only a test that would hang reaches it.
pub fn much_later() -> Option<Instant> {
    Some(Instant::now() + HANG)
}
