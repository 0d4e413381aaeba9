//! The objects of the `memory` backend, by id, and which of them have expired.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use xxhash_rust::xxh3::xxh3_64;

use super::payloads::{Lease, Payload};
use crate::backend::{ListPosition, Listed, ObjectState, OnStored, Page, Stored};
use crate::clock::machine_ms;
use crate::error::Error;
use crate::id::ObjectId;
use crate::version::Version;

/// Enough that threads on different ids rarely meet.
const SHARD_COUNT: usize = 64;

/// Id -> payload.
pub(super) struct Objects {
    shards: Vec<Shard>,
    /// Held while what has expired is freed, so that who finds no room sees all of it freed.
    expiring: Mutex<()>,
}

type Shard = RwLock<HashMap<Box<[u8]>, Entry>>;

/// An id's payload, when it was stored, when it expires, and the room that the id itself takes.
pub(super) struct Entry {
    pub payload: Arc<Payload>,
    pub version: Version,
    pub deadline: Option<Instant>,
    pub _room: Lease,
}

impl Entry {
    #[inline]
    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    fn listed(&self, id: &[u8]) -> Listed {
        let remaining = |deadline: Instant| deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
        Listed {
            id: ObjectId::new(id),
            data_bytes: self.payload.object.data.len() as u64,
            metadata_bytes: self.payload.object.metadata.len() as u64,
            version: Some(self.version),
            expires_ms: self.deadline.map(|deadline| machine_ms().saturating_add(remaining(deadline))),
            state: ObjectState::Kept,
            place: "memory".to_owned(),
        }
    }
}

/// Ids in the order in which they are listed: by the shard, in it by hash.
fn list_key(id: &[u8]) -> (usize, u64, &[u8]) {
    let hash = xxh3_64(id);
    (hash as usize % SHARD_COUNT, hash, id)
}

impl Objects {
    pub fn new() -> Self {
        let shards = std::iter::repeat_with(Shard::default).take(SHARD_COUNT).collect();
        Objects { shards, expiring: Mutex::new(()) }
    }

    #[inline]
    fn shard(&self, id: &[u8]) -> &Shard {
        #[expect(clippy::indexing_slicing, reason = "reduced modulo the length")]
        &self.shards[xxh3_64(id) as usize % SHARD_COUNT]
    }

    /// What `read` makes of the id's entry; None if there is none, or it has expired.
    #[inline]
    pub fn read<T>(&self, id: &[u8], read: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.shard(id).read().get(id).filter(|entry| !entry.is_over()).map(read)
    }

    pub fn insert(&self, id: &[u8], entry: Entry, stored: OnStored<'_>) {
        let payload = Arc::clone(&entry.payload);
        let mut shard = self.shard(id).write();
        let replaced = shard.insert(id.into(), entry);
        stored(Stored::now(&|| Some(payload.object.clone())));
        drop(shard);
        drop(replaced); // frees its bytes outside the lock
    }

    /// As `insert`, unless what stands is as new or newer, or the entry has expired.
    pub fn insert_newer(&self, id: &[u8], entry: Entry, stored: OnStored<'_>) -> bool {
        if entry.is_over() {
            return false;
        }
        let payload = Arc::clone(&entry.payload);
        let mut shard = self.shard(id).write();
        if shard.get(id).is_some_and(|standing| standing.version >= entry.version && !standing.is_over()) {
            return false;
        }
        let replaced = shard.insert(id.into(), entry);
        stored(Stored::now(&|| Some(payload.object.clone())));
        drop(shard);
        drop(replaced); // frees its bytes outside the lock
        true
    }

    /// Whether the id had an object, which it has no more.
    pub fn remove(&self, id: &[u8]) -> bool {
        let removed = self.shard(id).write().remove(id);
        removed.is_some_and(|removed| !removed.is_over())
    }

    /// Removes what has expired.
    pub fn expire(&self) {
        let _expiring = self.expiring.lock();
        for shard in &self.shards {
            let expired: Vec<_> = shard.write().extract_if(|_, entry| entry.is_over()).collect();
            drop(expired); // frees their bytes outside the lock
        }
    }

    /// Calls what needs room; if there is none, once more when what has expired has given way. A call that fails has changed nothing.
    pub fn with_room<T>(&self, mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        match attempt() {
            Err(Error::Full { .. }) => {
                self.expire();
                attempt()
            }
            result => result,
        }
    }

    pub fn list(&self, from: &ListPosition, limit: usize) -> Page {
        let after = (!from.0.is_empty()).then(|| list_key(&from.0));
        let mut page = Page::default();
        for (number, shard) in self.shards.iter().enumerate().skip(after.map_or(0, |(number, ..)| number)) {
            let shard = shard.read();
            let living = shard.iter().filter(|(_, entry)| !entry.is_over());
            let mut keys: Vec<_> = living.map(|(id, _)| list_key(id)).filter(|key| Some(*key) > after).collect();
            let wanted = limit.saturating_sub(page.objects.len());
            if keys.len() > wanted {
                keys.select_nth_unstable(wanted);
                keys.truncate(wanted);
            }
            keys.sort_unstable();
            debug_assert!(keys.iter().all(|key| key.0 == number));
            page.objects.extend(keys.iter().filter_map(|(.., id)| Some(shard.get(*id)?.listed(id))));
            if page.objects.len() >= limit {
                page.next = page.objects.last().map(|last| ListPosition(last.id.as_bytes().to_vec()));
                break;
            }
        }
        page
    }

    pub fn describe(&self, id: &[u8]) -> Option<Listed> {
        self.read(id, |entry| entry.listed(id))
    }

    pub fn count(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read().len() as u64).sum()
    }

    pub fn clear(&self) {
        for shard in &self.shards {
            let cleared = std::mem::take(&mut *shard.write());
            drop(cleared); // frees its bytes outside the lock
        }
    }
}
