//! Objects that this process has been told of, and that are answered without asking as long as nothing has changed.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::session::Lent;
use crate::local::{Counters, Fingerprints};
use crate::object::Object;

const SHARD_COUNT: usize = 16;

/// Objects of one shard. Those that are sent are at most 32 KiB long, so that all together are at most 32 MiB.
const OBJECTS_MAX: usize = 64;

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
        let replaced = shard.by_fingerprint.insert(fingerprint, entry);
        if replaced.is_none() {
            shard.order.push_back(fingerprint);
        }
        let oldest = if shard.order.len() > OBJECTS_MAX { shard.order.pop_front() } else { None };
        let oldest = oldest.and_then(|oldest| shard.by_fingerprint.remove(&oldest));
        drop(shard);
        drop((replaced, oldest));
    }

    fn forget(&self, fingerprint: u64) {
        let mut shard = self.shard(fingerprint).write();
        let forgotten = shard.by_fingerprint.remove(&fingerprint);
        if forgotten.is_some() {
            shard.order.retain(|other| *other != fingerprint);
        }
        drop(shard);
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
