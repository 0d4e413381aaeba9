use std::path::Path;

use scaler_object_storage::{ObjectStore, ObjectStoreBuilder};
use tempfile::TempDir;

use crate::common::redis::RedisServer;
use crate::common::until;

/// A Redis, and directories for nodes.
pub struct World {
    pub redis: RedisServer,
    directories: Vec<TempDir>,
}

impl World {
    pub fn new(nodes: usize) -> Self {
        let directories = (0..nodes).map(|_| tempfile::tempdir().unwrap()).collect();
        World { redis: RedisServer::start(), directories }
    }

    pub fn builder(&self, node: usize) -> ObjectStoreBuilder {
        ObjectStore::builder().tiered(self.directory(node), self.redis.url()).max_size_mb(256).redis_options(
            |options| {
                options.connection_pool_size = 2;
                options.settle_ms = 500;
                // No test waits for it, and none fails because the machine is slow.
                options.response_timeout_ms = 30_000;
            },
        )
    }

    pub fn directory(&self, node: usize) -> &Path {
        self.directories[node].path()
    }

    pub fn open(&self, node: usize) -> ObjectStore {
        self.builder(node).open().unwrap()
    }

    /// Waits until Redis has a put of this id, and its event.
    pub fn until_announced(&self, id: &str) {
        let put = format!("\u{1}{}\0{id}", char::from(id.len() as u8));
        until("it is announced", || self.redis.cli(&["XRANGE", "scaler:obj:_events", "-", "+"]).contains(&put));
    }

    /// Waits until a node that hears events has heard all that were sent so far. It writes an object of its own for that.
    pub fn until_all_is_heard_by(&self, store: &ObjectStore) {
        let writer = ObjectStore::builder().redis(self.redis.url()).open().unwrap();
        for data in [&b"first"[..], b"second"] {
            writer.put(b"heard", data, b"").unwrap();
            // A copy of the first is dropped only when the event of the second is heard.
            until("it is heard", || store.get(b"heard").unwrap().is_some_and(|object| object.data == data));
        }
    }

    /// Sends an event, as a node would that nobody knows.
    pub fn announce(&self, operations: &[Vec<u8>]) {
        let batch = operations.concat();
        let entry = [&b"XADD"[..], b"scaler:obj:_events", b"*", b"n", b"somebody", b"b", &batch];
        let _: String = self.redis.command(&entry);
    }

    pub fn open_all(&self) -> Vec<ObjectStore> {
        (0..self.directories.len()).map(|node| self.open(node)).collect()
    }
}

/// One operation in an event, as `src/redis/events.rs` draws it: 1 put, 2 delete, 3 want.
pub fn operation(op: u8, id: &[u8], clock: u64) -> Vec<u8> {
    [&[op][..], &(id.len() as u16).to_le_bytes(), id, &clock.to_be_bytes(), &[0; 8]].concat()
}

/// The clock of a version above all that is written now, and not so far ahead that it is not believed.
pub fn version_ahead() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    (now + 20_000) << 16
}
