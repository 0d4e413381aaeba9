//! The payloads of the `memory` backend: their share of the capacity, and how equal ones are found and shared.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128_with_seed};

use crate::error::Error;
use crate::id::ObjectId;
use crate::object::Object;

/// Smaller payloads are not looked up, as sharing them saves less than it costs.
const SHARED_BYTES_MIN: usize = 1 << 10;

/// Most payloads in the table by which equal ones are found. Beyond that, new payloads are stored but not shared. At about 50 bytes for
/// each, the full table takes 50 MB.
const SHARED_COUNT_MAX: usize = 1 << 20;

const SHARD_COUNT: usize = 64;

/// The smallest step in which a streamed payload's buffer grows (or its announced length): smaller ones would be many reallocations.
const INCOMING_BYTES_MIN: u64 = 64 << 10;

/// The stored payloads: what they take of the capacity, and which equal ones share their bytes.
pub(super) struct Payloads {
    capacity_bytes: u64,
    /// Everything that counts against the capacity, including what only readers still hold.
    taken_bytes: AtomicU64,
    count: AtomicU64,
    bytes: AtomicU64,
    /// Payloads by hash, as candidates for sharing. The entries are weak; a payload removes its own when it is dropped.
    by_hash: Vec<Mutex<HashMap<u128, Weak<Payload>>>>,
}

/// One stored content, shared by every id that holds it.
pub(super) struct Payload {
    pub object: Object,
    hash: Option<u128>,
    payloads: Arc<Payloads>,
}

/// Bytes taken from the capacity, given back when dropped.
pub(super) struct Lease {
    payloads: Arc<Payloads>,
    bytes: u64,
}

/// The owner of handed-out `Bytes`: their memory counts against the capacity until the last one is dropped.
struct Held {
    bytes: Vec<u8>,
    _room: Lease,
}

/// A payload that arrives in pieces.
pub(super) struct Incoming {
    announced: u64,
    metadata: Bytes,
    data: Vec<u8>,
    /// For the allocated capacity of `data`.
    room: Lease,
    hash: Box<Xxh3>,
}

impl Payloads {
    pub fn new(capacity_bytes: u64) -> Self {
        Payloads {
            capacity_bytes,
            taken_bytes: AtomicU64::new(0),
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            by_hash: std::iter::repeat_with(Mutex::default).take(SHARD_COUNT).collect(),
        }
    }

    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Relaxed)
    }

    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Takes room for `id` from the capacity.
    pub fn room(self: &Arc<Self>, id: &[u8], bytes: u64) -> Result<Lease, Error> {
        let mut room = Lease { payloads: Arc::clone(self), bytes: 0 };
        room.grow(id, bytes)?;
        Ok(room)
    }

    /// The payload with this content: an equal one that is stored already, or a new copy.
    pub fn store(self: &Arc<Self>, id: &[u8], data: &[u8], metadata: &[u8]) -> Result<Arc<Payload>, Error> {
        let hash = shareable(data, metadata).then(|| xxh3_128_with_seed(data, xxh3_64(metadata)));
        if let Some(equal) = hash.and_then(|hash| self.find(hash, data, metadata)) {
            return Ok(equal);
        }
        self.check_size(id, (data.len() + metadata.len()) as u64)?;
        let object = Object { data: self.copy(id, data)?, metadata: self.copy(id, metadata)? };
        Ok(self.add(object, hash))
    }

    /// Begins a payload of `announced` bytes of data; memory is allocated as they arrive.
    pub fn receive(self: &Arc<Self>, id: &[u8], announced: u64, metadata: &[u8]) -> Result<Incoming, Error> {
        self.check_size(id, announced)?;
        Ok(Incoming {
            announced,
            metadata: self.copy(id, metadata)?,
            data: Vec::new(),
            room: self.room(id, 0)?,
            hash: Box::new(Xxh3::with_seed(xxh3_64(metadata))),
        })
    }

    fn check_size(&self, id: &[u8], bytes: u64) -> Result<(), Error> {
        if bytes > self.capacity_bytes {
            return Err(Error::TooLarge { id: ObjectId::new(id), bytes, bytes_max: self.capacity_bytes });
        }
        Ok(())
    }

    fn copy(self: &Arc<Self>, id: &[u8], bytes: &[u8]) -> Result<Bytes, Error> {
        let room = self.room(id, bytes.len() as u64)?;
        Ok(held(bytes.to_vec(), room))
    }

    fn add(self: &Arc<Self>, object: Object, hash: Option<u128>) -> Arc<Payload> {
        self.count.fetch_add(1, Relaxed);
        self.bytes.fetch_add(object.len() as u64, Relaxed);
        let payload = Arc::new(Payload { object, hash, payloads: Arc::clone(self) });
        if let Some(hash) = hash {
            let mut shard = self.shard(hash).lock();
            let full = shard.len() >= SHARED_COUNT_MAX / SHARD_COUNT;
            match shard.entry(hash) {
                Entry::Occupied(mut entry) if entry.get().strong_count() == 0 => {
                    entry.insert(Arc::downgrade(&payload));
                }
                Entry::Vacant(entry) if !full => {
                    entry.insert(Arc::downgrade(&payload));
                }
                _ => {}
            }
        }
        payload
    }

    /// The stored payload with this content, if the table has it. The hash finds a candidate, and its bytes decide.
    fn find(&self, hash: u128, data: &[u8], metadata: &[u8]) -> Option<Arc<Payload>> {
        // Neither compared nor dropped under the lock: dropping the last reference takes it again.
        let candidate = self.shard(hash).lock().get(&hash).and_then(Weak::upgrade)?;
        (candidate.object.data == data && candidate.object.metadata == metadata).then_some(candidate)
    }

    fn shard(&self, hash: u128) -> &Mutex<HashMap<u128, Weak<Payload>>> {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        &self.by_hash[hash as usize % SHARD_COUNT]
    }
}

impl Incoming {
    pub fn write(&mut self, id: &[u8], piece: &[u8]) -> Result<(), Error> {
        let needed = self.data.len() as u64 + piece.len() as u64;
        let capacity = self.data.capacity() as u64;
        if needed > capacity {
            // Doubling, but never beyond what was announced: the last step ends there exactly.
            let wanted = needed.max(capacity * 2).max(INCOMING_BYTES_MIN).min(self.announced.max(needed));
            self.room.grow(id, wanted.saturating_sub(self.room.bytes))?;
            let additional = usize::try_from(wanted - self.data.len() as u64).unwrap_or(usize::MAX);
            if self.data.try_reserve_exact(additional).is_err() {
                return Err(self.room.full(id, wanted));
            }
        }
        self.data.extend_from_slice(piece);
        self.hash.update(piece);
        Ok(())
    }

    /// The payload of the bytes written, or an equal one that is stored already.
    pub fn finish(self) -> Arc<Payload> {
        let payloads = Arc::clone(&self.room.payloads);
        let hash = shareable(&self.data, &self.metadata).then(|| self.hash.digest128());
        if let Some(equal) = hash.and_then(|hash| payloads.find(hash, &self.data, &self.metadata)) {
            return equal;
        }
        payloads.add(Object { data: held(self.data, self.room), metadata: self.metadata }, hash)
    }
}

fn shareable(data: &[u8], metadata: &[u8]) -> bool {
    data.len() + metadata.len() >= SHARED_BYTES_MIN
}

fn held(bytes: Vec<u8>, room: Lease) -> Bytes {
    if bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(Held { bytes, _room: room }) }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.payloads.count.fetch_sub(1, Relaxed);
        self.payloads.bytes.fetch_sub(self.object.len() as u64, Relaxed);
        let Some(hash) = self.hash else { return };
        let mut shard = self.payloads.shard(hash).lock();
        // The entry may be that of another, living payload with this hash.
        if shard.get(&hash).is_some_and(|entry| entry.strong_count() == 0) {
            shard.remove(&hash);
        }
    }
}

impl Lease {
    fn grow(&mut self, id: &[u8], bytes: u64) -> Result<(), Error> {
        let Payloads { capacity_bytes, taken_bytes, .. } = &*self.payloads;
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| sum <= capacity_bytes);
        match taken_bytes.fetch_update(Relaxed, Relaxed, fits) {
            Ok(_) => self.bytes += bytes,
            Err(_) => return Err(self.full(id, bytes)),
        }
        Ok(())
    }

    fn full(&self, id: &[u8], bytes: u64) -> Error {
        Error::Full {
            id: ObjectId::new(id),
            bytes,
            live_bytes: self.payloads.taken_bytes(),
            capacity_bytes: self.payloads.capacity_bytes,
            place: "memory".to_owned(),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.payloads.taken_bytes.fetch_sub(self.bytes, Relaxed);
    }
}
