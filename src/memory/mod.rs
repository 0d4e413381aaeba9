//! The `memory` backend: objects in this process's memory, gone with it.

mod limit;
mod payloads;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::backend::{Backend, ListPosition, Listed, ObjectState, OnStored, Page, Stored, Usage, Writer};
use crate::error::Error;
use crate::id::ObjectId;
use crate::object::Object;
use crate::version::Version;
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

/// An id's payload, when it was stored, and the room that the id itself takes.
struct Entry {
    payload: Arc<Payload>,
    version: Version,
    _room: Room,
}

impl MemoryBackend {
    pub fn open(options: &MemoryOptions) -> Self {
        let capacity_bytes = match options.max_size_mb {
            0 => limit::memory_bytes() / 2,
            megabytes => megabytes.saturating_mul(1 << 20),
        };
        let shards = std::iter::repeat_with(Shard::default).take(SHARD_COUNT).collect();
        MemoryBackend { objects: Arc::new(Objects { shards }), payloads: Arc::new(Payloads::new(capacity_bytes)) }
    }

    fn entry(&self, id: &[u8], payload: Arc<Payload>, version: Version) -> Result<Entry, Error> {
        Ok(Entry { payload, version, _room: object_room(&self.payloads, id)? })
    }
}

/// The version of what is stored now: this process's clock, as nobody else writes here.
fn now() -> Version {
    // A clock that stands before 1970 says nothing better.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Version::at_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn listed(id: &[u8], entry: &Entry) -> Listed {
    Listed {
        id: ObjectId::new(id),
        data_bytes: entry.payload.object.data.len() as u64,
        metadata_bytes: entry.payload.object.metadata.len() as u64,
        version: Some(entry.version),
        expires_ms: None,
        state: ObjectState::Kept,
        place: "memory".to_owned(),
    }
}

/// Ids in the order in which they are listed: by the shard, in it by hash.
fn list_key(id: &[u8]) -> (usize, u64, &[u8]) {
    let hash = xxh3_64(id);
    (hash as usize % SHARD_COUNT, hash, id)
}

impl Objects {
    fn shard(&self, id: &[u8]) -> &Shard {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        &self.shards[xxh3_64(id) as usize % SHARD_COUNT]
    }

    /// As `insert`, unless what stands is as new or newer.
    fn insert_newer(&self, id: &[u8], entry: Entry, stored: OnStored<'_>) -> bool {
        let payload = Arc::clone(&entry.payload);
        let mut shard = self.shard(id).write();
        if shard.get(id).is_some_and(|standing| standing.version >= entry.version) {
            return false;
        }
        let replaced = shard.insert(id.into(), entry);
        stored(Stored::now(&|| Some(payload.object.clone())));
        drop(shard);
        drop(replaced); // frees its bytes outside the lock
        true
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
        self.objects.insert(id, self.entry(id, payload, now())?, stored);
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
        self.objects.insert(new, self.entry(new, payload, now())?, stored);
        Ok(true)
    }

    fn list(&self, from: &ListPosition, limit: usize) -> Result<Page, Error> {
        let after = (!from.0.is_empty()).then(|| list_key(&from.0));
        let mut page = Page::default();
        for (number, shard) in self.objects.shards.iter().enumerate().skip(after.map_or(0, |(number, ..)| number)) {
            let shard = shard.read();
            let mut keys: Vec<_> = shard.keys().map(|id| list_key(id)).filter(|key| Some(*key) > after).collect();
            let wanted = limit.saturating_sub(page.objects.len());
            if keys.len() > wanted {
                keys.select_nth_unstable(wanted);
                keys.truncate(wanted);
            }
            keys.sort_unstable();
            debug_assert!(keys.iter().all(|key| key.0 == number));
            page.objects.extend(keys.iter().filter_map(|(.., id)| Some(listed(id, shard.get(*id)?))));
            if page.objects.len() >= limit {
                page.next = page.objects.last().map(|last| ListPosition(last.id.as_bytes().to_vec()));
                break;
            }
        }
        Ok(page)
    }

    fn describe(&self, id: &[u8], _verify: bool) -> Result<Option<Listed>, Error> {
        Ok(self.objects.shard(id).read().get(id).map(|entry| listed(id, entry)))
    }

    fn restore(
        &self,
        id: &[u8],
        object: &Object,
        version: Version,
        _deadline_ms: u64,
        stored: OnStored<'_>,
    ) -> Result<bool, Error> {
        let payload = self.payloads.store(id, &object.data, &object.metadata)?;
        let entry = self.entry(id, payload, version)?;
        Ok(self.objects.insert_newer(id, entry, stored))
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
        let entry = Entry { payload: self.incoming.finish(), version: now(), _room: self.room };
        self.objects.insert(&self.id, entry, stored);
        Ok(())
    }
}
