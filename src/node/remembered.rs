//! Objects that this process has been told of, and that are answered without asking as long as nothing has changed.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::holding::Lent;
use crate::local::{Counters, Fingerprints};
use crate::object::Object;

const SHARD_COUNT: usize = 16;

/// Objects of one shard, ...
const OBJECTS_MAX: usize = 64;

/// ... and bytes of copies of them: 32 MiB of all shards together.
const COPIED_BYTES_MAX: usize = 2 << 20;

/// What a process remembers of one keeper's objects.
pub(super) struct Remembered {
    counters: Counters,
    fingerprints: Fingerprints,
    shards: [RwLock<Shard>; SHARD_COUNT],
}

#[derive(Default)]
struct Shard {
    by_fingerprint: FxHashMap<u64, Entry>,
    order: VecDeque<u64>,
    copied_bytes: usize,
}

struct Entry {
    id: Box<[u8]>,
    /// The epoch and the counter with which it was looked up.
    known: (u64, u64),
    metadata: Bytes,
    data: Data,
}

/// The bytes of an object that is remembered.
pub(super) enum Data {
    Copy(Bytes),
    /// In a segment, which the keeper may take back.
    Lent(Arc<Lent>),
}

impl Entry {
    fn copied_bytes(&self) -> usize {
        self.metadata.len() + if let Data::Copy(data) = &self.data { data.len() } else { 0 }
    }
}

impl Shard {
    fn remove(&mut self, fingerprint: u64) -> Option<Entry> {
        let removed = self.by_fingerprint.remove(&fingerprint)?;
        self.copied_bytes -= removed.copied_bytes();
        self.order.retain(|other| *other != fingerprint);
        Some(removed)
    }
}

impl Remembered {
    pub fn new(counters: Counters, fingerprints: Fingerprints) -> Self {
        Remembered { counters, fingerprints, shards: Default::default() }
    }

    fn shard(&self, fingerprint: u64) -> &RwLock<Shard> {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        &self.shards[(fingerprint >> 48) as usize % SHARD_COUNT]
    }

    /// The object, where it is remembered and nothing has changed since.
    pub fn get(&self, id: &[u8]) -> Option<Object> {
        let fingerprint = self.fingerprints.of(id);
        let (object, known) = {
            let shard = self.shard(fingerprint).read();
            let entry = shard.by_fingerprint.get(&fingerprint).filter(|entry| *entry.id == *id)?;
            // Its bytes first: once they are held nobody else may have them.
            let data = match &entry.data {
                Data::Copy(data) => Some(data.clone()),
                Data::Lent(lent) => lent.hand_out(),
            };
            (data.map(|data| Object { data, metadata: entry.metadata.clone() }), entry.known)
        };
        match object {
            Some(object) if self.counters.now(fingerprint) == known && self.counters.is_alive() => Some(object),
            _ => {
                self.forget(fingerprint);
                None
            }
        }
    }

    /// Remembers what was told with this epoch and counter.
    pub fn insert(&self, id: &[u8], known: (u64, u64), metadata: Bytes, data: Data) {
        let fingerprint = self.fingerprints.of(id);
        let entry = Entry { id: id.into(), known, metadata, data };
        let mut shard = self.shard(fingerprint).write();
        let mut forgotten = vec![shard.remove(fingerprint)];
        shard.copied_bytes += entry.copied_bytes();
        shard.by_fingerprint.insert(fingerprint, entry);
        shard.order.push_back(fingerprint);
        while (shard.order.len() > OBJECTS_MAX || shard.copied_bytes > COPIED_BYTES_MAX)
            && let Some(oldest) = shard.order.front().copied()
        {
            forgotten.push(shard.remove(oldest));
        }
        // What is dropped gives slots back: not under the lock.
        drop(shard);
        drop(forgotten);
    }

    fn forget(&self, fingerprint: u64) {
        let forgotten = self.shard(fingerprint).write().remove(fingerprint);
        drop(forgotten);
    }

    /// Forgets everything: its keeper is gone.
    pub fn clear(&self) {
        for shard in &self.shards {
            let forgotten = std::mem::take(&mut *shard.write());
            drop(forgotten);
        }
    }
}
