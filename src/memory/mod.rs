//! The `memory` backend: objects in this process's memory, gone with it.

mod payloads;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::backend::{Backend, OnStored, Stored, Usage, Writer};
use crate::error::Error;
use crate::object::Object;
use payloads::{Incoming, Payload, Payloads, Room};

/// Enough that threads on different ids rarely meet.
const SHARD_COUNT: usize = 64;

/// About what an object takes besides its id and its bytes: entries in two hash tables, reference counts, allocation headers. It counts
/// against the capacity, so that empty objects cannot fill the memory unnoticed.
const OBJECT_BYTES: u64 = 256;

/// Settings of the `memory` backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
#[serde(default, deny_unknown_fields)]
pub struct MemoryOptions {
    /// Most memory that objects may take, in MiB; a put beyond it fails. Default 0: half of the machine's (or container's) memory.
    pub max_size_mb: u64,
}

/// The `memory` backend.
pub(crate) struct MemoryBackend {
    objects: Arc<Objects>,
    payloads: Arc<Payloads>,
}

/// Id -> payload.
struct Objects {
    shards: Vec<Shard>,
}

type Shard = RwLock<HashMap<Box<[u8]>, Entry>>;

/// An id's payload, and the room that the id itself takes.
struct Entry {
    payload: Arc<Payload>,
    _room: Room,
}

impl MemoryBackend {
    pub fn open(options: &MemoryOptions) -> Self {
        let capacity_bytes = match options.max_size_mb {
            0 => memory_bytes() / 2,
            megabytes => megabytes.saturating_mul(1 << 20),
        };
        let shards = std::iter::repeat_with(Shard::default).take(SHARD_COUNT).collect();
        MemoryBackend { objects: Arc::new(Objects { shards }), payloads: Arc::new(Payloads::new(capacity_bytes)) }
    }

    fn entry(&self, id: &[u8], payload: Arc<Payload>) -> Result<Entry, Error> {
        Ok(Entry { payload, _room: object_room(&self.payloads, id)? })
    }
}

impl Objects {
    fn shard(&self, id: &[u8]) -> &Shard {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        &self.shards[xxh3_64(id) as usize % SHARD_COUNT]
    }

    fn insert(&self, id: &[u8], entry: Entry, stored: OnStored<'_>) {
        let payload = Arc::clone(&entry.payload);
        let mut shard = self.shard(id).write();
        let replaced = shard.insert(id.into(), entry);
        stored(Stored::now(&|| Some(payload.object.clone())));
        drop(shard);
        drop(replaced); // frees its bytes outside the lock
    }
}

fn object_room(payloads: &Arc<Payloads>, id: &[u8]) -> Result<Room, Error> {
    payloads.room(id, id.len() as u64 + OBJECT_BYTES)
}

impl Backend for MemoryBackend {
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        let payload = self.payloads.store(id, data, metadata)?;
        self.objects.insert(id, self.entry(id, payload)?, stored);
        Ok(())
    }

    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        Ok(Box::new(MemoryWriter {
            id: id.into(),
            room: object_room(&self.payloads, id)?,
            incoming: Payloads::receive(&self.payloads, id, data_bytes, metadata)?,
            objects: Arc::clone(&self.objects),
        }))
    }

    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        Ok(self.objects.shard(id).read().get(id).map(|entry| entry.payload.object.clone()))
    }

    fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        Ok(self.objects.shard(id).read().contains_key(id))
    }

    fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        let removed = self.objects.shard(id).write().remove(id);
        Ok(removed.is_some())
    }

    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error> {
        let payload = match self.objects.shard(original).read().get(original) {
            Some(entry) => Arc::clone(&entry.payload),
            None => return Ok(false),
        };
        self.objects.insert(new, self.entry(new, payload)?, stored);
        Ok(true)
    }

    fn usage(&self) -> Usage {
        Usage {
            objects: self.objects.shards.iter().map(|shard| shard.read().len() as u64).sum(),
            payloads: self.payloads.count(),
            payload_bytes: self.payloads.bytes(),
            capacity_bytes: self.payloads.capacity_bytes(),
            physical_bytes: self.payloads.taken_bytes(),
            damaged_objects: 0,
        }
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    fn clear(&self) -> Result<(), Error> {
        for shard in &self.objects.shards {
            let cleared = std::mem::take(&mut *shard.write());
            drop(cleared); // frees its bytes outside the lock
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

/// A streamed write.
struct MemoryWriter {
    id: Box<[u8]>,
    room: Room,
    incoming: Incoming,
    objects: Arc<Objects>,
}

impl Writer for MemoryWriter {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.incoming.write(&self.id, piece)
    }

    fn commit(self: Box<Self>, stored: OnStored<'_>) -> Result<(), Error> {
        let entry = Entry { payload: self.incoming.finish(), _room: self.room };
        self.objects.insert(&self.id, entry, stored);
        Ok(())
    }
}

/// The machine's memory, or the container's limit where that is smaller.
fn memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    let machine = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
        .fold(machine, u64::min)
}
