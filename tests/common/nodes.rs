use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use scaler_object_storage::{Error, ObjectStore, RedisOptions};
use tempfile::TempDir;

use crate::common::CAPACITY_MB_MIN;

type Change = Box<dyn Fn(&mut RedisOptions) + Send + Sync>;

/// Stores that share one Redis, each with a directory of its own where its backend has one.
pub struct Nodes {
    pub backend: &'static str,
    pub url: String,
    changes: Vec<Change>,
    directories: Mutex<Vec<TempDir>>,
}

impl Nodes {
    /// `redis` or `tiered`.
    pub fn new(backend: &'static str, url: impl Into<String>) -> Nodes {
        Nodes { backend, url: url.into(), changes: Vec::new(), directories: Mutex::default() }
    }

    /// How they use Redis.
    pub fn with(mut self, change: impl Fn(&mut RedisOptions) + Send + Sync + 'static) -> Nodes {
        self.changes.push(Box::new(change));
        self
    }

    /// A directory for one more node.
    pub fn directory(&self) -> PathBuf {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_path_buf();
        self.directories.lock().push(directory);
        path
    }

    /// One more node.
    pub fn open(&self) -> ObjectStore {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<ObjectStore, Error> {
        self.open_in(&self.directory())
    }

    /// A node that was open before.
    pub fn open_in(&self, directory: &Path) -> Result<ObjectStore, Error> {
        let builder = match self.backend {
            "redis" => ObjectStore::builder().redis(&self.url),
            "tiered" => ObjectStore::builder().tiered(directory, &self.url).max_size_mb(16 * CAPACITY_MB_MIN),
            other => panic!("no nodes with backend {other}"),
        };
        builder.redis_options(|options| self.changes.iter().for_each(|change| change(options))).open()
    }

    /// Whether a write is in Redis when it is acknowledged.
    pub fn are_synchronous(&self) -> bool {
        self.backend == "redis"
    }
}
