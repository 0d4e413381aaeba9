use std::path::Path;

use scaler_object_storage::{ObjectStore, ObjectStoreBuilder, RedisOptions, ReplicationStats};
use tempfile::TempDir;

use crate::common::bytes;
use crate::common::redis::{Mode, Proxy, RedisServer};

/// Directories for nodes.
pub struct World {
    directories: Vec<TempDir>,
}

impl World {
    pub fn new(nodes: usize) -> Self {
        crate::log::keep();
        World { directories: (0..nodes).map(|_| tempfile::tempdir().unwrap()).collect() }
    }

    pub fn builder(&self, node: usize, url: &str, change: impl FnOnce(&mut RedisOptions)) -> ObjectStoreBuilder {
        ObjectStore::builder().tiered(self.directory(node), url).max_size_mb(64).redis_options(|options| {
            options.connection_pool_size = 2;
            // No test waits for it, and none fails because the machine is slow.
            options.response_timeout_ms = 30_000;
            change(options);
        })
    }

    pub fn open(&self, node: usize, url: &str, change: impl FnOnce(&mut RedisOptions)) -> ObjectStore {
        self.builder(node, url, change).open().unwrap()
    }

    pub fn directory(&self, node: usize) -> &Path {
        self.directories[node].path()
    }
}

/// Whether something stands under the id's key.
pub fn stands(redis: &RedisServer, id: &str) -> bool {
    redis.command::<i64>(&["EXISTS", &key(id)]) == 1
}

pub fn key(id: &str) -> String {
    let hex: String = id.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("scaler:obj:{hex}")
}

/// A number in INFO.
pub fn number(redis: &RedisServer, field: &str) -> u64 {
    redis.info(field).parse().unwrap_or_else(|_| panic!("{field}"))
}

/// What a process leaves that is killed now.
pub fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A store with so many records of 2000 bytes that Redis has yet to get, more than go together, and then what `put` writes, and as many again.
pub fn backlog(world: &World, proxy: &Proxy, url: &str, records: u64, put: impl FnOnce(&ObjectStore)) -> ObjectStore {
    proxy.set(Mode::Refuse);
    let store = world.open(0, url, |options| options.settle_ms = 600_000);
    let write = |name: &str| {
        for number in 0..records {
            store.put(format!("{name} {number}").as_bytes(), &bytes(number, 2000), b"").unwrap();
        }
    };
    write("before");
    put(&store);
    write("after");
    store
}

pub fn replication(store: &ObjectStore) -> ReplicationStats {
    store.stats().unwrap().replication.unwrap()
}

/// How many objects of the backlog Redis has.
pub fn objects(redis: &RedisServer) -> u64 {
    redis.command::<Vec<String>>(&["KEYS", "scaler:obj:6*"]).len() as u64
}
