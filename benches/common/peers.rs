//! The stores that are compared, behind one interface.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use redb::{ReadableDatabase, TableDefinition};
use scaler_object_storage::ObjectStore;

use crate::common::Id;

/// What a store in memory may hold: more than any benchmark puts in.
const MEMORY_BYTES: u64 = 4 << 30;

/// What the stores may keep in caches of their own: less than the working set, so that a get of any but small objects is one from
/// the page cache, as it is for `local`, which has no cache.
const CACHE_BYTES: u64 = 64 << 20;

pub trait Peer {
    fn name(&self) -> &'static str;

    fn put(&self, id: &Id, data: &[u8]);

    /// Gets the data and looks at its first and last byte. None where the peer has no get.
    fn get(&self, id: &Id) -> Option<usize>;

    fn delete(&self, id: &Id);

    /// Whether it writes to no disk.
    fn in_memory(&self) -> bool {
        false
    }

    /// Whether it can only put.
    fn only_puts(&self) -> bool {
        false
    }
}

/// The peers in the order of the columns; the first is what the others are compared with.
pub fn open_all(directory: &Path) -> Vec<Box<dyn Peer>> {
    let path = |name: &str| directory.join(name);
    vec![
        Box::new(Ours::local(&path("local"))),
        Box::new(Ours::memory()),
        Box::new(Sled::open("sled", &path("sled"), CACHE_BYTES)),
        Box::new(Sled::open("sled 1 GiB", &path("sled-default"), 1 << 30)),
        Box::new(Fjall::open(&path("fjall"))),
        Box::new(Redb::open(&path("redb"))),
        Box::new(QuickCache::new()),
        Box::new(Moka::new()),
        Box::new(Pwrite::open(path("pwrite"))),
    ]
}

fn look(data: &[u8]) -> Option<usize> {
    black_box((data.first(), data.last()));
    Some(data.len())
}

/// This crate's store.
struct Ours {
    name: &'static str,
    store: ObjectStore,
}

impl Ours {
    fn local(path: &Path) -> Self {
        Ours { name: "local", store: ObjectStore::builder().local(path).open().unwrap() }
    }

    fn memory() -> Self {
        Ours { name: "memory", store: ObjectStore::builder().memory().max_size_mb(MEMORY_BYTES >> 20).open().unwrap() }
    }
}

impl Peer for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn in_memory(&self) -> bool {
        self.name == "memory"
    }

    fn put(&self, id: &Id, data: &[u8]) {
        self.store.put(id, data, b"").unwrap();
    }

    fn get(&self, id: &Id) -> Option<usize> {
        look(&self.store.get(id).unwrap()?.data)
    }

    fn delete(&self, id: &Id) {
        self.store.delete(id).unwrap();
    }
}

/// Also with the cache that it has by default, 1 GiB, which holds every working set here in this process's memory. It writes in the
/// background, every 500 ms: a `kill -9` takes more from it than from the others.
struct Sled {
    name: &'static str,
    database: sled::Db,
}

impl Sled {
    fn open(name: &'static str, path: &Path, cache_bytes: u64) -> Self {
        Sled { name, database: sled::Config::new().path(path).cache_capacity(cache_bytes).open().unwrap() }
    }
}

impl Peer for Sled {
    fn name(&self) -> &'static str {
        self.name
    }

    fn put(&self, id: &Id, data: &[u8]) {
        self.database.insert(id, data).unwrap();
    }

    fn get(&self, id: &Id) -> Option<usize> {
        look(&self.database.get(id).unwrap()?)
    }

    fn delete(&self, id: &Id) {
        self.database.remove(id).unwrap();
    }
}

/// With values of 1 KiB and more in blob files, as its documentation advises for large values.
struct Fjall {
    keyspace: fjall::Keyspace,
    _database: fjall::Database,
}

impl Fjall {
    fn open(path: &Path) -> Self {
        let database = fjall::Database::builder(path).cache_size(CACHE_BYTES).open().unwrap();
        let options =
            || fjall::KeyspaceCreateOptions::default().with_kv_separation(Some(fjall::KvSeparationOptions::default()));
        Fjall { keyspace: database.keyspace("objects", options).unwrap(), _database: database }
    }
}

impl Peer for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn put(&self, id: &Id, data: &[u8]) {
        self.keyspace.insert(id, data).unwrap();
    }

    fn get(&self, id: &Id) -> Option<usize> {
        look(&self.keyspace.get(id).unwrap()?)
    }

    fn delete(&self, id: &Id) {
        self.keyspace.remove(id).unwrap();
    }
}

/// A transaction for each operation, without the fsync of its default durability: the promise is then no more than the others'.
struct Redb(redb::Database);

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");

impl Redb {
    fn open(path: &Path) -> Self {
        let redb = Redb(redb::Builder::new().set_cache_size(CACHE_BYTES as usize).create(path).unwrap());
        redb.write(|_| ());
        redb
    }

    fn write(&self, change: impl FnOnce(&mut redb::Table<'_, &'static [u8], &'static [u8]>)) {
        let mut transaction = self.0.begin_write().unwrap();
        transaction.set_durability(redb::Durability::None).unwrap();
        change(&mut transaction.open_table(TABLE).unwrap());
        transaction.commit().unwrap();
    }
}

impl Peer for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn put(&self, id: &Id, data: &[u8]) {
        self.write(|table| drop(table.insert(&id[..], data).unwrap()));
    }

    fn get(&self, id: &Id) -> Option<usize> {
        let table = self.0.begin_read().unwrap().open_table(TABLE).unwrap();
        look(table.get_owned(&id[..]).unwrap()?.value())
    }

    fn delete(&self, id: &Id) {
        self.write(|table| drop(table.remove(&id[..]).unwrap()));
    }
}

/// A cache in memory: its get is about what a table lookup costs.
struct QuickCache(quick_cache::sync::Cache<Id, Bytes, ByBytes>);

#[derive(Clone)]
struct ByBytes;

impl quick_cache::Weighter<Id, Bytes> for ByBytes {
    fn weight(&self, _: &Id, data: &Bytes) -> u64 {
        data.len() as u64 + 64
    }
}

impl QuickCache {
    fn new() -> Self {
        QuickCache(quick_cache::sync::Cache::with_weighter(200_000, MEMORY_BYTES, ByBytes))
    }
}

impl Peer for QuickCache {
    fn name(&self) -> &'static str {
        "quick_cache"
    }

    fn in_memory(&self) -> bool {
        true
    }

    fn put(&self, id: &Id, data: &[u8]) {
        self.0.insert(*id, Bytes::copy_from_slice(data));
    }

    fn get(&self, id: &Id) -> Option<usize> {
        look(&self.0.get(id)?)
    }

    fn delete(&self, id: &Id) {
        self.0.remove(id);
    }
}

/// A cache in memory.
struct Moka(moka::sync::Cache<Id, Bytes>);

impl Moka {
    fn new() -> Self {
        let weigher = |_: &Id, data: &Bytes| u32::try_from(data.len() + 64).unwrap_or(u32::MAX);
        Moka(moka::sync::Cache::builder().max_capacity(MEMORY_BYTES).weigher(weigher).build())
    }
}

impl Peer for Moka {
    fn name(&self) -> &'static str {
        "moka"
    }

    fn in_memory(&self) -> bool {
        true
    }

    fn put(&self, id: &Id, data: &[u8]) {
        self.0.insert(*id, Bytes::copy_from_slice(data));
    }

    fn get(&self, id: &Id) -> Option<usize> {
        look(&self.0.get(id)?)
    }

    fn delete(&self, id: &Id) {
        self.0.invalidate(id);
    }
}

/// Only the writing: `pwrite` into preallocated files, one behind the other.
struct Pwrite {
    directory: PathBuf,
    file: Mutex<Preallocated>,
}

struct Preallocated {
    file: File,
    number: u64,
    bytes: u64,
    end: u64,
}

impl Pwrite {
    const FILE_BYTES: u64 = 64 << 20;

    fn open(directory: PathBuf) -> Self {
        std::fs::create_dir_all(&directory).unwrap();
        let file = Mutex::new(Preallocated::new(&directory, 0, Self::FILE_BYTES));
        Pwrite { directory, file }
    }
}

impl Preallocated {
    fn new(directory: &Path, number: u64, bytes: u64) -> Self {
        let path = directory.join(number.to_string());
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        Preallocated { file, number, bytes, end: 0 }
    }
}

impl Peer for Pwrite {
    fn name(&self) -> &'static str {
        "pwrite"
    }

    fn put(&self, _: &Id, data: &[u8]) {
        let mut current = self.file.lock().unwrap();
        let len = data.len() as u64;
        if current.end + len > current.bytes {
            *current = Preallocated::new(&self.directory, current.number + 1, len.max(Self::FILE_BYTES));
        }
        current.file.write_all_at(data, current.end).unwrap();
        current.end += len;
    }

    fn get(&self, _: &Id) -> Option<usize> {
        None
    }

    fn delete(&self, _: &Id) {}

    fn only_puts(&self) -> bool {
        true
    }
}
