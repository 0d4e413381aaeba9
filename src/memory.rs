//! The `memory` backend: objects in this process's memory, gone with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;
use crate::object::{Object, ObjectId};
use crate::store::{Backend, MemoryOptions, OnStored, Usage, Writer};

const SHARD_COUNT: usize = 64;

type Shard = RwLock<HashMap<Box<[u8]>, Arc<Payload>>>;

pub(crate) struct MemoryBackend {
    shards: Vec<Shard>,
    held: Arc<Held>,
}

/// What is held in all, against the capacity.
struct Held {
    payloads: AtomicU64,
    bytes: AtomicU64,
    capacity_bytes: u64,
}

/// One stored content, shared by every id that was duplicated from it.
struct Payload {
    object: Object,
    _room: Room,
}

/// Bytes taken from the capacity, given back when dropped.
struct Room {
    held: Arc<Held>,
    bytes: u64,
}

impl MemoryBackend {
    pub fn open(options: &MemoryOptions) -> Self {
        let capacity_bytes = match options.max_size_mb {
            0 => memory_bytes() / 2,
            megabytes => megabytes.saturating_mul(1 << 20),
        };
        MemoryBackend {
            shards: std::iter::repeat_with(Shard::default).take(SHARD_COUNT).collect(),
            held: Arc::new(Held { payloads: AtomicU64::new(0), bytes: AtomicU64::new(0), capacity_bytes }),
        }
    }

    fn shard(&self, id: &[u8]) -> &Shard {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        &self.shards[xxh3_64(id) as usize % SHARD_COUNT]
    }

    fn insert(&self, id: &[u8], payload: Arc<Payload>, stored: OnStored<'_>) {
        let mut shard = self.shard(id).write();
        let object = payload.object.clone();
        let replaced = shard.insert(id.into(), payload);
        stored(&|| Some(object.clone()));
        drop(shard);
        drop(replaced);
    }
}

impl Held {
    fn take(self: &Arc<Self>, id: &[u8], bytes: u64) -> Result<Room, Error> {
        let fits = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= self.capacity_bytes);
        match self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => {
                self.payloads.fetch_add(1, Ordering::Relaxed);
                Ok(Room { held: Arc::clone(self), bytes })
            }
            Err(live_bytes) => Err(Error::Full {
                id: ObjectId::new(id),
                bytes,
                live_bytes,
                capacity_bytes: self.capacity_bytes,
                place: "memory".to_owned(),
            }),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.held.payloads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Backend for MemoryBackend {
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        let room = self.held.take(id, (data.len() + metadata.len()) as u64)?;
        let object = Object { data: Bytes::copy_from_slice(data), metadata: Bytes::copy_from_slice(metadata) };
        self.insert(id, Arc::new(Payload { object, _room: room }), stored);
        Ok(())
    }

    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        Err(Error::Config(format!("{} {} {}", id.len(), data_bytes, metadata.len())))
    }

    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        Ok(self.shard(id).read().get(id).map(|payload| payload.object.clone()))
    }

    fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        Ok(self.shard(id).read().contains_key(id))
    }

    fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        let removed = self.shard(id).write().remove(id);
        Ok(removed.is_some())
    }

    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error> {
        let Some(payload) = self.shard(original).read().get(original).map(Arc::clone) else {
            return Ok(false);
        };
        self.insert(new, payload, stored);
        Ok(true)
    }

    fn usage(&self) -> Usage {
        let bytes = self.held.bytes.load(Ordering::Relaxed);
        Usage {
            objects: self.shards.iter().map(|shard| shard.read().len() as u64).sum(),
            payloads: self.held.payloads.load(Ordering::Relaxed),
            payload_bytes: bytes,
            capacity_bytes: self.held.capacity_bytes,
            physical_bytes: bytes,
            damaged_objects: 0,
        }
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    fn clear(&self) -> Result<(), Error> {
        for shard in &self.shards {
            let cleared = std::mem::take(&mut *shard.write());
            drop(cleared);
        }
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        self.clear()
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

/// The machine's memory, or the container's limit where that is smaller.
fn memory_bytes() -> u64 {
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let machine = u64::try_from(pages).unwrap_or(0).saturating_mul(u64::try_from(page_bytes).unwrap_or(0));
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    container.map_or(machine, |limit: u64| limit.min(machine))
}
