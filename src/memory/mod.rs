//! The `memory` backend: objects in this process's memory, gone with it.

mod expirer;
mod limit;
mod objects;
mod payloads;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::backend::{Backend, ListPosition, Listed, OnStored, Page, Usage, Writer};
use crate::clock::machine_ms;
use crate::error::Error;
use crate::object::Object;
use crate::version::Version;
use expirer::Expirer;
use objects::{Entry, Objects};
use payloads::{Incoming, Lease, Payload, Payloads};

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
    /// How long objects live after they were stored, in seconds. Default: 0, for ever.
    pub object_ttl_seconds: u64,
}

/// The `memory` backend.
pub(crate) struct MemoryBackend {
    objects: Arc<Objects>,
    payloads: Arc<Payloads>,
    lifetime: Option<Duration>,
    expirer: Expirer,
}

impl MemoryBackend {
    pub fn open(options: &MemoryOptions) -> Result<Self, Error> {
        let capacity_bytes = match options.max_size_mb {
            0 => limit::memory_bytes() / 2,
            megabytes => megabytes.saturating_mul(1 << 20),
        };
        let backend = MemoryBackend {
            objects: Arc::new(Objects::new()),
            payloads: Arc::new(Payloads::new(capacity_bytes)),
            lifetime: Some(options.object_ttl_seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs),
            expirer: Expirer::default(),
        };
        if let Some(lifetime) = backend.lifetime {
            backend.expirer.start(&backend.objects, lifetime)?;
        }
        Ok(backend)
    }

    /// The payload, stored, and an entry for it. What has expired gives way to them.
    fn store(&self, id: &[u8], data: &[u8], metadata: &[u8], version: Version) -> Result<Entry, Error> {
        let store = || self.entry(id, self.payloads.store(id, data, metadata)?, version);
        self.objects.with_room(store)
    }

    fn entry(&self, id: &[u8], payload: Arc<Payload>, version: Version) -> Result<Entry, Error> {
        Ok(Entry { payload, version, deadline: deadline(self.lifetime), _room: object_room(&self.payloads, id)? })
    }
}

/// The deadline of what is stored now; None for ever.
fn deadline(lifetime: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(lifetime?)
}

/// The version of what is stored now: this process's clock, as nobody else writes here.
fn now() -> Version {
    Version::at_ms(machine_ms())
}

fn object_room(payloads: &Arc<Payloads>, id: &[u8]) -> Result<Lease, Error> {
    payloads.room(id, id.len() as u64 + OBJECT_BYTES)
}

impl Backend for MemoryBackend {
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        self.objects.insert(id, self.store(id, data, metadata, now())?, stored);
        Ok(())
    }

    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        let begin =
            || Ok((object_room(&self.payloads, id)?, Payloads::receive(&self.payloads, id, data_bytes, metadata)?));
        let (room, incoming) = self.objects.with_room(begin)?;
        let (objects, lifetime) = (Arc::clone(&self.objects), self.lifetime);
        Ok(Box::new(MemoryWriter { id: id.into(), room, incoming, objects, lifetime }))
    }

    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        Ok(self.objects.read(id, |entry| entry.payload.object.clone()))
    }

    fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        Ok(self.objects.read(id, |_| ()).is_some())
    }

    fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        Ok(self.objects.remove(id))
    }

    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error> {
        let Some(payload) = self.objects.read(original, |entry| Arc::clone(&entry.payload)) else { return Ok(false) };
        let entry = self.objects.with_room(|| self.entry(new, Arc::clone(&payload), now()))?;
        self.objects.insert(new, entry, stored);
        Ok(true)
    }

    fn list(&self, from: &ListPosition, limit: usize) -> Result<Page, Error> {
        Ok(self.objects.list(from, limit))
    }

    fn describe(&self, id: &[u8], _verify: bool) -> Result<Option<Listed>, Error> {
        Ok(self.objects.describe(id))
    }

    fn restore(
        &self,
        id: &[u8],
        object: &Object,
        version: Version,
        deadline_ms: u64,
        stored: OnStored<'_>,
    ) -> Result<bool, Error> {
        let mut entry = self.store(id, &object.data, &object.metadata, version)?;
        let remaining = Duration::from_millis(deadline_ms.saturating_sub(machine_ms()));
        entry.deadline = Some(remaining).filter(|_| deadline_ms > 0).and_then(|remaining| deadline(Some(remaining)));
        if entry.deadline.is_some() {
            self.expirer.start(&self.objects, self.lifetime.unwrap_or(remaining))?;
        }
        Ok(self.objects.insert_newer(id, entry, stored))
    }

    fn usage(&self) -> Usage {
        Usage {
            objects: self.objects.count(),
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
        self.objects.clear();
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
    room: Lease,
    incoming: Incoming,
    objects: Arc<Objects>,
    lifetime: Option<Duration>,
}

impl Writer for MemoryWriter {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        let MemoryWriter { id, incoming, objects, .. } = self;
        objects.with_room(|| incoming.write(id, piece))
    }

    fn commit(self: Box<Self>, stored: OnStored<'_>) -> Result<(), Error> {
        let MemoryWriter { id, room, incoming, objects, lifetime } = *self;
        let entry = Entry { payload: incoming.finish(), version: now(), deadline: deadline(lifetime), _room: room };
        objects.insert(&id, entry, stored);
        Ok(())
    }
}
