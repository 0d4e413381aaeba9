use scaler_object_storage::{ObjectStore, ObjectStoreBuilder};
use tempfile::TempDir;

use crate::common::redis::RedisServer;

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
        ObjectStore::builder().tiered(self.directories[node].path(), self.redis.url()).max_size_mb(256).redis_options(
            |options| {
                options.connection_pool_size = 2;
                options.settle_ms = 500;
                options.response_timeout_ms = 2000;
            },
        )
    }

    pub fn open(&self, node: usize) -> ObjectStore {
        self.builder(node).open().unwrap()
    }

    pub fn open_all(&self) -> Vec<ObjectStore> {
        (0..self.directories.len()).map(|node| self.open(node)).collect()
    }
}
